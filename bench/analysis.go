package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"
)

// uploadSize is that of the blob whose upload is timed, in bytes.
const uploadSize = 64 << 20

// analysis times an upload while layers that arrived just before are analysed, beside one after blobs of the same bytes that
// nobody analyses: they do not begin as a layer does. file is a layer, packed with gzip, whose analysis takes longer than the upload.
func analysis(ctx context.Context, t target, file string, rounds int) error {
	layer, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	c := newClient(t)
	var busy, quiet []time.Duration
	for round := range rounds + 1 {
		pair := []bool{true, false}
		if round%2 == 1 {
			slices.Reverse(pair)
		}
		for _, analysed := range pair {
			took, err := c.uploadAfter(ctx, layer, analysed)
			switch {
			case err != nil:
				return err
			case round == 0: // nothing is warm yet
			case analysed:
				busy = append(busy, took)
			default:
				quiet = append(quiet, took)
			}
		}
	}
	slices.Sort(busy)
	slices.Sort(quiet)
	b, q := busy[len(busy)/2], quiet[len(quiet)/2]
	fmt.Printf("upload of %d MiB: %.3f s while %d layers are analysed, %.3f s while none is: %.2f\n", uploadSize>>20, b.Seconds(), runtime.NumCPU(), q.Seconds(), b.Seconds()/q.Seconds())
	return nil
}

// uploadAfter uploads as many layers as there are processors, then the blob that is timed, and waits until no layer is analysed.
func (c *client) uploadAfter(ctx context.Context, layer []byte, analysed bool) (time.Duration, error) {
	const repository = "bench/analysis"
	layers := make([]content, runtime.NumCPU())
	var uploads sync.WaitGroup
	errs := make([]error, len(layers))
	for i := range layers {
		one, err := another(layer)
		if err != nil {
			return 0, err
		}
		if !analysed {
			one[0] = 'x'
		}
		layers[i] = contentOf(one)
		uploads.Go(func() { errs[i] = c.pushBlob(ctx, repository, layers[i]) })
	}
	random := randomBytes(uploadSize)
	random[0] = 'x'
	blob := contentOf(random)
	uploads.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	began := time.Now()
	if err := c.pushBlob(ctx, repository, blob); err != nil {
		return 0, err
	}
	took := time.Since(began)
	if !analysed {
		return took, nil
	}
	return took, c.awaitAnalysis(ctx, repository, layers)
}

// another returns a layer of the same content and another digest: a member follows whose header says something else, and
// whose content is padding.
func another(layer []byte) ([]byte, error) {
	var b bytes.Buffer
	b.Write(layer)
	z := gzip.NewWriter(&b)
	z.Comment = digest(randomBytes(16))
	if _, err := z.Write(make([]byte, 512)); err != nil {
		return nil, err
	}
	return b.Bytes(), z.Close()
}

// awaitAnalysis pushes an image of layers: the answer, whatever it is, comes when they are analysed.
func (c *client) awaitAnalysis(ctx context.Context, repository string, layers []content) error {
	config := contentOf([]byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`))
	if err := c.pushBlob(ctx, repository, config); err != nil {
		return err
	}
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int    `json:"size"`
	}
	var all []descriptor
	for _, l := range layers {
		all = append(all, descriptor{"application/vnd.oci.image.layer.v1.tar+gzip", l.digest, len(l.bytes)})
	}
	manifest, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifestType,
		"config": descriptor{"application/vnd.oci.image.config.v1+json", config.digest, len(config.bytes)}, "layers": all})
	if err != nil {
		return err
	}
	answer, err := c.do(ctx, c.target.pusher, "PUT", "/v2/"+repository+"/manifests/latest", manifest, manifestType, 201, 400, 403)
	if err != nil {
		return err
	}
	return drain(answer)
}
