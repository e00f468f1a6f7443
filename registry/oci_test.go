package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/auth"
	"waybill/promotion"
	"waybill/registry"
	"waybill/server"
)

// exchange is a request of testdata/oci.yaml and what it is answered.
type exchange struct {
	Ask, As, Send string
	Slice         []int
	Chunked       bool
	With          map[string]string
	Want          int
	Has           map[string]string
	Keep          map[string]string
	Body, Is      string
	JSON          string
	Code, Says    string
}

type ociCase struct {
	Name, Repo string
	Steps      []exchange
}

// whoAsks takes the Authorization header for a name.
type whoAsks struct {
	anybody
	known map[string]auth.Identity
}

func (w whoAsks) FromRequest(_ context.Context, authorization string) (auth.Identity, error) {
	if identity, ok := w.known[authorization]; ok {
		return identity, nil
	}
	return auth.Identity{}, artifact.Coded(artifact.Unauthentic, "UNAUTHORIZED", "nobody knows you")
}

func asking() whoAsks {
	mounter := artifact.Principal{Name: "token:mounter", Role: artifact.Pusher, Repositories: []string{"mounts/**"}}
	pulls := func(name string, actions ...string) auth.Scope {
		return auth.Scope{Type: "repository", Name: name, Actions: actions}
	}
	into, from := pulls("mounts/into", "pull", "push"), pulls("mounts/from", "pull")
	return whoAsks{known: map[string]auth.Identity{
		"":                  {Principal: artifact.Principal{Name: "token:admin", Role: artifact.Admin}},
		"somebody":          {Principal: artifact.Principal{Name: "token:somebody", Role: artifact.Admin}},
		"mounter":           {Principal: mounter},
		"mounter into":      {Principal: mounter, Scopes: []auth.Scope{into}},
		"mounter into from": {Principal: mounter, Scopes: []auth.Scope{into, from}},
		"cataloguer":        {Principal: artifact.Principal{Name: "token:cataloguer", Role: artifact.Reader, Repositories: []string{"catalog/**"}}},
	}}
}

// TestEndpoints runs testdata/oci.yaml: every endpoint of the specification, with what is optional in it.
func TestEndpoints(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/oci.yaml")
	require.NoError(t, err)
	var table struct {
		Bodies map[string]string
		Cases  []ociCase
	}
	require.NoError(t, yaml.UnmarshalWithOptions(text, &table, yaml.Strict()))
	table.Bodies["largest"] = filled(table.Bodies["empty"], artifact.MaxManifest)
	table.Bodies["too large"] = filled(table.Bodies["empty"], artifact.MaxManifest+1)

	s := newStore(t)
	cfg := s.config()
	cfg.Gate, cfg.MutableTags = promotion.NewGate(s.db), []string{"latest"}
	metrics := prometheus.NewRegistry()
	h := httptest.NewServer(server.New(server.Config{Registry: registry.New(cfg), Authenticator: asking(), AccessTokens: anybody{}, Metrics: metrics,
		Logger: slog.New(slog.DiscardHandler), Now: time.Now}).Handler())
	defer h.Close()
	for i, c := range table.Cases {
		t.Run(c.Name, func(t *testing.T) {
			if c.Repo == "" {
				c.Repo = fmt.Sprintf("cases/%d", i)
			}
			said := &conversation{t: t, http: h, bodies: table.Bodies, kept: map[string]string{"repo": c.Repo, "host": h.URL}}
			for _, e := range c.Steps {
				said.exchange(e)
			}
		})
	}
	counted, err := metrics.Gather()
	require.NoError(t, err)
	require.Contains(t, fmt.Sprint(counted), `value:"206"`, "what is sent past gin is counted as what it is")
}

// filled is a manifest of so many bytes.
func filled(config string, size int) string {
	m := func(filler string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"artifactType":"application/x","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":%d},"layers":[],"annotations":{"filler":%q}}`,
			artifact.MediaTypeManifest, artifact.DigestOf([]byte(config)), len(config), filler)
	}
	return m(strings.Repeat("x", size-len(m(""))))
}

// conversation is one case under way.
type conversation struct {
	t      *testing.T
	http   *httptest.Server
	bodies map[string]string
	kept   map[string]string
}

var placeholder = regexp.MustCompile(`<(sha256|sha512|size) ([a-z0-9 ]+)>|<([a-z]+)>`)

func (c *conversation) text(s string) string {
	return placeholder.ReplaceAllStringFunc(s, func(p string) string {
		m := placeholder.FindStringSubmatch(p)
		if m[3] != "" {
			kept, ok := c.kept[m[3]]
			require.True(c.t, ok, "nothing is kept as %s", p)
			return kept
		}
		body := c.body(m[2])
		if m[1] == "size" {
			return fmt.Sprint(len(body))
		}
		sum := artifact.NewHash(m[1])
		_, _ = io.WriteString(sum, body)
		return artifact.DigestFrom(m[1], sum).String()
	})
}

func (c *conversation) body(name string) string {
	body, ok := c.bodies[name]
	require.True(c.t, ok, "there is no body %q", name)
	return c.text(body)
}

func (c *conversation) request(e exchange) *http.Request {
	var body io.Reader
	if e.Send != "" {
		content := c.body(e.Send)
		if e.Slice != nil {
			content = content[e.Slice[0]:e.Slice[1]]
		}
		body = strings.NewReader(content)
		if e.Chunked {
			body = io.MultiReader(body) // of which nobody knows the length
		}
	}
	method, path, _ := strings.Cut(c.text(e.Ask), " ")
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.http.URL+path, body)
	require.NoError(c.t, err)
	req.Header.Set("Authorization", e.As)
	for name, value := range e.With {
		req.Header.Set(name, c.text(value))
	}
	return req
}

func (c *conversation) exchange(e exchange) {
	c.t.Helper()
	res, err := c.http.Client().Do(c.request(e))
	require.NoError(c.t, err)
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	require.NoError(c.t, err)
	require.Equal(c.t, e.Want, res.StatusCode, "%s: %.500s", e.Ask, got)
	for name, want := range e.Has {
		require.Equal(c.t, c.text(want), strings.Join(res.Header.Values(name), ", "), "%s: %s", e.Ask, name)
	}
	for name, header := range e.Keep {
		c.kept[name] = res.Header.Get(header)
		require.NotEmpty(c.t, c.kept[name], "%s: %s", e.Ask, header)
	}
	switch {
	case e.Body != "":
		require.Equal(c.t, c.body(e.Body), string(got), e.Ask)
	case e.Is != "":
		require.Equal(c.t, e.Is, string(got), e.Ask)
	case e.JSON != "":
		require.JSONEq(c.t, c.text(e.JSON), string(got), e.Ask)
	}
	if res.StatusCode >= 400 && res.Request.Method != http.MethodHead {
		c.refused(e, got)
	}
}

// refused: every refusal is the specification's error document.
func (c *conversation) refused(e exchange, got []byte) {
	c.t.Helper()
	var told struct {
		Errors []struct{ Code, Message string }
	}
	require.NoError(c.t, json.NewDecoder(bytes.NewReader(got)).Decode(&told), "%s: %s", e.Ask, got)
	require.Len(c.t, told.Errors, 1, e.Ask)
	if e.Code != "" {
		require.Equal(c.t, e.Code, told.Errors[0].Code, "%s: %s", e.Ask, got)
	}
	require.NotEmpty(c.t, told.Errors[0].Code, e.Ask)
	require.Contains(c.t, told.Errors[0].Message, c.text(e.Says), e.Ask)
}
