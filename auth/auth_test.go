package auth_test

import (
	"context"
	"encoding/base64"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/auth"
	"waybill/postgres"
	"waybill/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func service(t *testing.T) (*auth.Service, *auth.Issuer, *clock, *postgres.DB) {
	t.Helper()
	db, at := pgtest.New(t), &clock{now: time.Now()}
	issuer, err := auth.NewIssuer(filepath.Join(t.TempDir(), "key"), "waybill")
	require.NoError(t, err)
	return auth.NewService(auth.Config{Store: db, Issuer: issuer, Logger: slog.New(slog.DiscardHandler), Now: at.Now}), issuer, at, db
}

func basic(token string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte("anybody:"+token))
}

func TestToken(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, _, at, db := service(t)
	token, made, err := s.Create(ctx, artifact.System, auth.Grant{Name: "ci", Role: artifact.Pusher, Repositories: []string{"shop/**"}, Expires: at.Now().Add(time.Hour)})
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(token, "wbt_"))

	p, err := s.Authenticate(ctx, token)
	require.NoError(t, err)
	require.Equal(t, artifact.Pusher, p.Role)
	require.Equal(t, []string{"shop/**"}, p.Repositories)
	require.NotContains(t, p.Name, token)
	for _, header := range []string{basic(token), "Bearer " + token, "bearer " + token} {
		id, err := s.FromRequest(ctx, header)
		require.NoError(t, err, header)
		require.Equal(t, p.Name, id.Principal.Name)
	}
	id, err := s.FromRequest(ctx, "")
	require.NoError(t, err)
	require.True(t, id.Principal.Anonymous())

	last := byte('A')
	if token[len(token)-7] == 'A' {
		last = 'B'
	}
	for _, wrong := range []string{"x", "Basic", "Basic !", "Basic " + base64.StdEncoding.EncodeToString([]byte("nocolon")), "Bearer ", "Bearer wbt_", "Digest x",
		"Bearer a.b.c", basic(""), basic(token + "x"), basic(token[:len(token)-1]), basic(token[:len(token)-7] + string(last) + token[len(token)-6:]), "Bearer " + strings.Repeat("x", 20_000)} {
		_, err := s.FromRequest(ctx, wrong)
		require.Equal(t, artifact.Unauthentic, artifact.KindOf(err), "%.60q", wrong)
		require.NotContains(t, err.Error(), token)
	}
	var stored string
	require.NoError(t, db.Pool.QueryRow(ctx, "select string_agg(t::text, '') from tokens t").Scan(&stored))
	require.NotContains(t, stored, strings.Split(token, "_")[2], "the secret is stored nowhere")

	require.NoError(t, s.Revoke(ctx, artifact.System, made.ID))
	_, err = s.Authenticate(ctx, token)
	require.Equal(t, artifact.Unauthentic, artifact.KindOf(err), "revoked at once")
	require.Equal(t, artifact.NotFound, artifact.KindOf(s.Revoke(ctx, artifact.System, made.ID)))

	token, _, err = s.Create(ctx, artifact.System, auth.Grant{Name: "ci", Role: artifact.Reader, Expires: at.Now().Add(time.Hour)})
	require.NoError(t, err)
	at.forward(time.Hour)
	_, err = s.Authenticate(ctx, token)
	require.Equal(t, artifact.Unauthentic, artifact.KindOf(err), "expired")
}

// TestRevokedElsewhere: another replica stops taking a revoked token within a second.
func TestRevokedElsewhere(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, _, at, db := service(t)
	token, made, err := s.Create(ctx, artifact.System, auth.Grant{Name: "ci", Role: artifact.Reader, Expires: at.Now().Add(time.Hour)})
	require.NoError(t, err)
	_, err = s.Authenticate(ctx, token)
	require.NoError(t, err)
	require.NoError(t, db.RevokeToken(ctx, made.ID, "another replica"))
	at.forward(time.Second)
	_, err = s.Authenticate(ctx, token)
	require.Equal(t, artifact.Unauthentic, artifact.KindOf(err))
}

func TestCreateRefused(t *testing.T) {
	t.Parallel()
	s, _, at, _ := service(t)
	production, _ := artifact.ParseEnvironment("production")
	soon := at.Now().Add(time.Hour)
	for what, g := range map[string]auth.Grant{
		"no role":                  {Name: "x", Expires: soon},
		"unknown role":             {Name: "x", Role: "god", Expires: soon},
		"no name":                  {Role: artifact.Reader, Expires: soon},
		"control characters":       {Name: "a\nb", Role: artifact.Reader, Expires: soon},
		"deployer of nothing":      {Name: "x", Role: artifact.Deployer, Expires: soon},
		"pusher of an environment": {Name: "x", Role: artifact.Pusher, Environments: []artifact.Environment{production}, Expires: soon},
		"bad pattern":              {Name: "x", Role: artifact.Reader, Repositories: []string{"["}, Expires: soon},
		"admin of a part":          {Name: "x", Role: artifact.Admin, Repositories: []string{"shop/**"}, Expires: soon},
		"expired already":          {Name: "x", Role: artifact.Reader, Expires: at.Now()},
		"for ever":                 {Name: "x", Role: artifact.Reader, Expires: at.Now().AddDate(50, 0, 0)},
	} {
		_, _, err := s.Create(context.Background(), artifact.System, g)
		require.Equal(t, artifact.Invalid, artifact.KindOf(err), what)
	}
	_, _, err := s.Create(context.Background(), artifact.Principal{Name: "p", Role: artifact.Promoter}, auth.Grant{Name: "x", Role: artifact.Reader, Expires: soon})
	require.Equal(t, artifact.Denied, artifact.KindOf(err))
}

// TestAccessToken: Docker's flow gives what the principal has of what is asked, for a while, as long as its token stands.
func TestAccessToken(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, issuer, at, _ := service(t)
	token, made, err := s.Create(ctx, artifact.System, auth.Grant{Name: "ci", Role: artifact.Pusher, Repositories: []string{"shop/**"}, Expires: at.Now().Add(24 * time.Hour)})
	require.NoError(t, err)
	id, err := s.FromRequest(ctx, basic(token))
	require.NoError(t, err)
	asked, err := auth.ParseScopes([]string{"repository:shop/returns:pull,push,delete repository:bank/ledger:pull", "registry:catalog:*"})
	require.NoError(t, err)
	access, life, err := issuer.Issue(id, asked, at.Now())
	require.NoError(t, err)
	require.Equal(t, 5*time.Minute, life)

	narrow, err := s.FromRequest(ctx, "Bearer "+access)
	require.NoError(t, err)
	shop, _ := artifact.ParseRepository("shop/returns")
	bank, _ := artifact.ParseRepository("bank/ledger")
	require.True(t, narrow.Allows(shop, "push"))
	require.False(t, narrow.Allows(shop, "delete"), "a pusher does not delete")
	require.False(t, narrow.Allows(bank, "pull"), "not its repository")
	_, _, err = issuer.Issue(narrow, asked, at.Now())
	require.Error(t, err, "an access token makes no other")

	other, err := auth.NewIssuer(filepath.Join(t.TempDir(), "key"), "waybill")
	require.NoError(t, err)
	forged, _, err := other.Issue(id, asked, at.Now())
	require.NoError(t, err)
	_, err = s.FromRequest(ctx, "Bearer "+forged)
	require.Equal(t, artifact.Unauthentic, artifact.KindOf(err))

	require.NoError(t, s.Revoke(ctx, artifact.System, made.ID))
	_, err = s.FromRequest(ctx, "Bearer "+access)
	require.Equal(t, artifact.Unauthentic, artifact.KindOf(err), "it ends with the token it was made from")
	at.forward(6 * time.Minute)
	_, err = s.FromRequest(ctx, "Bearer "+access)
	require.Equal(t, artifact.Unauthentic, artifact.KindOf(err))
}

// TestEveryAction: what a scope calls * is every action of Docker's that the principal has, and none besides. skopeo asks
// so to delete, and reads the manifest with the same access token.
func TestEveryAction(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, issuer, at, _ := service(t)
	shop, err := artifact.ParseRepository("shop/returns")
	require.NoError(t, err)
	for role, want := range map[artifact.Role][]string{
		artifact.Admin: {"pull", "push", "delete"}, artifact.Pusher: {"pull", "push"}, artifact.Reader: {"pull"}, artifact.Auditor: {},
		artifact.Deployer: {"pull"},
	} {
		grant := auth.Grant{Name: "x", Role: role, Expires: at.Now().Add(time.Hour)}
		if role == artifact.Deployer {
			grant.Environments = []artifact.Environment{environment(t, "dev")}
		}
		token, _, err := s.Create(ctx, artifact.System, grant)
		require.NoError(t, err, role)
		id, err := s.FromRequest(ctx, basic(token))
		require.NoError(t, err)
		for _, scope := range []string{"repository:shop/returns:*", "repository:shop/returns:pull,*,delete"} {
			asked, err := auth.ParseScopes([]string{scope})
			require.NoError(t, err)
			access, _, err := issuer.Issue(id, asked, at.Now())
			require.NoError(t, err)
			narrow, err := s.FromRequest(ctx, "Bearer "+access)
			require.NoError(t, err)
			require.Equal(t, want, narrow.Scopes[0].Actions, "%s asks for %s", role, scope)
			for _, action := range []string{"pull", "push", "delete"} {
				require.Equal(t, slices.Contains(want, action), narrow.Allows(shop, action), "%s %s", role, action)
			}
		}
	}
}

func environment(t *testing.T, name string) artifact.Environment {
	t.Helper()
	e, err := artifact.ParseEnvironment(name)
	require.NoError(t, err)
	return e
}

func TestEnsureAdmin(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	s, _, _, _ := service(t)
	path := filepath.Join(t.TempDir(), "admin.token")
	token, err := s.EnsureAdmin(ctx, path)
	require.NoError(t, err)
	p, err := s.Authenticate(ctx, token)
	require.NoError(t, err)
	require.Equal(t, artifact.Admin, p.Role)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.EqualValues(t, 0o600, info.Mode().Perm())
	again, err := s.EnsureAdmin(ctx, path)
	require.NoError(t, err)
	require.Empty(t, again, "once")
}

func FuzzParseScopes(f *testing.F) {
	f.Add("repository:shop/returns:pull,push")
	f.Fuzz(func(t *testing.T, s string) {
		scopes, err := auth.ParseScopes([]string{s})
		if err == nil && len(scopes) > 50 {
			t.Fatal("unbounded")
		}
	})
}
