package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/server"
	"waybill/web"
)

// TestReferenceHasTheWholeAPI: every operation of the document that is served has its place on a page, and no page is large.
func TestReferenceHasTheWholeAPI(t *testing.T) {
	t.Parallel()
	gin.SetMode(gin.TestMode)
	api := server.NewAPI(server.APIConfig{Version: "test"})
	pages, err := web.New(web.Config{SessionKey: make([]byte, 32), Description: api.Description})
	require.NoError(t, err)
	engine := gin.New()
	api.Mount(engine)
	pages.Mount(engine)
	s := httptest.NewServer(engine)
	t.Cleanup(s.Close)
	get := func(path string) string {
		resp, err := http.Get(s.URL + path)
		require.NoError(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, 200, resp.StatusCode, path)
		require.Less(t, len(b), 150<<10, path)
		return string(b)
	}
	var document struct {
		Paths map[string]map[string]struct {
			ID      string   `json:"operationId"`
			Tags    []string `json:"tags"`
			Action  string   `json:"x-waybill-action"`
			Roles   []string `json:"x-waybill-roles"`
			Command string   `json:"x-waybill-command"`
		} `json:"paths"`
	}
	require.NoError(t, json.Unmarshal([]byte(get("/api/v1/openapi.json")), &document))
	require.Greater(t, len(document.Paths), 50)
	all := get("/api/docs")
	for path, methods := range document.Paths {
		for method, o := range methods {
			require.Len(t, o.Tags, 1, o.ID)
			address := "/api/docs/" + strings.ToLower(o.Tags[0])
			require.Contains(t, all, `href="`+address+"#"+o.ID+`"`)
			page := get(address)
			require.Contains(t, page, `id="`+o.ID+`"`)
			require.Contains(t, page, `<code>`+path+`</code>`)
			require.Contains(t, page, o.Command)
			require.NotContains(t, page, "ZgotmplZ", "%s %s", method, path)
			for _, role := range o.Roles {
				may := (artifact.Principal{Role: artifact.Role(role)}).Can(artifact.Action(o.Action), artifact.Repository{})
				require.True(t, may || role == "deployer", "%s: %s", o.ID, role)
			}
			require.Equal(t, o.Action != "", slices.Contains(o.Roles, "admin"), o.ID)
		}
	}
}

// TestWhatPagesDoTheAPIDoes: each route of the pages, with the operations that tell or do the same. One that has no row fails.
func TestWhatPagesDoTheAPIDoes(t *testing.T) {
	t.Parallel()
	gin.SetMode(gin.TestMode)
	api := server.NewAPI(server.APIConfig{Version: "test"})
	api.Mount(gin.New())
	text, err := api.Description()
	require.NoError(t, err)
	var document struct {
		Paths map[string]map[string]struct {
			ID string `json:"operationId"`
		} `json:"paths"`
	}
	require.NoError(t, json.Unmarshal(text, &document))
	methods := map[string]string{} // by operation
	for _, operations := range document.Paths {
		for method, o := range operations {
			methods[o.ID] = strings.ToUpper(method)
		}
	}
	const ofPages = "" // the session, and the pages' own assets and news
	rows := map[string]string{
		"GET /login": ofPages, "POST /login": ofPages, "POST /logout": ofPages, "GET /events": ofPages, "GET /api/docs": ofPages, "GET /api/docs/:tag": ofPages,
		"GET /":              "status history list-approvals",
		"GET /r/*repository": "history tag-history storage",
		"GET /d/*reference":  "show inspect verdict scan sbom attestations provenance verify history pulls",
		"GET /repositories":  "list-repositories storage status",
		"GET /compare":       "compare",
		"GET /cves":          "cve",
		"GET /approvals":     "list-approvals", "POST /approvals": "approve",
		"GET /pipelines": "list-documents get-document",
		"GET /promote":   "promote compare", "POST /promote": "promote",
		"GET /rollback": "history status", "POST /rollback": "roll-back",
		"GET /recall": "show status", "POST /recall": "recall",
		"GET /policies": "list-policies list-waivers", "GET /policies/:name": "get-document document-history", "POST /policies": "policy-impact apply-documents",
		"GET /builds": "list-builds", "GET /builds/:id": "get-build", "GET /builds/:id/log": "follow-build", "GET /builds/:id/events": "follow-build", "POST /builds/:id/cancel": "cancel-build",
		"GET /audit": "ledger-search pulls", "GET /audit.csv": "ledger-search-table pulls-table",
		"GET /ledger": "ledger-entries ledger-checkpoint keys", "GET /ledger/proofs": "ledger-proof ledger-consistency",
		"GET /tokens": "list-tokens", "GET /tokens/revoke": "list-tokens", "POST /tokens": "create-token", "POST /tokens/revoke": "revoke-token",
		"GET /storage": "storage storage-runs", "GET /storage/gc": "storage storage-runs", "GET /storage/retention": "storage storage-runs",
		"POST /storage/gc": "collect-garbage", "POST /storage/retention": "retention",
		"GET /advisories": "advisories advisory-history", "GET /advisories/pulls": "advisories advisory-history", "POST /advisories/pulls": "pull-advisories",
	}
	pages, err := web.New(web.Config{SessionKey: make([]byte, 32)})
	require.NoError(t, err)
	engine := gin.New()
	pages.Mount(engine)
	for _, r := range engine.Routes() {
		if strings.HasPrefix(r.Path, "/assets/") {
			continue
		}
		operations, ok := rows[r.Method+" "+r.Path]
		require.True(t, ok, "%s %s is in no row of the table", r.Method, r.Path)
		changes := false
		for _, id := range strings.Fields(operations) {
			require.NotEmpty(t, methods[id], "%s %s: the API has no %s", r.Method, r.Path, id)
			changes = changes || methods[id] != http.MethodGet
		}
		require.True(t, r.Method == http.MethodGet || changes || operations == ofPages, "%s %s changes what no operation does", r.Method, r.Path)
	}
}
