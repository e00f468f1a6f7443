// Command verdict times a push until its verdict, scan and signature are there, beside what one would do without
// Waybill: push to distribution's registry, then the trivy image and cosign sign commands. bench/verdict.sh runs it.
package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

type bench struct {
	ours, theirs     string // host:port
	token            string
	crane, trivy     string // programs
	cosign, key      string
	cache, dir, root string // Trivy's cache, scratch, the root file system's tar
}

func main() {
	var b bench
	flag.StringVar(&b.ours, "waybill", "", "HOST:PORT of Waybill")
	flag.StringVar(&b.theirs, "registry", "", "HOST:PORT of distribution's registry")
	flag.StringVar(&b.crane, "crane", "crane", "program")
	flag.StringVar(&b.trivy, "trivy", "trivy", "program")
	flag.StringVar(&b.cosign, "cosign", "cosign", "program")
	flag.StringVar(&b.key, "key", "cosign.key", "for cosign, without a password")
	flag.StringVar(&b.cache, "cache", "", "Trivy's, with the advisory database in db/")
	flag.StringVar(&b.dir, "dir", "", "scratch folder")
	flag.StringVar(&b.root, "root", "", "tar of a root file system")
	rounds := flag.Int("rounds", 5, "rounds; the median counts")
	flag.Parse()
	b.token = os.Getenv("WAYBILL_TOKEN")
	if err := b.run(context.Background(), *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "verdict:", err)
		os.Exit(1)
	}
}

// run times two images a round: one of which nothing is known, and one that shares all but a small layer with it.
func (b *bench) run(ctx context.Context, rounds int) error {
	var (
		whole, shared, push, trivy, cosign     []time.Duration
		theirs, theirsShared, upload, uploaded []time.Duration
	)
	for round := range rounds {
		first, second, err := b.images()
		if err != nil {
			return err
		}
		ours := func() error {
			t, u, err := b.waybill(ctx, first, fmt.Sprintf("a%d", round))
			if err != nil {
				return err
			}
			whole, upload = append(whole, t), append(upload, u)
			t, u, err = b.waybill(ctx, second, fmt.Sprintf("b%d", round))
			shared, uploaded = append(shared, t), append(uploaded, u)
			return err
		}
		others := func() error {
			p, s, g, err := b.commands(ctx, first, fmt.Sprintf("a%d", round))
			if err != nil {
				return err
			}
			push, trivy, cosign, theirs = append(push, p), append(trivy, s), append(cosign, g), append(theirs, p+s+g)
			p, s, g, err = b.commands(ctx, second, fmt.Sprintf("b%d", round))
			theirsShared = append(theirsShared, p+s+g)
			return err
		}
		pair := []func() error{ours, others}
		if round%2 == 1 {
			slices.Reverse(pair)
		}
		for _, f := range pair {
			if err := f(); err != nil {
				return err
			}
		}
		_ = os.RemoveAll(first)
		_ = os.RemoveAll(second)
	}
	fmt.Printf("a new image:           Waybill %s (its upload %s), push + trivy image + cosign sign %s (%s + %s + %s): %.2f\n",
		seconds(whole), seconds(upload), seconds(theirs), seconds(push), seconds(trivy), seconds(cosign), ratio(whole, theirs))
	fmt.Printf("all but a small layer: Waybill %s (its upload %s), push + trivy image + cosign sign %s: %.2f of that, %.2f of the three commands for a new image\n",
		seconds(shared), seconds(uploaded), seconds(theirsShared), ratio(shared, theirsShared), ratio(shared, theirs))
	return nil
}

func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

func seconds(all []time.Duration) string { return fmt.Sprintf("%.2f s", median(all).Seconds()) }

func ratio(a, b []time.Duration) float64 { return median(a).Seconds() / median(b).Seconds() }

// images writes two OCI layouts: the root file system with a file that no other has, and the same with a small layer more.
func (b *bench) images() (first, second string, err error) {
	base, err := b.base()
	if err != nil {
		return "", "", err
	}
	image, err := configured(base)
	if err != nil {
		return "", "", err
	}
	small, err := layerOf(map[string][]byte{"app/data": random(100_000)})
	if err != nil {
		return "", "", err
	}
	more, err := mutate.AppendLayers(image, small)
	if err != nil {
		return "", "", err
	}
	first, second = filepath.Join(b.dir, "first"), filepath.Join(b.dir, "second")
	for path, img := range map[string]v1.Image{first: image, second: more} {
		l, err := layout.Write(path, empty.Index)
		if err != nil {
			return "", "", err
		}
		if err := l.AppendImage(img); err != nil {
			return "", "", err
		}
	}
	return first, second, nil
}

// base is the root file system's layer, made another by one file at its end.
func (b *bench) base() (v1.Layer, error) {
	path := filepath.Join(b.dir, "root.tar")
	source, err := os.ReadFile(b.root)
	if err != nil {
		return nil, err
	}
	var tail bytes.Buffer
	w := tar.NewWriter(&tail)
	content := random(16)
	if err := w.WriteHeader(&tar.Header{Name: "etc/machine", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}); err != nil {
		return nil, err
	}
	_, _ = w.Write(content)
	if err := w.Close(); err != nil {
		return nil, err
	}
	// An archive ends with two or more blocks of zeros.
	if err := os.WriteFile(path, append(source[:trimmed(source)], tail.Bytes()...), 0o600); err != nil {
		return nil, err
	}
	return tarball.LayerFromFile(path, tarball.WithMediaType(types.OCILayer))
}

// trimmed is the length of an archive without the zeros at its end, in whole blocks.
func trimmed(archive []byte) int {
	n := len(bytes.TrimRight(archive, "\x00"))
	return (n + 511) / 512 * 512
}

func layerOf(files map[string][]byte) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}); err != nil {
			return nil, err
		}
		_, _ = w.Write(content)
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }, tarball.WithMediaType(types.OCILayer))
}

func configured(layer v1.Layer) (v1.Image, error) {
	image := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	image = mutate.ConfigMediaType(image, types.OCIConfigJSON)
	image, err := mutate.ConfigFile(image, &v1.ConfigFile{Architecture: "amd64", OS: "linux", Config: v1.Config{User: "1000"}, RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(image, layer)
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return []byte(hex.EncodeToString(b))[:n]
}

// waybill pushes and waits for the signature; the push's own answer is the verdict with the scan.
func (b *bench) waybill(ctx context.Context, image, tag string) (whole, push time.Duration, err error) {
	begun := time.Now()
	if err := command(ctx, b.crane, "push", "--insecure", image, b.ours+"/bench/verdict:"+tag); err != nil {
		return 0, 0, err
	}
	push = time.Since(begun)
	digest, err := b.head(ctx, tag)
	if err != nil {
		return 0, 0, err
	}
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for wait := time.Now().Add(time.Minute); ; <-look.C {
		if _, err := b.head(ctx, strings.Replace(digest, ":", "-", 1)+".sig"); err == nil {
			return time.Since(begun), push, nil
		} else if time.Now().After(wait) {
			return 0, 0, fmt.Errorf("no signature: %w", err)
		}
	}
}

func (b *bench) head(ctx context.Context, reference string) (digest string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodHead, "http://"+b.ours+"/v2/bench/verdict/manifests/"+reference, nil)
	if err != nil {
		return "", err
	}
	r.SetBasicAuth("bench", b.token)
	r.Header.Set("Accept", "*/*")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", reference, answer.Status)
	}
	return answer.Header.Get("Docker-Content-Digest"), nil
}

func (b *bench) commands(ctx context.Context, image, tag string) (push, scan, sign time.Duration, err error) {
	ref := b.theirs + "/bench/verdict:" + tag
	// Trivy keeps what it learned of layers; the first image of a round is new to it.
	for _, step := range []struct {
		took *time.Duration
		args []string
	}{
		{&push, []string{b.crane, "push", "--insecure", image, ref}},
		{&scan, []string{b.trivy, "image", "--quiet", "--image-src", "remote", "--insecure", "--skip-db-update", "--skip-java-db-update", "--skip-version-check", "--offline-scan",
			"--cache-dir", b.cache, "--format", "json", "--output", filepath.Join(b.dir, "report.json"), ref}},
		{&sign, []string{b.cosign, "sign", "--yes", "--key", b.key, "--tlog-upload=false", "--allow-http-registry", "--new-bundle-format=false", "--use-signing-config=false", ref}},
	} {
		begun := time.Now()
		if err := command(ctx, step.args[0], step.args[1:]...); err != nil {
			return 0, 0, 0, err
		}
		*step.took = time.Since(begun)
	}
	return push, scan, sign, nil
}

func command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "COSIGN_PASSWORD=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, args[0], err, bytes.TrimSpace(out))
	}
	return nil
}
