package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"waybill/artifact"
	"waybill/server"
)

// maxAnswer bounds what the client reads of an answer, in bytes: a server is not trusted with the client's memory.
const maxAnswer = 256 << 20

// client talks to a server's /api/v1. It is all that the commands know of a server.
type client struct {
	base  string // http://127.0.0.1:8080, no slash at the end
	token string
	http  *http.Client
}

// newClient returns the client for WAYBILL_URL and WAYBILL_TOKEN, or for what `waybill login` stored.
func newClient() (*client, error) {
	stored, err := readLogin()
	if err != nil {
		return nil, err
	}
	c := &client{base: os.Getenv("WAYBILL_URL"), token: os.Getenv("WAYBILL_TOKEN")}
	if c.base == "" {
		c.base = stored.URL
	}
	if c.base == "" {
		c.base = defaultURL
	}
	if c.base, err = cleanURL(c.base); err != nil {
		return nil, err
	}
	// A stored token goes to the server it was stored for and to no other.
	if c.token == "" && c.base == stored.URL {
		c.token = stored.Token
	}
	c.http = &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSHandshakeTimeout:   10 * time.Second,
			ExpectContinueTimeout: time.Second,
		},
		// The API never redirects; following one could carry a token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// cleanURL checks a server's address; a bare HOST:PORT is taken as http for this machine and https for others.
func cleanURL(s string) (string, error) {
	if !strings.Contains(s, "://") {
		scheme := "https://"
		if host, _, _ := strings.Cut(s, ":"); host == "localhost" || strings.HasPrefix(host, "127.") {
			scheme = "http://"
		}
		s = scheme + s
	}
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return "", usagef("server address %.200q: want http://HOST:PORT or https://HOST", redact(s))
	}
	return strings.TrimRight(u.Scheme+"://"+u.Host+u.Path, "/"), nil
}

// local takes this client's server off a reference: docker wants it there, and people copy it. Another server with a
// port is refused; one without looks like the first part of a repository's name.
func (c *client) local(ref string) (string, error) {
	host, rest, ok := strings.Cut(ref, "/")
	_, mine, _ := strings.Cut(c.base, "://")
	mine, _, _ = strings.Cut(mine, "/")
	switch {
	case !ok:
		return ref, nil
	case host == mine:
		return rest, nil
	case strings.Contains(host, ":"):
		return "", usagef("%.300q is on %s, and this client asks %s: leave the host out, or set WAYBILL_URL", ref, host, c.base)
	}
	return ref, nil
}

func (c *client) localAll(refs []string) ([]string, error) {
	all := make([]string, len(refs))
	for i, ref := range refs {
		var err error
		if all[i], err = c.local(ref); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// redact hides a password that somebody wrote into a URL.
func redact(s string) string {
	if u, err := url.Parse(s); err == nil {
		return u.Redacted()
	}
	return "…"
}

// do sends a request and decodes a JSON answer into out, which may be nil.
func (c *client) do(ctx context.Context, method, path string, query url.Values, contentType string, body io.Reader, out any) error {
	res, err := c.send(ctx, method, path, query, contentType, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("the answer of %s is not what this client understands (%w); is it a Waybill server of this version?", c.base, err)
	}
	return nil
}

// send sends a request and returns the answer if it is a good one; the caller closes its body.
func (c *client) send(ctx context.Context, method, path string, query url.Values, contentType string, body io.Reader) (*http.Response, error) {
	return c.sendWith(ctx, method, path, query, contentType, body, nil)
}

// sendWith is send with more headers.
func (c *client) sendWith(ctx context.Context, method, path string, query url.Values, contentType string, body io.Reader, more http.Header) (*http.Response, error) {
	target := c.base + "/api/v1" + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	maps.Copy(req.Header, more)
	req.Header.Set("User-Agent", "waybill/"+version)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if body != nil && req.ContentLength <= 0 {
		req.Header.Set("Expect", "100-continue") // a denial should not cost the sending of a large file
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if res.StatusCode/100 == 2 {
		return res, nil
	}
	defer res.Body.Close()
	return nil, c.refusal(res)
}

func (c *client) get(ctx context.Context, path string, query url.Values, out any) error {
	return c.do(ctx, http.MethodGet, path, query, "", nil, out)
}

func (c *client) post(ctx context.Context, path string, in, out any) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodPost, path, nil, "application/json", bytes.NewReader(b), out)
}

// unreachable says what to do about a server that does not answer.
func (c *client) unreachable(ctx context.Context, err error) error {
	var unsent *artifact.Error
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &unsent):
		return unsent // what was to be sent could not be read here: the server has no part in it
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no server answers at %s: connection refused\nStart one with `waybill serve`, or set WAYBILL_URL (or run `waybill login URL`) to reach another", c.base)
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return fmt.Errorf("cannot find %s: %s\nSet WAYBILL_URL or run `waybill login URL` with the server's address", c.base, dns.Err)
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // without the URL, which is long and said once
	}
	return fmt.Errorf("cannot reach %s: %w\nCheck WAYBILL_URL and that the server runs (%s/readyz)", c.base, err, c.base)
}

// refusal reads a problem (RFC 9457) from an answer that is not a good one.
func (c *client) refusal(res *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	var p server.Problem
	if err := json.Unmarshal(b, &p); err != nil || p.Detail == "" {
		return fmt.Errorf("%s answered %s, and not as a Waybill server does; check WAYBILL_URL", c.base, res.Status)
	}
	p.Status = res.StatusCode
	if p.Status == http.StatusUnauthorized {
		p.Detail += "\nRun `waybill login " + c.base + "`, or set WAYBILL_TOKEN; a server's first token is in admin.token in its data folder"
	}
	return problemError(p)
}

// problemError is a server's no, for people: what happened, every reason on its own line, and where to look further.
type problemError server.Problem

func (p problemError) Error() string {
	var b strings.Builder
	inline := make([]string, len(p.Reasons))
	for i, r := range p.Reasons {
		inline[i] = r.String()
	}
	// A sentence that ends with its reasons is for clients that show nothing else; here each has its own line.
	detail := strings.TrimSuffix(p.Detail, ": "+strings.Join(inline, "; "))
	if len(p.Reasons) > 0 && strings.Count(detail, "\n")+1 >= len(p.Reasons) && strings.Contains(detail, inline[0]) {
		detail = "denied" // it was nothing but the reasons
	}
	b.WriteString(printable(detail))
	for _, r := range p.Reasons {
		b.WriteString("\n  " + printable(reasonLine(r)))
	}
	for _, e := range p.Errors {
		b.WriteString("\n  " + printable(e.Location+": "+e.Message))
	}
	if p.Status >= http.StatusInternalServerError && p.Status != http.StatusNotImplemented && p.RequestID != "" {
		b.WriteString("\n  request " + printable(p.RequestID))
	}
	return b.String()
}

// reasonLine is a reason with the policy and platform it comes from.
func reasonLine(r artifact.Reason) string {
	s := r.String()
	if r.Platform != "" {
		s = r.Platform + ": " + s
	}
	if r.Policy != "" {
		s += " (" + r.Policy + ")"
	}
	return s
}
