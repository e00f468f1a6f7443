package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
)

// image is one to push: a layer of random bytes, so that no two share a blob, a config and a manifest.
type image struct {
	layer, config, manifest content
}

// content knows its digest from before the measurement: it is servers that are measured, not how fast a client hashes.
type content struct {
	bytes  []byte
	digest string
}

func contentOf(b []byte) content { return content{b, digest(b)} }

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

func basic(token string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte("bench:"+token))
}

// randomBytes come fast: they need to differ, not to be secret.
func randomBytes(n int) []byte {
	var seed [32]byte
	_, _ = rand.Read(seed[:])
	b := make([]byte, n)
	_, _ = mathrand.NewChaCha8(seed).Read(b)
	return b
}

// newImage makes an image whose layer has about size bytes.
func newImage(size int) (image, error) {
	var archive, layer bytes.Buffer
	w := tar.NewWriter(&archive)
	for i := range 4 {
		content := randomBytes(size / 4)
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("data/%d", i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}); err != nil {
			return image{}, err
		}
		_, _ = w.Write(content)
	}
	if err := w.Close(); err != nil {
		return image{}, err
	}
	z, err := gzip.NewWriterLevel(&layer, gzip.NoCompression)
	if err != nil {
		return image{}, err
	}
	_, _ = z.Write(archive.Bytes())
	if err := z.Close(); err != nil {
		return image{}, err
	}
	img := image{layer: contentOf(layer.Bytes())}
	config, err := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "config": map[string]any{"User": "1000"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(archive.Bytes())}}})
	if err != nil {
		return image{}, err
	}
	img.config = contentOf(config)
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int    `json:"size"`
	}
	manifest, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifestType,
		"config": descriptor{"application/vnd.oci.image.config.v1+json", img.config.digest, len(img.config.bytes)},
		"layers": []descriptor{{"application/vnd.oci.image.layer.v1.tar+gzip", img.layer.digest, len(img.layer.bytes)}}})
	img.manifest = contentOf(manifest)
	return img, err
}

const manifestType = "application/vnd.oci.image.manifest.v1+json"

func newImages(n, size int) ([]image, error) {
	all := make([]image, n)
	for i := range all {
		var err error
		if all[i], err = newImage(size); err != nil {
			return nil, err
		}
	}
	return all, nil
}
