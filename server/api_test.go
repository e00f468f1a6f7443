package server_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/auth"
	"waybill/server"
)

// route is one operation (with two slashes: outside of /api/v1) with a good request, and the roles that may use it; scoped is a role that may in general,
// with a token for another repository, and is refused.
type route struct {
	method, path      string
	contentType, body string
	allowed           string // roles, by spaces
	scoped            string
}

const everyone = "reader pusher promoter approver auditor deployer admin"

func routes() []route {
	const (
		lookers = "reader pusher promoter approver auditor admin"
		json    = "application/json"
		ref     = "?ref=shop%2Freturns:v456"
		policy  = "apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: p}\nspec:\n  match: {repositories: [\"**\"]}\n  rules:\n    - {rule: no-root-user, action: deny}\n"
	)
	return []route{
		{"POST", "/tokens", json, `{"role":"reader"}`, "admin", ""},
		{"GET", "/tokens", "", "", "admin", ""},
		{"DELETE", "/tokens/known", "", "", "admin", ""},
		{"POST", "/documents", "application/yaml", policy, "admin", ""},
		{"GET", "/documents", "", "", lookers, ""},
		{"GET", "/documents/policy/baseline", "", "", lookers, ""},
		{"GET", "/documents/policy/baseline/history", "", "", lookers, ""},
		{"GET", "/policies", "", "", lookers, ""},
		{"POST", "/policies/test" + ref, "application/yaml", policy, lookers, "reader"},
		{"POST", "/policies/impact", "application/yaml", policy, "auditor admin", ""},
		{"POST", "/waivers", json, `{"rule":"no-sshd","repository":"shop/**","expires":"2026-10-02T12:00:00Z","reason":"the vendor fixes it"}`, "approver admin", "approver"},
		{"GET", "/waivers", "", "", lookers, ""},
		{"DELETE", "/waivers/7", "", "", "approver admin", "approver"},
		{"POST", "/advisories", "application/octet-stream", "archive", "admin", ""},
		{"POST", "/advisories/pulls", json, `{"source":"security/trivy-db:2"}`, "admin", ""},
		{"GET", "/advisories", "", "", lookers, ""},
		{"GET", "/advisories/history", "", "", lookers, ""},
		{"GET", "/signing-keys", "", "", lookers, ""},
		{"POST", "/signing-keys", json, `{"replaces":"k1","reason":"yearly"}`, "admin", ""},
		{"POST", "/signing-keys/" + strings.Repeat("a", 64) + "/revocation", json, `{"reason":"lost","before":"2026-10-01T12:00:00Z"}`, "admin", ""},
		{"GET", "/repositories", "", "", everyone, ""},
		{"GET", "/inspect" + ref, "", "", everyone, "reader"},
		{"GET", "/verdict" + ref, "", "", everyone, "reader"},
		{"GET", "/scan" + ref, "", "", everyone, "auditor"},
		{"GET", "/compare?from=shop%2Freturns:v456&to=shop%2Freturns:v456", "", "", everyone, "reader"},
		{"GET", "/sbom" + ref + "&format=spdx", "", "", everyone, "reader"},
		{"GET", "/attestations" + ref, "", "", everyone, "reader"},
		{"GET", "/provenance" + ref, "", "", everyone, "reader"},
		{"GET", "/cves/known", "", "", everyone, ""},
		{"GET", "/show" + ref, "", "", everyone, "deployer"},
		{"GET", "/verify" + ref + "&environment=production", "", "", everyone, "deployer"},
		{"POST", "/promotions", json, `{"service":"returns","version":"v456","environment":"production"}`, "promoter admin", "promoter"},
		{"POST", "/rollbacks", json, `{"service":"returns","environment":"production"}`, "promoter admin", "promoter"},
		{"POST", "/recalls", json, `{"ref":"shop/returns:v456","reason":"CVE"}`, "promoter admin", "promoter"},
		{"POST", "/approvals", json, `{"service":"returns","version":"v456","environment":"production"}`, "approver admin", "approver"},
		{"GET", "/approvals", "", "", lookers, ""},
		{"DELETE", "/approvals/3", "", "", "approver admin", "approver"},
		{"POST", "/environments/retire", json, `{"environment":"old","reason":"the hall is closed"}`, "admin", ""},
		{"POST", "/releases", json, `{"name":"shop-1","services":[{"service":"returns","version":"v456"}]}`, "promoter admin", "promoter"},
		{"GET", "/releases", "", "", lookers, ""},
		{"GET", "/releases/shop-1", "", "", lookers, ""},
		{"POST", "/releases/shop-1/promotions", json, `{"environment":"production"}`, "promoter admin", "promoter"},
		{"GET", "/webhooks/deliveries", "", "", "auditor admin", ""},
		{"GET", "/status", "", "", everyone, ""},
		{"GET", "/history?service=returns", "", "", everyone, "reader"},
		{"GET", "/replications?service=returns", "", "", lookers, "reader"},
		{"GET", "/tags/history" + ref, "", "", lookers, "auditor"},
		{"GET", "/pulls?ref=shop%2Freturns", "", "", "auditor admin", "auditor"},
		{"GET", "/pulls.csv?ref=shop%2Freturns", "", "", "auditor admin", "auditor"},
		{"GET", "/ledger/search?kind=promotion", "", "", "auditor admin", ""},
		{"GET", "/ledger/search.csv", "", "", "auditor admin", ""},
		{"GET", "/export?ref=shop%2Freturns:v456", "", "", "auditor admin", "auditor"},
		{"POST", "/retention", json, `{}`, "admin", "admin"},
		{"GET", "/ledger/entries", "", "", "auditor admin", ""},
		{"GET", "/ledger/checkpoint", "", "", "auditor admin", ""},
		{"GET", "/ledger/proof?index=0", "", "", "auditor admin", ""},
		{"GET", "/ledger/consistency?older=1", "", "", "auditor admin", ""},
		{"GET", "//ledger/checkpoint", "", "", "auditor admin", ""},
		{"GET", "//ledger/witnessed", "", "", "auditor admin", ""},
		{"GET", "//ledger/tile/0/000.p/3", "", "", "auditor admin", ""},
		{"GET", "/audit", "", "", "auditor admin", ""},
		{"GET", "/storage", "", "", lookers, ""},
		{"GET", "/storage/runs?kind=gc", "", "", "admin", ""},
		{"POST", "/gc", json, `{}`, "admin", ""},
		{"POST", "/fsck", json, `{}`, "admin", ""},
		{"POST", "/builds?repository=shop%2Freturns&tag=v1", "application/x-tar", "tar", "pusher admin", "pusher"},
		{"GET", "/builds", "", "", lookers, ""},
		{"GET", "/builds/one", "", "", lookers, "reader"},
		{"GET", "/builds/one/log", "", "", lookers, "reader"},
		{"POST", "/builds/one/cancel", json, `{}`, "pusher admin", "pusher"},
		{"GET", "/bases?ref=shop%2Freturns:v456", "", "", lookers, "reader"},
	}
}

// anybodys are the routes that ask nobody who they are, each because there is no other way to begin.
func anybodys() []route {
	return []route{
		{"GET", "/version", "", "", "", ""},
		{"GET", "/keys", "", "", "", ""},
		{"GET", "/keys.pem", "", "", "", ""},
		{"GET", "/openapi.json", "", "", "", ""},
		{"GET", "/openapi.yaml", "", "", "", ""},
		{"GET", "/identity", "", "", "", ""},
		{"POST", "/token/exchange", "application/json", `{"token":"good"}`, "", ""},
	}
}

func TestExchange(t *testing.T) {
	t.Parallel()
	s, _ := newWorld(t).start(t)
	var in server.SignIn
	call(t, s, "", "GET", "/identity", "", "").decode(t, &in)
	require.Equal(t, []server.WorkloadSignIn{{Issuer: "https://a.example", Audience: "a"}, {Issuer: "https://b.example", Audience: "b"}}, in.Workloads)
	require.Nil(t, in.People)
	got := call(t, s, "", "POST", "/token/exchange", "application/json", `{"token":"good"}`)
	require.Equal(t, "no-store", got.header.Get("Cache-Control"))
	var out server.Exchanged
	got.decode(t, &out)
	require.Equal(t, "workload:https://a.example#job", out.Principal)
	for body, status := range map[string]int{`{"token":"bad"}`: 401, `{"token":"often"}`: 429, `{"token":""}`: 422, `{}`: 422, `{"token":"good","role":"admin"}`: 422,
		`{"token":"` + strings.Repeat("x", 20_000) + `"}`: 422} {
		got := call(t, s, "", "POST", "/token/exchange", "application/json", body)
		require.Equal(t, status, got.status, "%.60s", body)
		requireProblem(t, got)
		require.Equal(t, status == 429, got.header.Get("Retry-After") != "")
	}
}

func TestEveryRouteAsksWhoIsThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.documents = []server.Document{{Kind: "Policy", Name: "baseline", Version: 1, Body: "kind: Policy"}}
	s, engine := w.start(t)
	covered := map[string]bool{}
	for _, r := range anybodys() {
		covered[r.method+" "+r.path] = true
		require.Equal(t, 200, call(t, s, "", r.method, r.path, r.contentType, r.body).status, r.path)
	}
	for _, r := range routes() {
		path, _, _ := strings.Cut(r.path, "?")
		covered[r.method+" "+path] = true
		t.Run(r.method+" "+path, func(t *testing.T) {
			for _, who := range []string{"", "nonsense", "access-token"} {
				got := call(t, s, who, r.method, r.path, r.contentType, r.body)
				require.Equal(t, 401, got.status, "%q: %s", who, got.body)
				require.NotEmpty(t, got.header.Values("Www-Authenticate"))
				requireProblem(t, got)
			}
			for _, role := range artifact.Roles {
				got := call(t, s, string(role), r.method, r.path, r.contentType, r.body)
				if strings.Contains(" "+r.allowed+" ", " "+string(role)+" ") {
					assert.Contains(t, []int{200, 204}, got.status, "%s: %s", role, got.body)
				} else {
					assert.Equal(t, 403, got.status, "%s: %s", role, got.body)
					said := requireProblem(t, got).Detail
					assert.True(t, slices.ContainsFunc(strings.Fields(r.allowed), func(role string) bool {
						return strings.Contains(said, "role "+role) || strings.Contains(said, " or "+role)
					}),
						"%s is not told which role would do, one of %s: %s", role, r.allowed, said)
				}
			}
			if r.scoped != "" {
				got := call(t, s, "scoped-"+r.scoped, r.method, r.path, r.contentType, r.body)
				assert.Equal(t, 403, got.status, "scoped: %s", got.body)
				assert.Contains(t, requireProblem(t, got).Detail, "bound to", "which binding would do")
			}
		})
	}
	for _, r := range engine.Routes() {
		path, below := strings.CutPrefix(r.Path, "/api/v1")
		if !below {
			path = "/" + path
		}
		path = strings.NewReplacer(":waiver", "7", ":build", "one", ":approval", "3", ":release", "shop-1", ":key", strings.Repeat("a", 64), ":id", "known", ":kind", "policy", ":name", "baseline", "*path", "0/000.p/3").Replace(path)
		assert.True(t, covered[r.Method+" "+path], "%s %s is in no row of the table", r.Method, r.Path)
	}
}

func requireProblem(t *testing.T, a answer) server.Problem {
	t.Helper()
	var p server.Problem
	require.Equal(t, "application/problem+json", a.header.Get("Content-Type"))
	a.decode(t, &p)
	require.Equal(t, a.status, p.Status)
	require.NotEmpty(t, p.Detail)
	require.NotEmpty(t, p.RequestID)
	require.Equal(t, a.header.Get("X-Request-Id"), p.RequestID)
	return p
}

func TestReplicationsAreOfTheCallersRepositories(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	var all, some server.ReplicationList
	call(t, s, "auditor", "GET", "/replications", "", "").decode(t, &all)
	require.Len(t, all.Replications, 2)
	call(t, s, "scoped-reader", "GET", "/replications", "", "").decode(t, &some)
	require.Len(t, some.Replications, 1)
	require.Equal(t, "it is away", some.Replications[0].Problem)
}

func TestDeployerKnowsOnlyWhatIsPromoted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	for _, endpoint := range []string{"inspect", "verdict", "scan", "show", "verify"} {
		for name, ref := range map[string]string{"not promoted": "shop/returns:v457", "by digest": "shop/returns@" + w.waiting.String(),
			"absent": "shop/returns:nothing", "absent digest": "shop/returns@" + artifact.DigestOf([]byte("x")).String(), "elsewhere": "other/thing:v1", "refused push": "shop/returns:rooted"} {
			got := call(t, s, "deployer", "GET", "/"+endpoint+"?ref="+url.QueryEscape(ref), "", "")
			assert.Equal(t, 403, got.status, "%s %s: %s", endpoint, name, got.body)
		}
		got := call(t, s, "deployer", "GET", "/"+endpoint+"?ref=shop/returns:production", "", "")
		assert.Equal(t, 200, got.status, "%s: %s", endpoint, got.body)
	}
	var repositories server.RepositoryList
	call(t, s, "deployer", "GET", "/repositories", "", "").decode(t, &repositories)
	require.Equal(t, []artifact.Repository{w.shop}, repositories.Repositories)
	var board server.Board
	call(t, s, "deployer", "GET", "/status", "", "").decode(t, &board)
	require.Len(t, board.Cells, 1)
	require.Equal(t, w.promoted, board.Cells[0].Digest)
	for _, who := range []string{"deployer", "scoped-reader"} {
		absent := requireProblem(t, call(t, s, who, "GET", "/history?service=unknown", "", ""))
		hidden := requireProblem(t, call(t, s, "scoped-reader", "GET", "/history?service=returns", "", ""))
		require.Equal(t, 403, absent.Status)
		require.Equal(t, 403, hidden.Status)
	}
	absent := requireProblem(t, call(t, s, "scoped-promoter", "POST", "/rollbacks", "application/json", `{"service":"absent","environment":"production"}`))
	hidden := requireProblem(t, call(t, s, "scoped-promoter", "POST", "/rollbacks", "application/json", `{"service":"returns","environment":"production"}`))
	require.Equal(t, strings.ReplaceAll(absent.Detail, "absent", "returns"), hidden.Detail, "what is not there and what is not yours look the same")
	call(t, s, "reader", "GET", "/status", "", "").decode(t, &board)
	require.Len(t, board.Cells, 2)
	call(t, s, "scoped-reader", "GET", "/status", "", "").decode(t, &board)
	require.Len(t, board.Cells, 1)
	require.Equal(t, w.other, board.Cells[0].Repository)
}

func TestDescriptionIsWholeAndValid(t *testing.T) {
	t.Parallel()
	s, engine := newWorld(t).start(t)
	got := call(t, s, "", "GET", "/openapi.json", "", "")
	require.Equal(t, 200, got.status)
	require.Equal(t, 200, call(t, s, "", "GET", "/openapi.yaml", "", "").status)
	document, err := openapi3.NewLoader().LoadFromData(got.body)
	require.NoError(t, err)
	require.NoError(t, document.Validate(t.Context()))
	for _, r := range engine.Routes() {
		if strings.HasPrefix(r.Path, "/api/v1/openapi") || !strings.HasPrefix(r.Path, "/api/v1/") {
			continue // what is outside is described by C2SP tlog-tiles
		}
		path := strings.NewReplacer(":waiver", "{waiver}", ":build", "{build}", ":approval", "{approval}", ":release", "{release}", ":key", "{key}", ":id", "{id}", ":kind", "{kind}", ":name", "{name}").Replace(r.Path)
		item := document.Paths.Find(path)
		require.NotNil(t, item, path)
		operation := item.GetOperation(r.Method)
		require.NotNil(t, operation, "%s %s", r.Method, path)
		require.NotNil(t, operation.Responses.Default(), path)
		if !slices.ContainsFunc(anybodys(), func(r route) bool { return "/api/v1"+r.path == path }) {
			require.NotEmpty(t, operation.Security, path)
			require.NotEmpty(t, operation.Extensions["x-waybill-action"], path)
		}
	}
	require.NotContains(t, string(got.body), "example.com")
	require.NotContains(t, string(got.body), "ErrorModel")
}

func TestPublicRoutes(t *testing.T) {
	t.Parallel()
	s, _ := newWorld(t).start(t)
	require.JSONEq(t, `{"version":"v1.2.3","api":"v1"}`, string(call(t, s, "", "GET", "/version", "", "").body))
	var k server.PublicKeys
	call(t, s, "", "GET", "/keys", "", "").decode(t, &k)
	require.Equal(t, "k1", k.KeyID)
	require.Equal(t, "waybill/test+00000000+key", k.LedgerVerifier)
	require.Len(t, k.Keys, 3)
	require.Nil(t, k.Keys[1].Revoked)
	require.Equal(t, noon.Add(-90*time.Minute), k.Keys[2].Revoked.Before)
	got := call(t, s, "", "GET", "/keys.pem", "", "")
	require.Equal(t, "application/x-pem-file", got.header.Get("Content-Type"))
	first, rest := pem.Decode(got.body)
	require.Equal(t, "k1", string(first.Bytes), "the one that signs is the one that cosign reads")
	second, rest := pem.Decode(rest)
	require.Equal(t, "k0", string(second.Bytes))
	none, _ := pem.Decode(rest)
	require.Nil(t, none, "a revoked key is left out")
	for _, public := range []string{string(got.body), string(call(t, s, "", "GET", "/keys", "", "").body)} {
		require.NotContains(t, public, "hashivault")
		require.NotContains(t, public, "root")
	}
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	for _, c := range []struct {
		method, path, contentType, body string
		status                          int
		want                            string
	}{
		{"GET", "/inspect?ref=SHOP:v1", "", "", 400, "lower-case"},
		{"GET", "/inspect?ref=shop/returns:v456&tree=9", "", "", 422, "8"},
		{"GET", "/inspect?ref=shop", "", "", 400, "REPOSITORY:TAG"},
		{"GET", "/inspect", "", "", 422, "required"},
		{"GET", "/inspect?ref=shop/returns:v456&bogus=1", "", "", 422, "unknown query parameter"},
		{"GET", "/inspect?ref=shop/returns:none", "", "", 404, "no tag none"},
		{"GET", "/status?at=yesterday", "", "", 400, "2026-10-01T12:00Z"},
		{"GET", "/status?at=2999-01-01", "", "", 400, "2999-01-01 is in the future"},
		{"GET", "/ledger/proof?index=99", "", "", 400, "not in a tree of size 3"},
		{"GET", "/ledger/proof?index=-1", "", "", 422, "index"},
		{"GET", "/ledger/entries?limit=5000", "", "", 422, "limit"},
		{"POST", "/tokens", "application/json", `{"role":"king"}`, 422, "role"},
		{"POST", "/tokens", "application/json", `{"role":"reader","surprise":1}`, 422, "surprise"},
		{"POST", "/tokens", "application/json", `{"role":"deployer","environments":["UP"]}`, 400, "environment name"},
		{"POST", "/tokens", "application/json", `{"role":`, 400, ""},
		{"POST", "/promotions", "application/json", `{"service":"returns","version":"v456","environment":"Prod"}`, 400, "environment name"},
		{"POST", "/promotions", "application/json", `{"service":"nobody","version":"v456","environment":"production"}`, 404, "no service"},
		{"POST", "/recalls", "application/json", `{"ref":"shop/returns:v456","reason":""}`, 422, "reason"},
		{"POST", "/documents", "application/yaml", "", 400, "has no document"},
		{"POST", "/documents", "application/yaml", "kind: Nonsense\n", 400, "kind \"Nonsense\" is not known"},
		{"POST", "/documents", "application/yaml", strings.Repeat("#", 2<<20), 413, "more bytes"},
		{"GET", "/documents/policy/none", "", "", 404, "no policy named"},
		{"DELETE", "/tokens/unknown", "", "", 404, "no token"},
		{"POST", "/gc", "application/json", `{"dry":true}`, 422, "dry"},
		{"POST", "/fsck", "application/json", `{"quarantine":"yes"}`, 422, "quarantine"},
		{"POST", "/builds?repository=UP", "application/x-tar", "", 400, "lower-case"},
		{"POST", "/builds?repository=shop&tag=-x", "application/x-tar", "", 400, "tag"},
		{"POST", "/builds?repository=shop&arg=novalue", "application/x-tar", "", 400, "NAME=VALUE"},
	} {
		got := call(t, s, "admin", c.method, c.path, c.contentType, c.body)
		require.Equal(t, c.status, got.status, "%s %s: %s", c.method, c.path, got.body)
		requireProblem(t, got)
		require.Contains(t, string(bytes.ReplaceAll(got.body, []byte(`\"`), []byte(`"`))), c.want, c.path)
	}
	require.Empty(t, w.changes(), "a bad request changes nothing")
}

func TestUnmetGatesAreAllNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.unmet = []artifact.Reason{{Rule: "after", Message: "not in staging"}, {Rule: "signed", Message: "no signature"}}
	s, _ := w.start(t)
	got := call(t, s, "promoter", "POST", "/promotions", "application/json", `{"service":"returns","version":"v456","environment":"production"}`)
	require.Equal(t, 403, got.status)
	require.Equal(t, w.unmet, requireProblem(t, got).Reasons)
}

// TestShortDigests: what commands print of a digest names it, among those that the caller may see.
func TestShortDigests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	promoted, waiting := "shop/returns@"+w.promoted.Short(), "shop/returns@sha256:"+w.waiting.Hex()[:20]
	for _, path := range []string{"/show?ref=", "/inspect?ref=", "/verdict?ref=", "/scan?ref=", "/verify?environment=production&ref=", "/pulls?ref=", "/export?ref=", "/attestations?ref="} {
		require.Equal(t, 200, call(t, s, "admin", "GET", path+promoted, "", "").status, path)
	}
	got := call(t, s, "promoter", "POST", "/recalls", "application/json", fmt.Sprintf(`{"ref":%q,"reason":"CVE"}`, waiting))
	require.Equal(t, 200, got.status, string(got.body))
	require.Contains(t, string(got.body), w.waiting.String())

	require.Equal(t, 200, call(t, s, "deployer", "GET", "/show?ref="+promoted, "", "").status)
	hidden := call(t, s, "deployer", "GET", "/show?ref="+waiting, "", "")
	nothing := call(t, s, "deployer", "GET", "/show?ref=shop/returns@"+strings.Repeat("0", 20), "", "")
	require.Equal(t, 403, hidden.status)
	require.Equal(t, strings.ReplaceAll(requireProblem(t, hidden).Detail, waiting[13:], ""), strings.ReplaceAll(requireProblem(t, nothing).Detail, "sha256:"+strings.Repeat("0", 20), ""), "what is hidden looks like what is not there")

	twin := artifact.MustDigest("sha256:" + w.promoted.Hex()[:30] + strings.Repeat("0", 34))
	w.manifests["shop/returns@"+twin.String()] = artifact.StoredManifest{Repository: w.shop, Digest: twin}
	got = call(t, s, "auditor", "GET", "/show?ref="+promoted, "", "")
	require.Equal(t, 409, got.status)
	for _, d := range []artifact.Digest{twin, w.promoted} {
		require.Contains(t, requireProblem(t, got).Detail, d.String())
	}
	require.Equal(t, 200, call(t, s, "deployer", "GET", "/show?ref="+promoted, "", "").status, "of the two it may see one")
	for path, status := range map[string]int{"/show?ref=shop/returns@0123456789ab": 404, "/show?ref=shop/returns@0123456789a": 400, "/verdict?ref=shop/returns@0123456789ab": 404} {
		require.Equal(t, status, call(t, s, "auditor", "GET", path, "", "").status, path)
	}
}

func TestInspectTellsNoSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	got := call(t, s, "auditor", "GET", "/inspect?ref=shop/returns:v456", "", "")
	var i server.Inspection
	got.decode(t, &i)
	require.Equal(t, "image", i.Type)
	require.Equal(t, "10001", i.Image.User)
	require.Equal(t, []string{"PASSWORD"}, i.Image.Environment)
	require.Equal(t, []string{"8080/tcp"}, i.Image.ExposedPorts)
	require.Len(t, i.Image.Layers, 1)
	require.Equal(t, 1, i.Image.Files)
	require.Equal(t, []string{"golang.org/x/net", "openssl"}, []string{i.Image.Packages[0].Name, i.Image.Packages[1].Name}, "of programs, as the scan says, and of the system, each once")
	require.Empty(t, i.Image.Unscanned)
	require.NotContains(t, string(got.body), "hunter2")

	i = server.Inspection{}
	call(t, s, "auditor", "GET", "/inspect?ref=shop/returns:v457", "", "").decode(t, &i)
	require.Equal(t, "no advisory database", i.Image.Unscanned)
	require.Len(t, i.Image.Packages, 1, "what the layers' own databases name is known before a scan")
}

func TestScanIsNeverCleanWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	index := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":5,"platform":{"os":"linux","architecture":"amd64"}},{"mediaType":%q,"digest":%q,"size":5}]}`,
		artifact.MediaTypeIndex, artifact.MediaTypeManifest, w.promoted, artifact.MediaTypeManifest, w.waiting)
	m, err := artifact.ParseManifest(artifact.MediaTypeIndex, index)
	require.NoError(t, err)
	d := artifact.DigestOf(index)
	w.manifests[w.shop.String()+"@"+d.String()] = artifact.StoredManifest{Repository: w.shop, Digest: d, Manifest: m, Body: index}
	s, _ := w.start(t)
	var r server.ScanReport
	call(t, s, "reader", "GET", "/scan?ref=shop/returns@"+d.String(), "", "").decode(t, &r)
	require.Equal(t, artifact.ScanPending, r.State, "one image of two was scanned")
	require.Equal(t, "no advisory database", r.Reason)
	require.Len(t, r.Images, 2)
	require.Equal(t, 1, r.Counts[artifact.High])
	call(t, s, "reader", "GET", "/scan?ref=shop/returns:v456", "", "").decode(t, &r)
	require.Equal(t, artifact.Scanned, r.State)
	require.Equal(t, int64(24*3600), r.DatabaseAge)
}

func TestVerdictOfARefusedPush(t *testing.T) {
	t.Parallel()
	s, _ := newWorld(t).start(t)
	var v artifact.VerdictRecord
	call(t, s, "reader", "GET", "/verdict?ref=shop/returns:rooted", "", "").decode(t, &v)
	require.Equal(t, artifact.Deny, v.Outcome)
	require.Len(t, v.Reasons, 1)
	require.Equal(t, 404, call(t, s, "reader", "GET", "/verdict?ref=shop/returns:none", "", "").status)
}

func TestShowTellsTheStory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	var story server.Story
	call(t, s, "reader", "GET", "/show?ref=shop/returns:v456", "", "").decode(t, &story)
	require.Equal(t, w.promoted, story.Manifest.Digest)
	require.Equal(t, artifact.Allow, story.Verdict.Outcome)
	require.Equal(t, 1, story.Scan.Counts[artifact.High])
	require.Len(t, story.Signatures, 1)
	require.Len(t, story.Promotions, 1)
	require.Len(t, story.RunsIn, 1)
}

func TestStatusOfThePast(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := func(h int) time.Time { return noon.Add(time.Duration(h) * time.Hour) }
	w.history = []artifact.Promotion{
		{Action: "promote", Repository: w.shop, Environment: w.production, Digest: w.promoted, Version: "v456", At: at(-5)},
		{Action: "promote", Repository: w.shop, Environment: w.production, Digest: w.waiting, Version: "v457", At: at(-3)},
		{Action: "recall", Repository: w.shop, Environment: w.production, Digest: w.promoted, At: at(-2)},
		{Action: "recall", Repository: w.shop, Environment: w.production, Digest: w.waiting, At: at(-1)},
	}
	s, _ := w.start(t)
	for hour, want := range map[int][]string{-6: nil, -5: {"v456"}, -4: {"v456"}, -3: {"v457"}, -2: {"v457"}, -1: nil, 0: nil} {
		var board server.Board
		call(t, s, "reader", "GET", "/status?at="+url.QueryEscape(at(hour).Format(time.RFC3339)), "", "").decode(t, &board)
		var got []string
		for _, c := range board.Cells {
			got = append(got, c.Version)
			require.Empty(t, c.Verdict, "today's verdict says nothing of then")
		}
		require.Equal(t, want, got, "hour %d", hour)
	}
}

// TestStatusTellsOfRecalls: where what ran was recalled, status says so, to who may know what runs there.
func TestStatusTellsOfRecalls(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	staging, err := artifact.ParseEnvironment("staging")
	require.NoError(t, err)
	old, err := artifact.ParseEnvironment("retired")
	require.NoError(t, err)
	gone := func(r artifact.Repository, e artifact.Environment) artifact.Withdrawn {
		return artifact.Withdrawn{Deployment: artifact.Deployment{Repository: r, Environment: e, Digest: w.waiting, Version: "v457", Since: noon.Add(-2 * time.Hour)}, RecalledAt: noon.Add(-time.Hour), RecalledBy: "user:ada", Why: "CVE"}
	}
	production := gone(w.other, w.production)
	w.withdrawn = []artifact.Withdrawn{production, gone(w.shop, staging), gone(w.shop, old)}
	s, _ := w.start(t)
	for who, want := range map[string]int{"auditor": 2, "reader": 2, "deployer": 1, "scoped-reader": 1} {
		var board server.Board
		call(t, s, who, "GET", "/status", "", "").decode(t, &board)
		require.Len(t, board.Recalled, want, "%s: of an environment that is no more nothing is told", who)
		require.Equal(t, production, board.Recalled[0], who)
	}
	var board server.Board
	call(t, s, "reader", "GET", "/status?service=shop/returns&at="+noon.Add(-90*time.Minute).Format(time.RFC3339), "", "").decode(t, &board)
	require.Empty(t, board.Recalled, "it ran then")
	board = server.Board{}
	call(t, s, "deployer", "GET", "/status", "", "").decode(t, &board)
	require.Equal(t, []artifact.Environment{w.production}, board.Environments, "what is hidden in every service is left out")
	require.Empty(t, board.Hidden)
}

func TestVerifyBundle(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	payload := []byte(`{"critical":{}}`)
	body := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":2},"layers":[{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","digest":%q,"size":%d,"annotations":{"dev.cosignproject.cosign/signature":"c2ln"}}]}`,
		artifact.MediaTypeManifest, artifact.MediaTypeConfig, artifact.DigestOf([]byte("{}")), artifact.DigestOf(payload), len(payload))
	m, err := artifact.ParseManifest(artifact.MediaTypeManifest, body)
	require.NoError(t, err)
	d := artifact.DigestOf(body)
	w.manifests[w.shop.String()+"@"+d.String()] = artifact.StoredManifest{Repository: w.shop, Digest: d, Manifest: m, Body: body}
	w.tags[w.shop.String()+":sha256-"+w.promoted.Hex()+".sig"] = d
	w.blobs[artifact.DigestOf(payload)] = payload
	s, _ := w.start(t)
	var b server.Bundle
	call(t, s, "reader", "GET", "/verify?ref=shop/returns:v456&environment=production", "", "").decode(t, &b)
	require.Equal(t, artifact.DigestOf(b.Manifest), b.Digest)
	require.Equal(t, []server.BundleSignature{{Payload: payload, Signature: []byte("sig")}}, b.Signatures)
	require.Equal(t, int64(1), b.Promotion.Index)
	require.Equal(t, w.entries[1].Body, b.Promotion.Leaf)
	require.NotEmpty(t, b.Checkpoint)
	require.Equal(t, w.promoted, b.Runs.Digest)
	require.Equal(t, "v456", b.Runs.Version)
	require.Equal(t, 404, call(t, s, "reader", "GET", "/verify?ref=shop/returns:v457&environment=production", "", "").status)
	w.history = append(w.history, artifact.Promotion{Action: "recall", Repository: w.shop, Environment: w.production, Digest: w.promoted, Actor: "ada", Reason: "CVE-2026-1"})
	got := call(t, s, "reader", "GET", "/verify?ref=shop/returns:v456&environment=production", "", "")
	require.Equal(t, 403, got.status)
	require.Contains(t, string(got.body), "recalled from production by ada: CVE-2026-1")
}

func TestBuildStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	got := call(t, s, "pusher", "POST", "/builds?repository=shop/returns&tag=v1&tag=v2&arg=A=1,2", "application/x-tar", "context")
	require.Equal(t, 200, got.status)
	require.Equal(t, "application/x-ndjson", got.header.Get("Content-Type"))
	events := decodeEvents(t, got.body)
	require.Len(t, events, 3)
	require.Equal(t, "read 7 bytes", events[0].Log)
	require.Equal(t, "COPY", events[1].Log, "an unended line is not lost")
	require.Equal(t, w.promoted, events[2].Result.Digest)
	require.Len(t, events[2].Result.Tags, 2)
	require.Equal(t, []string{"build shop/returns 1,2 by token:pusher"}, w.changes())
}

func TestBuildFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.builderErr = artifact.Errorf(artifact.Unsupported, "Dockerfile:3: RUN is not built here")
	s, _ := w.start(t)
	got := call(t, s, "pusher", "POST", "/builds?repository=shop/returns&tag=v1", "application/x-tar", "context")
	require.Equal(t, 501, got.status, "nothing was sent yet: the status says it")
	require.Contains(t, requireProblem(t, got).Detail, "RUN is not built here")
	got = call(t, s, "pusher", "POST", "/builds?repository=shop/returns&tag=v1&target=late", "application/x-tar", "context")
	require.Equal(t, 200, got.status)
	events := decodeEvents(t, got.body)
	last := events[len(events)-1]
	require.Contains(t, last.Problem.Detail, "RUN is not built here")
	require.NotEmpty(t, last.Problem.RequestID)
}

// endless is a build that says a line, and then nothing for as long as anybody follows it.
type endless struct{ buildFake }

func (endless) Follow(ctx context.Context, _ string, _ int64, tell func(int64, server.BuildEvent)) (artifact.Build, error) {
	tell(1, server.BuildEvent{Log: "line 1"})
	<-ctx.Done()
	return artifact.Build{}, ctx.Err()
}

// revoking knows its tokens until it revokes them.
type revoking struct {
	*world
	revoked atomic.Bool
}

func (r *revoking) FromRequest(ctx context.Context, authorization string) (auth.Identity, error) {
	if r.revoked.Load() {
		return auth.Identity{}, artifact.Errorf(artifact.Unauthentic, "the token was revoked")
	}
	return r.world.FromRequest(ctx, authorization)
}

// TestRevokedWhileFollowing: who follows a build hears no more of it once their token is revoked.
func TestRevokedWhileFollowing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tokens := &revoking{world: w}
	s, _ := w.startWith(t, func(cfg *server.APIConfig) { cfg.Authenticator, cfg.Builder = tokens, endless{buildFake{w}} })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/api/v1/builds/one/log", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer reader")
	res, err := s.Client().Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	read := bufio.NewReader(res.Body)
	for line := ""; !strings.Contains(line, "line 1"); {
		line, err = read.ReadString('\n')
		require.NoError(t, err)
	}
	tokens.revoked.Store(true)
	rest, err := io.ReadAll(read)
	require.NoError(t, err)
	require.NotContains(t, string(rest), "event: end")
}

func TestBuildIsFollowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	got := call(t, s, "reader", "GET", "/builds/one/log", "", "")
	require.Equal(t, "text/event-stream", got.header.Get("Content-Type"))
	text := string(got.body)
	require.Contains(t, text, "id: 1\ndata: {\"log\":\"line 1\"}\n\nid: 2\ndata: {\"log\":\"line 2\"}\n\nevent: end\ndata: {")
	require.Contains(t, text, `"state":"done"`)
	require.Equal(t, 404, call(t, s, "reader", "GET", "/builds/two/log", "", "").status)
	call(t, s, "pusher", "POST", "/builds/one/cancel", "application/json", "{}")
	require.Equal(t, []string{"cancel one by token:pusher"}, w.changes())
	var bases server.BaseList
	call(t, s, "reader", "GET", "/bases?stale=true", "", "").decode(t, &bases)
	require.Len(t, bases.Bases, 1)
	require.Equal(t, 400, call(t, s, "reader", "GET", "/bases?after=x", "", "").status)
}

func decodeEvents(t *testing.T, body []byte) []server.BuildEvent {
	t.Helper()
	var all []server.BuildEvent
	for line := range bytes.Lines(body) {
		var e server.BuildEvent
		require.NoError(t, json.Unmarshal(line, &e), string(line))
		all = append(all, e)
	}
	return all
}

func TestApplyChecksAllFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	policy := func(name string) string {
		return "apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: " + name + "}\nspec:\n  match: {repositories: [\"**\"]}\n  rules:\n    - {rule: no-root-user, action: deny}\n"
	}
	pipeline := "apiVersion: waybill/v1\nkind: Pipeline\nmetadata: {name: default}\nspec:\n  match: {repositories: [\"**\"]}\n  environments:\n    - {name: dev}\n    - {name: production, requires: {after: [dev], signed: true}}\n"
	got := call(t, s, "admin", "POST", "/documents?file=all.yaml", "application/yaml", policy("one")+"---\n"+policy("two")+"  surprise: 1\n")
	require.Equal(t, 400, got.status, string(got.body))
	require.Contains(t, string(got.body), "all.yaml:16", "the line is that of the whole file")
	require.Empty(t, w.changes(), "the first was good, and was not applied")

	got = call(t, s, "admin", "POST", "/documents", "application/yaml", policy("one")+"---\n"+policy("one"))
	require.Equal(t, 400, got.status, string(got.body))
	require.Empty(t, w.changes())

	got = call(t, s, "admin", "POST", "/documents", "application/yaml", "# head\n---\n"+policy("one")+"---\n"+pipeline+"---\n")
	require.Equal(t, 200, got.status, string(got.body))
	require.Equal(t, []string{"apply Policy one by token:admin", "apply Pipeline default by token:admin"}, w.changes())

	rules := func(name string) string {
		return "apiVersion: waybill/v1\nkind: Repositories\nmetadata: {name: " + name + "}\nspec: {match: {repositories: [\"shop/**\"]}, quota: 1Gi}\n"
	}
	got = call(t, s, "admin", "POST", "/documents", "application/yaml", rules("shop"))
	require.Equal(t, 200, got.status, string(got.body))
	require.Contains(t, w.changes(), "apply Repositories shop by token:admin")
	got = call(t, s, "admin", "POST", "/documents", "application/yaml", policy("three")+"---\n"+rules("tie"))
	require.Equal(t, 409, got.status, string(got.body))
	require.Len(t, w.changes(), 3, "what does not fit keeps the others out as well")
	got = call(t, s, "admin", "POST", "/documents?file=r.yaml", "application/yaml", policy("three")+"---\n"+strings.Replace(rules("shop"), "quota", "quotas", 1))
	require.Equal(t, 400, got.status, string(got.body))
	require.Contains(t, string(got.body), "r.yaml:12:")
	require.Contains(t, string(got.body), "quotas")
}

func TestTagHistory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	var out server.TagHistory
	call(t, s, "reader", "GET", "/tags/history?ref=shop/returns:v456", "", "").decode(t, &out)
	require.Equal(t, []artifact.TagChange{{Digest: w.promoted, Actor: "token:ci", At: noon.Add(-time.Hour)}, {Actor: "user:ada", At: noon}}, out.Changes)
	for ref, want := range map[string]string{"shop/returns:never": "has never had a tag never", "shop/returns@" + w.promoted.String(): "names no tag"} {
		got := call(t, s, "reader", "GET", "/tags/history?ref="+url.QueryEscape(ref), "", "")
		require.Contains(t, requireProblem(t, got).Detail, want)
	}
}

func TestRetentionIsDryWhenAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	got := call(t, s, "admin", "POST", "/retention", "application/json", `{"dryRun":true}`)
	require.JSONEq(t, `{"dryRun":true,"repositories":[]}`, string(got.body))
	require.Empty(t, w.changes())
	got = call(t, s, "admin", "POST", "/retention", "application/json", `{"dry":true}`)
	require.Equal(t, 422, got.status, "a misspelt dry run is no run")
	require.Empty(t, w.changes())
	call(t, s, "admin", "POST", "/retention", "application/json", `{}`)
	require.Equal(t, []string{"retention by token:admin"}, w.changes())
}

func TestImportIsStreamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	const size = 3 << 20 // more than a JSON body may have
	got := call(t, s, "admin", "POST", "/advisories", "application/octet-stream", strings.Repeat("x", size))
	require.Equal(t, http.StatusOK, got.status, string(got.body))
	require.Equal(t, []string{fmt.Sprintf("import %d bytes by token:admin", size)}, w.changes())
	var status server.AdvisoryStatus
	got.decode(t, &status)
	require.True(t, status.Present)
	require.Equal(t, int64(3600), status.AgeSeconds)
	require.Equal(t, int64(60), status.Java.AgeSeconds)
	require.Equal(t, "ghcr.io/aquasecurity/trivy-java-db:1", status.Java.Source)
}

func TestExport(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	got := call(t, s, "auditor", "GET", "/export?ref=shop/returns:v456", "", "")
	require.Equal(t, 200, got.status, string(got.body))
	require.Equal(t, "application/gzip", got.header.Get("Content-Type"))
	files := untar(t, got.body)
	folder := "digests/shop/returns/sha256-" + w.promoted.Hex()
	require.Equal(t, w.promoted, artifact.DigestOf(files[folder+"/manifest"]))
	require.Equal(t, 2, bytes.Count(files["entries.jsonl"], []byte("\n")))
	require.Contains(t, string(files[folder+"/story.json"]), `"findings"`)
	require.Contains(t, string(files["pulls.json"]), "token:k8s/1")
	require.Contains(t, string(files["promotions.json"]), "token:release")
	var summary server.ExportSummary
	require.NoError(t, json.Unmarshal(files["export.json"], &summary))
	require.Equal(t, "shop/returns@"+w.promoted.String(), summary.Reference)
	require.Equal(t, []server.ExportedReference{{Repository: w.shop, Digest: w.promoted, Folder: folder}}, summary.Digests)
	require.Equal(t, len(files)-1, bytes.Count(files["listing"], []byte("\n")), "every other file is in the listing")
	for path, b := range files {
		if path != "listing" {
			require.Contains(t, string(files["listing"]), fmt.Sprintf("%x %d %s\n", sha256.Sum256(b), len(b), path))
		}
	}

	files = untar(t, call(t, s, "auditor", "GET", "/export?from=2026-09-01&to=2026-11-01", "", "").body)
	require.Contains(t, files, folder+"/manifest", "what the period's entries are about")
	require.NoError(t, json.Unmarshal(files["export.json"], &summary))
	require.Equal(t, 2, summary.Entries)

	one := untar(t, call(t, s, "auditor", "GET", "/export?from=2026-10-01&to=2026-10-01", "", "").body)
	require.NoError(t, json.Unmarshal(one["export.json"], &summary))
	require.Equal(t, 24*time.Hour, summary.To.Sub(summary.From), "the last day is in the period")
	one = untar(t, call(t, s, "auditor", "GET", "/export?from=2026-10-01&to=2026-10-01T12:00Z", "", "").body)
	require.NoError(t, json.Unmarshal(one["export.json"], &summary))
	require.Equal(t, 12*time.Hour, summary.To.Sub(summary.From), "an instant is as it is")

	require.Equal(t, 403, call(t, s, "scoped-auditor", "GET", "/export?from=2026-09-01&to=2026-10-01", "", "").status)
	for _, bad := range []string{"", "?from=2026-09-01", "?to=2026-09-01", "?from=2026-09-02&to=2026-09-01", "?from=x&to=y", "?ref=shop/returns:v456&from=2026-09-01", "?ref=shop"} {
		require.Equal(t, 400, call(t, s, "auditor", "GET", "/export"+bad, "", "").status, bad)
	}
	gone := artifact.DigestOf([]byte("removed since"))
	files = untar(t, call(t, s, "auditor", "GET", "/export?ref=shop/returns@"+gone.String(), "", "").body)
	require.Contains(t, string(files["export.json"]), `"removed": true`)
	w.busy = true
	got = call(t, s, "auditor", "GET", "/export?from=2026-09-01&to=2026-10-01", "", "")
	require.Equal(t, 413, got.status, "too much, before anything is sent")

	w.listingErr = errors.New("no key")
	res, err := s.Client().Do(request(t, s, "auditor", "/api/v1/export?ref=shop/returns:v456"))
	if err == nil {
		_, err = io.ReadAll(res.Body)
		require.NoError(t, res.Body.Close())
	}
	require.Error(t, err, "what is not whole does not look whole")
}

func request(t *testing.T, s *httptest.Server, who, path string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+who)
	return req
}

func untar(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	zipped, err := gzip.NewReader(bytes.NewReader(b))
	require.NoError(t, err, string(b))
	files := map[string][]byte{}
	for archive := tar.NewReader(zipped); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		require.NoError(t, err)
		files[h.Name], err = io.ReadAll(archive)
		require.NoError(t, err)
	}
}

func TestPulls(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	var page server.PullPage
	call(t, s, "auditor", "GET", "/pulls?limit=1", "", "").decode(t, &page)
	require.Len(t, page.Pulls, 1)
	require.Equal(t, "token:k8s/1", page.Pulls[0].Principal)
	next := page.Next
	page = server.PullPage{}
	call(t, s, "auditor", "GET", "/pulls?limit=2&after="+next, "", "").decode(t, &page)
	require.Len(t, page.Pulls, 1)
	require.Equal(t, "token:k8s/2", page.Pulls[0].Principal)
	require.Equal(t, "token:k8s/1", w.asked.After.Principal)
	require.Equal(t, w.promoted, w.asked.After.Digest)
	require.Empty(t, page.Next)
	page = server.PullPage{}
	call(t, s, "scoped-auditor", "GET", "/pulls?limit=2", "", "").decode(t, &page)
	require.Empty(t, page.Pulls, "of other repositories")
	require.Equal(t, 200, call(t, s, "auditor", "GET", "/pulls?ref=shop/returns:v456", "", "").status)
	require.Equal(t, w.promoted, w.asked.Digest)
	require.Equal(t, 200, call(t, s, "auditor", "GET", "/pulls?ref=shop/returns", "", "").status)
	require.Zero(t, w.asked.Digest)
	require.Equal(t, 200, call(t, s, "auditor", "GET", "/pulls?ref=shop/returns@"+w.promoted.String(), "", "").status)
	call(t, s, "auditor", "GET", "/pulls?ref=shop/returns:v456&principal=token:k8s/1&from=2026-09-01&to=2026-09-30", "", "").decode(t, &page)
	require.Equal(t, w.promoted, w.asked.Digest)
	require.Equal(t, "2026-09-30", w.asked.To.Format(time.DateOnly))
	for _, bad := range []string{"?after=x", "?after=eCB5", "?from=yesterday", "?ref=shop/returns@x"} {
		require.Equal(t, 400, call(t, s, "auditor", "GET", "/pulls"+bad, "", "").status, bad)
	}
}

// TestFinding: entries and pulls are found by who, what and when, and told as tables that no spreadsheet runs.
func TestFinding(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	var page server.FoundEntries
	call(t, s, "auditor", "GET", "/ledger/search?limit=1&kind=promotion&actor=token:ada/1&ref=shop/returns:v456&from=2026-09-01&to=2026-09-30", "", "").decode(t, &page)
	require.Len(t, page.Entries, 1)
	asked := w.found[0]
	require.Equal(t, artifact.LedgerFilter{Actor: "token:ada/1", Kind: "promotion", Repository: w.shop, Digest: w.promoted, Limit: 1,
		From: time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC), To: time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)}, asked, "a day is whole")
	next := page.Next
	page = server.FoundEntries{}
	call(t, s, "auditor", "GET", "/ledger/search?limit=2&ref="+w.promoted.String()+"&to=2026-09-30T12:00Z&after="+next, "", "").decode(t, &page)
	require.Len(t, page.Entries, 1)
	require.Empty(t, page.Next)
	require.Equal(t, w.promoted, w.found[1].Digest)
	require.Equal(t, 12, w.found[1].To.Hour())
	for _, bad := range []string{"?kind=A", "?ref=shop/returns@x", "?from=yesterday", "?after=x", "?after=eCB5"} {
		require.Equal(t, 400, call(t, s, "auditor", "GET", "/ledger/search"+bad, "", "").status, bad)
	}
	got := call(t, s, "auditor", "GET", "/ledger/search.csv", "", "")
	require.Equal(t, "text/csv; charset=utf-8", got.header.Get("Content-Type"))
	require.Equal(t, `attachment; filename="waybill-ledger.csv"`, got.header.Get("Content-Disposition"))
	require.Contains(t, string(got.body), "index,at,kind,by,")
	require.Contains(t, string(got.body), ",'=1+1,")
	require.Equal(t, 2, strings.Count(string(got.body), "2026-"))
	require.Equal(t, 400, call(t, s, "auditor", "GET", "/ledger/search.csv?ref=A", "", "").status)

	got = call(t, s, "auditor", "GET", "/pulls.csv?principal=token:k8s/1&newest=true", "", "")
	require.Equal(t, 200, got.status)
	require.True(t, w.asked.Newest)
	require.Contains(t, string(got.body), "token:k8s/1,3,")
	require.NotContains(t, string(call(t, s, "scoped-auditor", "GET", "/pulls.csv", "", "").body), "token:k8s", "of other repositories")

	var builds server.BuildList
	call(t, s, "reader", "GET", "/builds?limit=1&state=done", "", "").decode(t, &builds)
	require.Len(t, builds.Builds, 1)
	require.Equal(t, 200, call(t, s, "reader", "GET", "/builds?after="+url.QueryEscape(builds.Next), "", "").status)
	require.Equal(t, 400, call(t, s, "reader", "GET", "/builds?after=x", "", "").status)
	require.Equal(t, 422, call(t, s, "reader", "GET", "/builds?state=odd", "", "").status)

	var policies server.PolicyList
	call(t, s, "reader", "GET", "/policies", "", "").decode(t, &policies)
	require.Len(t, policies.Policies, 1)
	require.Equal(t, "The image runs as a user that is not root, as its own /etc/passwd has it.", policies.Policies[0].Rules[0].Asks)
	require.Equal(t, 4, policies.Policies[0].Version)
}

func TestTiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	got := call(t, s, "auditor", "GET", "//ledger/checkpoint", "", "")
	require.Equal(t, "waybill/test\n3\ncm9vdA==\n", string(got.body))
	require.Equal(t, "text/plain; charset=utf-8", got.header.Get("Content-Type"))
	require.Equal(t, "no-cache", got.header.Get("Cache-Control"))
	got = call(t, s, "auditor", "GET", "//ledger/tile/entries/x001/067.p/3", "", "")
	require.Equal(t, "tile/entries/x001/067.p/3", string(got.body))
	require.Equal(t, "application/octet-stream", got.header.Get("Content-Type"))
	require.Equal(t, "private, max-age=31536000, immutable", got.header.Get("Cache-Control"))
	got = call(t, s, "auditor", "GET", "//ledger/tile/none", "", "")
	require.Equal(t, 404, got.status)
	require.Equal(t, "no-store", got.header.Get("Cache-Control"), "it may be there soon")
	requireProblem(t, got)
	got = call(t, s, "auditor", "POST", "//ledger/checkpoint", "", "x")
	require.Equal(t, 404, got.status, "read-only")

	var proof server.ConsistencyProof
	call(t, s, "auditor", "GET", "/ledger/consistency?older=2", "", "").decode(t, &proof)
	require.EqualValues(t, 3, proof.Newer)
	require.NotEmpty(t, proof.Checkpoint)
	require.Len(t, proof.Proof, 1)
	proof = server.ConsistencyProof{}
	call(t, s, "auditor", "GET", "/ledger/consistency?older=1&newer=2", "", "").decode(t, &proof)
	require.Empty(t, proof.Checkpoint)
	require.Equal(t, 422, call(t, s, "auditor", "GET", "/ledger/consistency?older=0", "", "").status)
}

func TestLedgerPages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	var page server.EntryPage
	call(t, s, "auditor", "GET", "/ledger/entries?limit=2", "", "").decode(t, &page)
	require.Len(t, page.Entries, 2)
	require.Equal(t, int64(2), page.Next)
	require.Equal(t, w.entries[0].Body, page.Entries[0].Leaf)
	page = server.EntryPage{}
	call(t, s, "auditor", "GET", "/ledger/entries?from=2&limit=2", "", "").decode(t, &page)
	require.Len(t, page.Entries, 1)
	require.Zero(t, page.Next)
	w.problems = []string{"entry 1: its hash differs"}
	var report server.LedgerReport
	call(t, s, "auditor", "GET", "/audit", "", "").decode(t, &report)
	require.False(t, report.OK)
	require.Equal(t, w.problems, report.Problems)
}
