// Command memory pushes many images at once and prints how much memory the registry took meanwhile.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
)

func main() {
	url, token := flag.String("url", "", "of the registry"), flag.String("token", "", "of one who may push")
	pid, pushes, size := flag.Int("pid", 0, "of the registry's process"), flag.Int("pushes", 100, "at once"), flag.Int("size", 100, "of each, in MB")
	flag.Parse()
	if err := measure(*url, *token, *pid, *pushes, *size); err != nil {
		fmt.Fprintln(os.Stderr, "memory:", err)
		os.Exit(1)
	}
}

func measure(url, token string, pid, pushes, size int) error {
	file := make([]byte, size*1_000_000-10_000)
	_, _ = rand.Read(file)
	c := &client{url, token, file}
	if err := c.push(pushes); err != nil { // what is made once is at rest too
		return err
	}
	idle, _, err := memory(pid)
	if err != nil {
		return err
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0o200); err != nil { // proc(5): the peak begins anew
		return err
	}
	var all sync.WaitGroup
	failures := make(chan error, pushes)
	for i := range pushes {
		all.Go(func() {
			if err := c.push(i); err != nil {
				failures <- err
			}
		})
	}
	all.Wait()
	close(failures)
	if err := <-failures; err != nil {
		return err
	}
	_, peak, err := memory(pid)
	fmt.Printf("%d pushes of %d MB at once: %.0f MiB at rest, %.0f MiB at the peak: %.0f MiB more\n", pushes, size, idle, peak, peak-idle)
	return err
}

// memory returns the resident set of a process and its peak, in MiB (proc(5), status).
func memory(pid int) (now, peak float64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		_, _ = fmt.Sscanf(line, "VmRSS: %f kB", &now)
		_, _ = fmt.Sscanf(line, "VmHWM: %f kB", &peak)
	}
	return now / 1024, peak / 1024, err
}

// client pushes images that share their file and still no blob.
type client struct {
	url, token string
	file       []byte
}

func (c *client) push(i int) error {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("data/%d", i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(c.file))}); err != nil {
		return err
	}
	end := make([]byte, (512-len(c.file)%512)%512+1024)
	layer := func() io.Reader {
		return io.MultiReader(bytes.NewReader(archive.Bytes()), bytes.NewReader(c.file), bytes.NewReader(end))
	}
	length := int64(archive.Len() + len(c.file) + len(end))
	sum := sha256.New()
	if _, err := io.Copy(sum, layer()); err != nil {
		return err
	}
	digest := fmt.Sprintf("sha256:%x", sum.Sum(nil))
	config, err := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "config": map[string]any{"User": "1000"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest}}})
	if err != nil {
		return err
	}
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int64  `json:"size"`
	}
	configDigest := fmt.Sprintf("sha256:%x", sha256.Sum256(config))
	manifest, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifestType,
		"config": descriptor{"application/vnd.oci.image.config.v1+json", configDigest, int64(len(config))},
		"layers": []descriptor{{"application/vnd.oci.image.layer.v1.tar", digest, length}}})
	if err != nil {
		return err
	}
	if err := c.blob(digest, layer(), length); err != nil {
		return err
	}
	if err := c.blob(configDigest, bytes.NewReader(config), int64(len(config))); err != nil {
		return err
	}
	_, err = c.do(http.MethodPut, fmt.Sprintf("/v2/bench/memory/manifests/%d", i), manifestType, bytes.NewReader(manifest), int64(len(manifest)))
	return err
}

const manifestType = "application/vnd.oci.image.manifest.v1+json"

func (c *client) blob(digest string, body io.Reader, length int64) error {
	where, err := c.do(http.MethodPost, "/v2/bench/memory/blobs/uploads/", "", nil, 0)
	if err != nil {
		return err
	}
	if where, err = c.do(http.MethodPatch, where, "application/octet-stream", body, length); err != nil {
		return err
	}
	separator := "?"
	if strings.Contains(where, "?") {
		separator = "&"
	}
	_, err = c.do(http.MethodPut, where+separator+"digest="+digest, "", nil, 0)
	return err
}

// do returns where an answer says to go on.
func (c *client) do(method, where, contentType string, body io.Reader, length int64) (location string, err error) {
	if strings.HasPrefix(where, "/") {
		where = c.url + where
	}
	r, err := http.NewRequest(method, where, body)
	if err != nil {
		return "", err
	}
	r.SetBasicAuth("bench", c.token)
	r.ContentLength = length
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 2000))
	if err == nil && answer.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, where, answer.Status, text)
	}
	return answer.Header.Get("Location"), err
}
