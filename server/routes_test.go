package server_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/auth"
	"waybill/server"
)

// everywhere takes the header for a role that is bound to nothing, and no header for nobody.
type everywhere struct{}

func (everywhere) FromRequest(_ context.Context, authorization string) (auth.Identity, error) {
	return auth.Identity{Principal: artifact.Principal{Name: "token:" + authorization, Role: artifact.Role(authorization)}}, nil
}

// TestEveryOtherRouteAndRole: what the server answers beside the OCI API, the REST API and the pages, which have tables of
// their own. A route that is in none fails.
func TestEveryOtherRouteAndRole(t *testing.T) {
	t.Parallel()
	s := server.New(server.Config{Authenticator: everywhere{}, AccessTokens: &replica{t: t}, Metrics: prometheus.NewRegistry(), Ready: func(context.Context) error { return nil },
		Writable: func() error { return nil }, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	rows := map[string]string{ // who may; the others are refused in words
		"GET /healthz": "anybody",
		"GET /readyz":  "anybody",
		"GET /metrics": "auditor admin",
	}
	elsewhere := []string{"GET /token", "POST /token"} // TestToken in package auth, and e2e: what they answer depends on more than a role
	for _, route := range s.Routes() {
		method, path, _ := strings.Cut(route, " ")
		allowed, here := rows[route]
		if !here {
			require.True(t, path == "/v2" || path == "/v2/*path" || slices.Contains(elsewhere, route), "%s is in no table", route)
			continue
		}
		for _, role := range append([]artifact.Role{""}, artifact.Roles...) {
			request := httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody)
			request.Header.Set("Authorization", string(role))
			answer := httptest.NewRecorder()
			s.Handler().ServeHTTP(answer, request)
			if may := allowed == "anybody" || slices.Contains(strings.Fields(allowed), string(role)); may {
				require.Equal(t, http.StatusOK, answer.Code, "%q, %s: %s", role, route, answer.Body)
			} else {
				require.Contains(t, []int{http.StatusUnauthorized, http.StatusForbidden}, answer.Code, "%q, %s: %s", role, route, answer.Body)
				require.Contains(t, answer.Body.String(), "role admin or auditor")
			}
		}
	}
}
