package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// client pushes and pulls as docker does: HEAD, POST, PATCH, PUT; by tag, then by digest.
type client struct {
	http   *http.Client
	target target
	buffer []byte // of what is pulled, and dropped
}

// onlyWriter hides that it may read by itself, in small pieces.
type onlyWriter struct{ io.Writer }

func newClient(t target) *client {
	return &client{&http.Client{Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64, WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10}}, t, make([]byte, 256<<10)}
}

func (c *client) do(ctx context.Context, authorization, method, where string, body []byte, contentType string, want ...int) (*http.Response, error) {
	if strings.HasPrefix(where, "/") {
		where = c.target.url + where
	}
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	r, err := http.NewRequestWithContext(ctx, method, where, reader)
	if err != nil {
		return nil, err
	}
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	r.Header.Set("Accept", manifestType)
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, err
	}
	for _, status := range want {
		if answer.StatusCode == status {
			return answer, nil
		}
	}
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 2000))
	answer.Body.Close()
	return nil, fmt.Errorf("%s %s: %s: %s", method, where, answer.Status, text)
}

func (c *client) push(ctx context.Context, repository, tag string, img image) error {
	for _, blob := range []content{img.layer, img.config} {
		if err := c.pushBlob(ctx, repository, blob); err != nil {
			return err
		}
	}
	answer, err := c.do(ctx, c.target.pusher, "PUT", "/v2/"+repository+"/manifests/"+tag, img.manifest.bytes, manifestType, 201)
	if err != nil {
		return err
	}
	return drain(answer)
}

func (c *client) pushBlob(ctx context.Context, repository string, blob content) error {
	answer, err := c.do(ctx, c.target.pusher, "HEAD", "/v2/"+repository+"/blobs/"+blob.digest, nil, "", 200, 404)
	if err != nil {
		return err
	}
	if answer.StatusCode == http.StatusOK {
		return drain(answer)
	}
	if err := drain(answer); err != nil {
		return err
	}
	if answer, err = c.do(ctx, c.target.pusher, "POST", "/v2/"+repository+"/blobs/uploads/", nil, "", 202); err != nil {
		return err
	}
	where := answer.Header.Get("Location")
	if err := drain(answer); err != nil {
		return err
	}
	if answer, err = c.do(ctx, c.target.pusher, "PATCH", where, blob.bytes, "application/octet-stream", 202); err != nil {
		return err
	}
	where = answer.Header.Get("Location")
	if err := drain(answer); err != nil {
		return err
	}
	separator := "?"
	if strings.Contains(where, "?") {
		separator = "&"
	}
	if answer, err = c.do(ctx, c.target.pusher, "PUT", where+separator+"digest="+url.QueryEscape(blob.digest), nil, "", 201); err != nil {
		return err
	}
	return drain(answer)
}

func (c *client) pull(ctx context.Context, repository, tag string, img image) (int64, error) {
	total := int64(0)
	for _, path := range []string{"manifests/" + tag, "blobs/" + img.config.digest, "blobs/" + img.layer.digest} {
		answer, err := c.do(ctx, c.target.puller, "GET", "/v2/"+repository+"/"+path, nil, "", 200)
		if err != nil {
			return total, err
		}
		n, err := io.CopyBuffer(onlyWriter{io.Discard}, answer.Body, c.buffer)
		answer.Body.Close()
		if err != nil {
			return total, err
		}
		total += n
	}
	if total != int64(len(img.config.bytes)+len(img.layer.bytes)+len(img.manifest.bytes)) {
		return total, fmt.Errorf("pulled %d bytes of an image that has others", total)
	}
	return total, nil
}

// promote lets a deployer have an image of Waybill's: where the one who pulls is another than the one who pushes, that is a
// deployer of dev. An image is promoted once it is signed, moments after its push.
func (c *client) promote(ctx context.Context, repository, tag string) error {
	if c.target.puller == c.target.pusher {
		return nil
	}
	body := fmt.Appendf(nil, `{"service":%q,"version":%q,"environment":"dev"}`, repository, tag)
	tries := time.NewTicker(20 * time.Millisecond)
	defer tries.Stop()
	for {
		answer, err := c.do(ctx, c.target.pusher, "POST", "/api/v1/promotions", body, "application/json", 200, 201, 403, 409)
		if err != nil {
			return err
		}
		if err := drain(answer); err != nil || answer.StatusCode < 300 {
			return err
		}
		select {
		case <-tries.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// settle waits until images are signed and attested, and so are their promotions, where that is done: what a server does
// after a push or a promotion must not be done while the next thing is measured.
func settle(ctx context.Context, t target, repository func(i int) string, images []image, promoted bool) error {
	if t.pusher == "" {
		return nil
	}
	c := newClient(t)
	defer c.http.CloseIdleConnections()
	tries := time.NewTicker(20 * time.Millisecond)
	defer tries.Stop()
	said := "in-toto" // of an attestation
	if promoted && t.puller != t.pusher {
		said = "slsa.dev/verification_summary"
	}
	for i, img := range images {
		for {
			answer, err := c.do(ctx, t.pusher, "GET", "/v2/"+repository(i)+"/referrers/"+img.manifest.digest, nil, "", 200)
			if err != nil {
				return err
			}
			referrers, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			if err != nil {
				return err
			}
			if bytes.Contains(referrers, []byte(said)) {
				break
			}
			select {
			case <-tries.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

func drain(r *http.Response) error {
	_, err := io.Copy(io.Discard, r.Body)
	r.Body.Close()
	return err
}

// raw is one connection that sends the same GET again and again and costs next to nothing, so that a server is measured
// and not its client.
type raw struct {
	conn    net.Conn
	in      *bufio.Reader
	request []byte
	buffer  []byte
}

func dial(t target, path string) (*raw, error) {
	u, err := url.Parse(t.url)
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		return nil, err
	}
	request := "GET " + path + " HTTP/1.1\r\nHost: " + u.Host + "\r\nAccept: " + manifestType + "\r\n"
	if t.puller != "" {
		request += "Authorization: " + t.puller + "\r\n"
	}
	return &raw{conn, bufio.NewReaderSize(conn, 64<<10), []byte(request + "\r\n"), make([]byte, 1<<20)}, nil
}

func (r *raw) close() { r.conn.Close() }

var contentLength = []byte("content-length:")

// get returns how many bytes the body had.
func (r *raw) get() (int64, error) {
	if _, err := r.conn.Write(r.request); err != nil {
		return 0, err
	}
	status, err := r.in.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200")) {
		return 0, fmt.Errorf("answered %s", bytes.TrimSpace(status))
	}
	length := int64(-1)
	for {
		line, err := r.in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if len(line) <= 2 {
			break
		}
		if len(line) > len(contentLength) && bytes.EqualFold(line[:len(contentLength)], contentLength) {
			if length, err = strconv.ParseInt(string(bytes.TrimSpace(line[len(contentLength):])), 10, 64); err != nil {
				return 0, err
			}
		}
	}
	if length < 0 {
		return 0, errors.New("the answer has no Content-Length")
	}
	for left := length; left > 0; {
		if n := r.in.Buffered(); n > 0 {
			n, err := r.in.Discard(int(min(int64(n), left)))
			if err != nil {
				return 0, err
			}
			left -= int64(n)
			continue
		}
		n, err := r.conn.Read(r.buffer[:min(int64(len(r.buffer)), left)])
		if err != nil {
			return 0, err
		}
		left -= int64(n)
	}
	return length, nil
}
