package server_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/postgres/pgtest"
	"waybill/server"
)

// TestEveryOCIEndpointAndRole: each endpoint of the OCI API for each role, bound to the repository or to another, and for nobody; what
// is refused says what would do. An endpoint that has no row fails.
func TestEveryOCIEndpointAndRole(t *testing.T) {
	t.Parallel()
	r := newReplica(t, pgtest.New(t), t.TempDir())
	manifest, layer := r.image("v1", mark, 64)
	spare, _ := r.image("spare", "YYYYYYYY", 64)
	_, err := r.db.Pool.Exec(t.Context(), `delete from grants where root = $1`, spare) // what is promoted nobody deletes
	require.NoError(t, err)
	const (
		pull   = "reader pusher promoter approver deployer admin"
		push   = "pusher admin"
		anyone = pull + " auditor"
		small  = "x"
	)
	tiny := artifact.DigestOf([]byte(small)).String()
	rows := []struct {
		endpoint, path, body string
		allowed              string // roles that are bound to the repository
		elsewhere            string // roles that are bound to another, and have an answer that tells nothing
	}{
		{"GET base", "/v2/", "", anyone, anyone},
		{"GET catalog", "/v2/_catalog", "", anyone, anyone},
		{"GET tags", "/v2/shop/returns/tags/list", "", anyone, ""},
		{"GET referrers", "/v2/shop/returns/referrers/" + manifest.String(), "", anyone, ""},
		{"GET manifest", "/v2/shop/returns/manifests/v1", "", pull, ""},
		{"GET blob", "/v2/shop/returns/blobs/" + layer.String(), "", pull, ""},
		{"POST uploads", "/v2/shop/returns/blobs/uploads/", "", push, ""},
		{"GET upload", "/v2/shop/returns/blobs/uploads/%s", "", push, ""},
		{"PATCH upload", "/v2/shop/returns/blobs/uploads/%s", small, push, ""},
		{"PUT upload", "/v2/shop/returns/blobs/uploads/%s?digest=" + tiny, small, push, ""},
		{"DELETE upload", "/v2/shop/returns/blobs/uploads/%s", "", push, ""},
		{"PUT manifest", "/v2/shop/returns/manifests/v2", "manifest", push, ""},
		{"DELETE blob", "/v2/shop/returns/blobs/" + tiny, "", "admin", ""},
		{"DELETE manifest", "/v2/shop/returns/manifests/" + spare.String(), "", "admin", ""},
	}
	covered := map[string]bool{}
	body, err := r.db.Manifest(t.Context(), r.shop, manifest)
	require.NoError(t, err)
	ask := func(who, method, path, body string) (int, string, http.Header) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, r.url+path, strings.NewReader(body))
		require.NoError(t, err)
		if who != "" {
			request.Header.Set("Authorization", who)
		}
		if method == http.MethodPut {
			request.Header.Set("Content-Type", artifact.MediaTypeManifest)
		}
		answer, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer answer.Body.Close()
		said, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		return answer.StatusCode, string(said), answer.Header
	}
	for _, row := range rows {
		covered[row.endpoint] = true
		method, _, _ := strings.Cut(row.endpoint, " ")
		content := row.body
		if content == "manifest" {
			content = string(body.Body)
		}
		path := func(who string) string {
			if !strings.Contains(row.path, "%s") {
				return row.path
			}
			if !slices.Contains(strings.Fields(push), who) {
				who = "admin"
			}
			_, _, header := ask(who, http.MethodPost, "/v2/shop/returns/blobs/uploads/", "") // an upload is its beginner's
			return fmt.Sprintf(row.path, header.Get("Docker-Upload-Uuid"))
		}
		status, said, header := ask("", method, path(""), content)
		require.Equal(t, http.StatusUnauthorized, status, "%s: %s", row.endpoint, said)
		require.NotEmpty(t, header.Get("WWW-Authenticate"))
		for _, role := range artifact.Roles {
			may := func(roles string) bool { return slices.Contains(strings.Fields(roles), string(role)) }
			status, said, _ := ask(string(role)+" elsewhere", method, path(""), content)
			if may(row.elsewhere) {
				require.Equal(t, http.StatusOK, status, "%s elsewhere, %s: %s", role, row.endpoint, said)
				require.NotContains(t, said, "returns", "%s elsewhere, %s", role, row.endpoint)
			} else {
				require.Equal(t, http.StatusForbidden, status, "%s elsewhere, %s: %s", role, row.endpoint, said)
				require.Contains(t, said, "bound to", "%s elsewhere, %s", role, row.endpoint)
			}
			status, said, _ = ask(string(role), method, path(string(role)), content)
			if may(row.allowed) {
				require.Less(t, status, 300, "%s, %s: %s", role, row.endpoint, said)
				continue
			}
			require.Equal(t, http.StatusForbidden, status, "%s, %s: %s", role, row.endpoint, said)
			require.True(t, slices.ContainsFunc(strings.Fields(row.allowed), func(role string) bool { return strings.Contains(said, "role "+role) }), "%s, %s: %s", role, row.endpoint, said)
		}
	}
	for _, endpoint := range server.OCIEndpoints() {
		require.True(t, covered[endpoint], "%q is in no row of the table", endpoint)
	}
}
