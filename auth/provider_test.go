package auth_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/auth"
	"waybill/postgres/pgtest"
)

// issuer makes what a real one would not: package e2e asks one of those.
type issuer struct {
	*httptest.Server
	key   *ecdsa.PrivateKey
	id    string
	asked atomic.Int64
	away  atomic.Bool
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{}
	i.rotate(t, "one")
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.asked.Add(1)
		switch {
		case i.away.Load():
			http.Error(w, "away", http.StatusBadGateway)
		case r.URL.Path == "/keys":
			_ = json.NewEncoder(w).Encode(i.keys())
		default:
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q,"authorization_endpoint":"http://127.0.0.1/","token_endpoint":"http://127.0.0.1/","id_token_signing_alg_values_supported":["ES256"]}`, i.URL, i.URL+"/keys")
		}
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) rotate(t *testing.T, id string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	i.key, i.id = key, id
}

func (i *issuer) keys() jose.JSONWebKeySet {
	return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: i.id, Algorithm: "ES256", Use: "sig"}}}
}

// sign returns a good token with what is changed of its claims; nil takes one out.
func (i *issuer) sign(t *testing.T, now time.Time, change map[string]any) string {
	t.Helper()
	claims := map[string]any{"iss": i.URL, "aud": "waybill", "sub": "repo:acme/shop:ref:refs/heads/main", "repository": "acme/shop", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{"namespace": "ci"}, "run": 7, "fork": false}
	for name, v := range change {
		if claims[name] = v; v == nil {
			delete(claims, name)
		}
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: i.id}}, nil)
	require.NoError(t, err)
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	require.NoError(t, err)
	return token
}

func trusting(t *testing.T, c *clock, config auth.ProviderConfig, failed int) *auth.Service {
	t.Helper()
	config.Audience, config.Kind, config.Life, config.Now = "waybill", "workload", auth.WorkloadLife, c.Now
	p, err := auth.NewProvider(config)
	require.NoError(t, err)
	key, err := auth.NewIssuer(filepath.Join(t.TempDir(), "key"), "waybill")
	require.NoError(t, err)
	return auth.NewService(auth.Config{Store: pgtest.New(t), Issuer: key, Providers: []*auth.Provider{p}, FailedLogins: failed, Logger: slog.New(slog.DiscardHandler), Now: c.Now})
}

func TestExchange(t *testing.T) {
	t.Parallel()
	ctx, at, i := context.Background(), &clock{now: time.Now()}, newIssuer(t)
	rules := []auth.Rule{{Claims: map[string][]string{"repository": {"acme/*"}, "/kubernetes.io/namespace": {"build", "ci"}, "run": {"7"}, "fork": {"false"}}, Role: artifact.Pusher, Repositories: []string{"shop/**"}},
		{Claims: map[string][]string{"repository": {"acme/*"}}, Role: artifact.Reader},
		{Claims: map[string][]string{"id": {"9007199254740992", "7"}}, Role: artifact.Reader}}
	s := trusting(t, at, auth.ProviderConfig{URL: i.URL, Rules: rules}, 1000)
	secret, made, err := s.Exchange(ctx, i.sign(t, at.Now(), nil))
	require.NoError(t, err)
	require.Equal(t, "workload:"+i.URL+"#repo:acme/shop:ref:refs/heads/main", made.Principal().Name)
	require.Equal(t, artifact.Pusher, made.Role)
	require.Equal(t, []artifact.Binding{{Role: artifact.Reader}}, made.More, "every rule that matches counts")
	id, err := s.FromRequest(ctx, basic(secret))
	require.NoError(t, err)
	require.Equal(t, made.Principal(), id.Principal)
	at.forward(10 * time.Minute)
	_, err = s.Authenticate(ctx, secret)
	require.Equal(t, artifact.Unauthentic, artifact.KindOf(err), "it lasts ten minutes")

	_, second, err := s.Exchange(ctx, i.sign(t, at.Now(), map[string]any{"run": 8}))
	require.NoError(t, err)
	require.Equal(t, artifact.Reader, second.Role, "by the other rule")

	now := at.Now()
	hmac, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(strings.Repeat("k", 32))}, nil)
	require.NoError(t, err)
	symmetric, err := jwt.Signed(hmac).Claims(map[string]any{"iss": i.URL, "aud": "waybill", "sub": "x", "exp": now.Add(time.Hour).Unix()}).Serialize()
	require.NoError(t, err)
	parts := strings.Split(i.sign(t, now, nil), ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`))
	for what, c := range map[string]struct {
		token string
		kind  artifact.Kind
	}{
		"another issuer":           {i.sign(t, now, map[string]any{"iss": "https://evil.example"}), artifact.Unauthentic},
		"another audience":         {i.sign(t, now, map[string]any{"aud": "vault"}), artifact.Unauthentic},
		"no audience":              {i.sign(t, now, map[string]any{"aud": nil}), artifact.Unauthentic},
		"issued to another":        {i.sign(t, now, map[string]any{"aud": []string{"vault", "waybill"}, "azp": "vault"}), artifact.Unauthentic},
		"expired":                  {i.sign(t, now, map[string]any{"exp": now.Add(-time.Second).Unix()}), artifact.Unauthentic},
		"no end":                   {i.sign(t, now, map[string]any{"exp": nil}), artifact.Unauthentic},
		"not yet":                  {i.sign(t, now, map[string]any{"nbf": now.Add(2 * time.Minute).Unix()}), artifact.Unauthentic},
		"nobody":                   {i.sign(t, now, map[string]any{"sub": nil}), artifact.Unauthentic},
		"a number that is near":    {i.sign(t, now, map[string]any{"repository": "evil/shop", "id": json.Number("9007199254740993")}), artifact.Denied},
		"a number that is rounded": {i.sign(t, now, map[string]any{"repository": "evil/shop", "id": 7.4}), artifact.Denied},
		"no rule":                  {i.sign(t, now, map[string]any{"repository": "evil/shop"}), artifact.Denied},
		"below what * covers":      {i.sign(t, now, map[string]any{"repository": "acme/shop/fork"}), artifact.Denied},
		"a claim of a list":        {i.sign(t, now, map[string]any{"repository": map[string]any{"x": "acme/shop"}}), artifact.Denied},
		"symmetric":                {symmetric, artifact.Unauthentic},
		"unsigned":                 {none + "." + parts[1] + ".", artifact.Unauthentic},
		"another's signature":      {parts[0] + "." + parts[1] + "." + strings.Split(i.sign(t, now, map[string]any{"run": 9}), ".")[2], artifact.Unauthentic},
		"nothing":                  {"", artifact.Unauthentic},
		"too long":                 {strings.Repeat("a", 20_000), artifact.Unauthentic},
	} {
		secret, _, err := s.Exchange(ctx, c.token)
		require.Equal(t, c.kind, artifact.KindOf(err), "%s: %v", what, err)
		require.Empty(t, secret)
	}
}

// TestProviderAway: its keys are kept, new ones are found, and who sends tokens does not decide how often it is asked.
func TestProviderAway(t *testing.T) {
	t.Parallel()
	ctx, at, i := context.Background(), &clock{now: time.Now()}, newIssuer(t)
	rules := []auth.Rule{{Claims: map[string][]string{"repository": {"acme/shop"}}, Role: artifact.Pusher}}
	s := trusting(t, at, auth.ProviderConfig{URL: i.URL, Rules: rules}, 1000)
	i.away.Store(true)
	_, _, err := s.Exchange(ctx, i.sign(t, at.Now(), nil))
	require.Equal(t, artifact.Unavailable, artifact.KindOf(err))
	for range 20 {
		_, _, err = s.Exchange(ctx, i.sign(t, at.Now(), nil))
		require.Equal(t, artifact.Unavailable, artifact.KindOf(err))
	}
	require.LessOrEqual(t, i.asked.Load(), int64(1))
	i.away.Store(false)
	at.forward(time.Minute)
	_, _, err = s.Exchange(ctx, i.sign(t, at.Now(), nil))
	require.NoError(t, err)
	i.rotate(t, "two")
	_, _, err = s.Exchange(ctx, i.sign(t, at.Now(), nil))
	require.NoError(t, err, "a key that it has since")
	i.away.Store(true)
	_, _, err = s.Exchange(ctx, i.sign(t, at.Now(), nil))
	require.NoError(t, err)
	keys := i.keys()
	for n := range 20 {
		i.rotate(t, fmt.Sprint("unknown", n))
		_, _, err = s.Exchange(ctx, i.sign(t, at.Now(), nil))
		require.Error(t, err)
	}
	require.LessOrEqual(t, i.asked.Load(), int64(8))

	text, err := json.Marshal(keys)
	require.NoError(t, err)
	given := trusting(t, at, auth.ProviderConfig{URL: "https://cluster.invalid", Keys: text, Rules: rules}, 1000)
	_, _, err = given.Exchange(ctx, i.sign(t, at.Now(), map[string]any{"iss": "https://cluster.invalid"}))
	require.Equal(t, artifact.Unauthentic, artifact.KindOf(err), "not signed by a key that was given")
}

// TestGuessing: an address may guess so often a minute; who never guessed is not locked out by who does.
func TestGuessing(t *testing.T) {
	t.Parallel()
	at, i := &clock{now: time.Now()}, newIssuer(t)
	s := trusting(t, at, auth.ProviderConfig{URL: i.URL}, 5)
	from := func(address string) context.Context { return auth.WithAddress(context.Background(), address) }
	token, _, err := s.Create(from(""), artifact.System, auth.Grant{Name: "ci", Role: artifact.Reader, Expires: at.Now().Add(time.Hour)})
	require.NoError(t, err)
	other, made, err := s.Create(from(""), artifact.System, auth.Grant{Name: "other", Role: artifact.Reader, Expires: at.Now().Add(time.Hour)})
	require.NoError(t, err)
	_ = other
	for range 5 {
		_, err = s.FromRequest(from("192.0.2.1"), basic("guess"))
		require.Equal(t, artifact.Unauthentic, artifact.KindOf(err))
	}
	for _, header := range []string{basic("guess"), basic(token), "Bearer " + token, "Bearer a.b.c"} {
		_, err = s.FromRequest(from("192.0.2.1"), header)
		require.Equal(t, artifact.TooMany, artifact.KindOf(err), "locked out, also with what is right: nothing is told")
	}
	_, err = s.Authenticate(from("192.0.2.1"), token)
	require.Equal(t, artifact.TooMany, artifact.KindOf(err), "the page asks so")
	_, _, err = s.Exchange(from("192.0.2.1"), "x")
	require.Equal(t, artifact.TooMany, artifact.KindOf(err))
	_, err = s.FromRequest(from("192.0.2.2"), basic(token))
	require.NoError(t, err, "another address is another")
	at.forward(13 * time.Second)
	_, err = s.FromRequest(from("192.0.2.1"), basic(token))
	require.NoError(t, err, "a minute's share of the time later")

	// An IPv6 host has a whole /64.
	for n := range 5 {
		_, _ = s.FromRequest(from(fmt.Sprintf("2001:db8::%d", n+1)), basic("guess"))
	}
	at.forward(2 * time.Second) // what was right a moment ago is not asked about again
	_, err = s.FromRequest(from("2001:db8::ffff"), basic(token))
	require.Equal(t, artifact.TooMany, artifact.KindOf(err))
	_, err = s.FromRequest(from("2001:db8:0:1::1"), basic(token))
	require.NoError(t, err)

	// What was a token once is no guess: a node that goes on with one does not lock its neighbours out.
	require.NoError(t, s.Revoke(from(""), artifact.System, made.ID))
	for range 20 {
		_, err = s.FromRequest(from("192.0.2.9"), basic(other))
		require.Equal(t, artifact.Unauthentic, artifact.KindOf(err))
	}
	_, err = s.FromRequest(from("192.0.2.9"), basic(token))
	require.NoError(t, err)
}

// TestRuleSaysWhose: of an issuer whose tokens anybody can get, a rule that another owner's token would match is refused.
func TestRuleSaysWhose(t *testing.T) {
	t.Parallel()
	const github, gitlab, google = "https://token.actions.githubusercontent.com", "https://gitlab.com", "https://accounts.google.com"
	for _, c := range []struct {
		issuer string
		claims map[string][]string
		sound  bool
	}{
		{github, map[string][]string{"repository": {"acme/shop"}}, true},
		{github, map[string][]string{"repository": {"acme/*"}}, true},
		{github, map[string][]string{"sub": {"repo:acme/*:ref:refs/heads/main"}}, true},
		{github, map[string][]string{"repository_owner": {"acme"}, "repository": {"*/shop"}}, true},
		{github, map[string][]string{"repository": {"acme/shop", "*/shop"}}, false},
		{github, map[string][]string{"repository": {"a*/shop"}}, false},
		{github, map[string][]string{"repository": {"[a-z]*/shop"}}, false},
		{github, map[string][]string{"repository": {"acm?/shop"}}, false},
		{github, map[string][]string{"repository_owner": {"acme*"}}, false},
		{github, map[string][]string{"sub": {"repo:*/shop:ref:refs/heads/main"}}, false},
		{github, map[string][]string{"sub": {"repo:**"}}, false},
		{github, map[string][]string{"ref": {"refs/heads/main"}}, false},
		{gitlab, map[string][]string{"sub": {"project_path:acme/**"}}, true},
		{gitlab, map[string][]string{"sub": {"project_path:*/shop:ref_type:branch:ref:main"}}, false},
		{google, map[string][]string{"email": {"build-*@acme.iam.gserviceaccount.com"}}, true},
		{google, map[string][]string{"email": {"build@*.iam.gserviceaccount.com"}}, false},
		{google, map[string][]string{"email": {"*"}}, false},
		{"https://login.acme.example", map[string][]string{"repository": {"*/shop"}}, true},
	} {
		_, wrong := auth.Rule{Claims: c.claims, Role: artifact.Pusher}.Check(c.issuer)
		if c.sound {
			require.NoError(t, wrong, "%s %v", c.issuer, c.claims)
			continue
		}
		require.ErrorContains(t, wrong, "anybody can get a token of "+c.issuer, "%v", c.claims)
	}
}
