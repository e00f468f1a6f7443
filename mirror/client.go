package mirror

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"waybill/artifact"
)

// Remote is a registry elsewhere, and who Waybill is there.
type Remote struct {
	Name     string
	URL      string // https://HOST[:PORT]; http:// where Insecure
	Username string
	Password func() (string, error) // asked at each sign-in, so that it may change; nil: nobody signs in
	Insecure bool                   // without TLS, or with a certificate that nobody vouches for
}

// client speaks to one registry. Connections are shared; who signs in does so for each fetch or copy anew, so that a
// changed password is taken up.
type client struct {
	remote   Remote
	registry name.Registry
	options  []remote.Option
}

const (
	dialTime   = 10 * time.Second
	headerTime = 30 * time.Second // from the end of a request to its answer's headers
	stallTime  = 30 * time.Second // without a byte of an answer's body
)

// Check says what is wrong with the address.
func (r Remote) Check() error {
	_, _, err := r.registry()
	return err
}

func (r Remote) registry() (name.Registry, string, error) {
	u, err := url.Parse(r.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return name.Registry{}, "", errors.New("url: want https://HOST[:PORT], and nothing after it")
	}
	var options []name.Option
	if u.Scheme == "http" {
		if !r.Insecure {
			return name.Registry{}, "", errors.New("url: http:// sends everything in the clear; say insecure: true if it must be")
		}
		options = append(options, name.Insecure)
	}
	registry, err := name.NewRegistry(u.Host, options...)
	if err != nil {
		return registry, "", fmt.Errorf("url: %w", err)
	}
	return registry, u.Scheme, nil
}

func newClient(r Remote) (*client, error) {
	registry, scheme, err := r.registry()
	if err != nil {
		return nil, err
	}
	base := remote.DefaultTransport.(*http.Transport).Clone()
	base.DialContext = (&net.Dialer{Timeout: dialTime, KeepAlive: 30 * time.Second}).DialContext
	base.ResponseHeaderTimeout = headerTime
	if r.Insecure {
		base.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // what insecure: true asks for
	}
	auth := authn.Anonymous
	if r.Password != nil {
		auth = credentials{r}
	}
	return &client{remote: r, registry: registry, options: []remote.Option{
		remote.WithTransport(&careful{base: base, scheme: scheme, host: registry.RegistryStr(), insecure: r.Insecure, stall: stallTime}),
		remote.WithAuth(auth), remote.WithUserAgent("waybill"),
		remote.WithRetryBackoff(remote.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Jitter: 0.1, Steps: 2}),
	}}, nil
}

// name is how people are told of the registry.
func (c *client) name() string { return c.remote.Name + " (" + c.remote.URL + ")" }

// credentials ask for the password when somebody signs in.
type credentials struct{ remote Remote }

func (c credentials) Authorization() (*authn.AuthConfig, error) {
	password, err := c.remote.Password()
	return &authn.AuthConfig{Username: c.remote.Username, Password: password}, err
}

// careful is a transport that believes an answer neither endless, nor for ever under way, and never speaks in the clear
// unless that was asked for: go-containerregistry falls back to http:// by itself where a registry's address is private.
type careful struct {
	base         http.RoundTripper
	scheme, host string
	insecure     bool
	stall        time.Duration
}

var errStalled = errors.New("it began to answer, and then sent nothing")

func (c *careful) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host == c.host && req.URL.Scheme != c.scheme {
		return nil, fmt.Errorf("its address is %s://%s, and nothing else is asked", c.scheme, c.host)
	}
	if req.URL.Scheme != "https" && !c.insecure {
		return nil, fmt.Errorf("it sends elsewhere, to %s://%s, without TLS", req.URL.Scheme, req.URL.Host)
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	resp, err := c.base.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	body := &watched{ReadCloser: resp.Body, left: -1, stall: c.stall, cancel: cancel}
	if strings.Contains(req.URL.Path, "/manifests/") {
		body.left = artifact.MaxManifest
	}
	body.timer = time.AfterFunc(c.stall, func() { cancel(errStalled) })
	body.cause = func() error { return context.Cause(ctx) }
	resp.Body = body
	return resp, nil
}

// watched is a body that may not stall, nor be longer than left bytes unless that is negative.
type watched struct {
	io.ReadCloser
	left   int64
	stall  time.Duration
	timer  *time.Timer
	cancel context.CancelCauseFunc
	cause  func() error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	w.timer.Reset(w.stall)
	if err != nil && err != io.EOF && errors.Is(w.cause(), errStalled) { //nolint:errorlint // a wrapped EOF is not the end
		err = errStalled
	}
	if w.left >= 0 {
		if w.left -= int64(n); w.left < 0 {
			return n, fmt.Errorf("its manifest has more than %d bytes", artifact.MaxManifest)
		}
	}
	return n, err
}

func (w *watched) Close() error {
	w.timer.Stop()
	defer w.cancel(nil)
	return w.ReadCloser.Close()
}

// fault marks that another registry, rather than Waybill, failed.
type fault struct {
	err  error
	gone bool // it says that it has no such tag
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// trouble makes an answer fit to show of what went wrong with another registry. An error that has a kind is of
// Waybill's own and stays as it is.
func (c *client) trouble(what string, err error) error {
	if err == nil || artifact.KindOf(err) != "" {
		return err
	}
	kind, code := artifact.Unavailable, "UNAVAILABLE"
	switch statusOf(err) {
	case http.StatusNotFound:
		kind, code = artifact.NotFound, "MANIFEST_UNKNOWN"
	case http.StatusUnauthorized, http.StatusForbidden:
		kind, code = artifact.Denied, "DENIED"
	}
	return &artifact.Error{Kind: kind, Code: code, Message: fmt.Sprintf("%s: %s: %s", c.name(), what, why(err)), Err: &fault{err: err}}
}

// statusOf returns the HTTP status of an answer that is an error; 0 when there was no answer.
func statusOf(err error) int {
	var status *transport.Error
	if errors.As(err, &status) {
		return status.StatusCode
	}
	return 0
}

// silent reports whether a registry did not answer, or only that it fails.
func silent(err error) bool {
	var address *url.Error
	return errors.As(err, &address) || errors.Is(err, context.DeadlineExceeded) || statusOf(err) >= 500
}

// why says what went wrong in a line, without addresses that were redirected to: those may carry a signature.
func why(err error) string {
	var status *transport.Error
	var address *url.Error
	text := err.Error()
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		text = "it does not answer in time"
	case errors.As(err, &status):
		lines := []string{fmt.Sprintf("it answers %d %s", status.StatusCode, http.StatusText(status.StatusCode))}
		for _, d := range status.Errors {
			lines = append(lines, fmt.Sprintf("%s: %s", d.Code, d.Message))
		}
		text = strings.Join(lines, "; ")
	case errors.As(err, &address):
		text = address.Err.Error()
	}
	return strings.ToValidUTF8(text[:min(300, len(text))], "")
}
