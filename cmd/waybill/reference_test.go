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
