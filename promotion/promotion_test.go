package promotion

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

func TestParse(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("testdata/pipelines.yaml")
	require.NoError(t, err)
	var cases []struct{ Name, Source, Error string }
	require.NoError(t, yaml.UnmarshalWithOptions(src, &cases, yaml.Strict()))
	require.NotEmpty(t, cases)
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse("p.yaml", []byte(c.Source))
			if c.Error == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.Error)
			require.Equal(t, artifact.Invalid, artifact.KindOf(err))
		})
	}
}

func TestDefault(t *testing.T) {
	t.Parallel()
	all, err := Parse("default.yaml", Default())
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, DefaultName, all[0].Name())
	require.Equal(t, "dev → staging → production", all[0].String())
	require.True(t, all[0].Matches(repository(t, "any/thing")))
}

func FuzzParse(f *testing.F) {
	f.Add(Default())
	f.Fuzz(func(t *testing.T, src []byte) {
		all, err := Parse("p.yaml", src)
		if err != nil && artifact.KindOf(err) == "" {
			t.Fatalf("an error without a kind: %v", err)
		}
		for _, p := range all {
			if len(p.Environments) == 0 || p.Hash().IsZero() {
				t.Fatalf("%+v", p)
			}
		}
	})
}

func TestHashIsOfMeaning(t *testing.T) {
	t.Parallel()
	parse := func(environments string) artifact.Digest {
		all, err := Parse("p.yaml", []byte("apiVersion: waybill/v1\nkind: Pipeline\nmetadata: {name: p}\nspec: {match: {repositories: ['**']}, environments: "+environments+"}\n"))
		require.NoError(t, err)
		return all[0].Hash()
	}
	plain := parse("[{name: dev}, {name: prod, requires: {after: [dev], scan: {maxAge: 24h}}}]")
	require.Equal(t, plain, parse("[ {name: 'dev'}, {name: prod, requires: {scan: {maxAge: 1440m}, after: [dev], signed: true}} ]"))
	require.NotEqual(t, plain, parse("[{name: dev}, {name: prod, requires: {after: [dev], scan: {maxAge: 25h}}}]"))
	require.NotEqual(t, plain, parse("[{name: dev}, {name: prod, requires: {after: [dev]}}]"))
}

func TestChoose(t *testing.T) {
	t.Parallel()
	pipeline := func(name, pattern string) Versioned {
		all, err := Parse("p.yaml", []byte("apiVersion: waybill/v1\nkind: Pipeline\nmetadata: {name: "+name+"}\nspec: {match: {repositories: ['"+pattern+"']}, environments: [{name: dev}]}\n"))
		require.NoError(t, err)
		return Versioned{Pipeline: all[0], Version: 1}
	}
	all := []Versioned{pipeline("default", "**"), pipeline("shop", "shop/**"), pipeline("returns", "*/returns")}
	chosen := func(r string) string {
		p, err := choose(all, repository(t, r))
		require.NoError(t, err)
		return p.Name()
	}
	require.Equal(t, "default", chosen("bank/ledger"))
	require.Equal(t, "shop", chosen("shop/cart"))
	require.Equal(t, "returns", chosen("bank/returns"))
	_, err := choose(all, repository(t, "shop/returns"))
	require.Equal(t, artifact.Conflict, artifact.KindOf(err))
	require.ErrorContains(t, err, "shop")
	require.ErrorContains(t, err, "returns")
	_, err = choose(nil, repository(t, "a/b"))
	require.Equal(t, artifact.NotFound, artifact.KindOf(err))
}

func TestUnmet(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	dev, staging := environment(t, "dev"), environment(t, "staging")
	all := Stage{Environment: environment(t, "production"), Requires: Requires{After: []artifact.Environment{dev, staging},
		Scan: &ScanGate{MaxAge: 24 * time.Hour, Severity: artifact.High}}}
	scanned := func(age time.Duration, findings ...artifact.Severity) artifact.Scan {
		s := artifact.Scan{Digest: digest("image"), State: artifact.Scanned, ScannedAt: now.Add(-age)}
		for i, severity := range findings {
			s.Findings = append(s.Findings, artifact.Finding{ID: "CVE-" + string(rune('A'+i)), Severity: severity})
		}
		return s
	}
	good := Evidence{Reached: []artifact.Environment{staging, dev}, KeyID: "k1", Signature: digest("sig"), Scans: []artifact.Scan{scanned(24*time.Hour, artifact.Medium)}}
	for name, c := range map[string]struct {
		change func(*Evidence)
		want   []string // rule and a part of the message, alternating
	}{
		"all met":      {func(*Evidence) {}, nil},
		"nothing met":  {func(e *Evidence) { *e = Evidence{} }, []string{"after", "to dev", "after", "to staging", "signed", "not signed yet", "scan", "no image"}},
		"one after":    {func(e *Evidence) { e.Reached = e.Reached[1:] }, []string{"after", "promote it there first"}},
		"another key":  {func(e *Evidence) { e.KeyRefused = "was revoked by ada: lost" }, []string{"signed", "key k1 alone, which was revoked by ada: lost"}},
		"recalled":     {func(e *Evidence) { e.Recalled = []string{"it was recalled by ada: bad"} }, []string{"recalled", "ada: bad"}},
		"scan too old": {func(e *Evidence) { e.Scans[0].ScannedAt = now.Add(-24*time.Hour - time.Second) }, []string{"scan", "over the 24h0m0s allowed"}},
		"scan pending": {func(e *Evidence) { e.Scans[0].State, e.Scans[0].Reason = artifact.ScanPending, "no advisory database" }, []string{"scan", "pending: no advisory database"}},
		"scan failed":  {func(e *Evidence) { e.Scans[0].State, e.Scans[0].Reason = artifact.ScanFailed, "it crashed" }, []string{"scan", "failed: it crashed"}},
		"a bad license": {func(e *Evidence) {
			e.Scans[0].Findings = append(e.Scans[0].Findings, artifact.Finding{Class: artifact.ClassLicense, ID: "AGPL-3.0", Severity: artifact.Critical},
				artifact.Finding{Class: artifact.ClassMisconfiguration, ID: "DS-0017", Severity: artifact.High},
				artifact.Finding{ID: "CVE-B", Severity: artifact.Critical, VEX: &artifact.Assessment{Status: "fixed"}})
		}, nil},
		"under investigation": {func(e *Evidence) {
			e.Scans[0].Findings = []artifact.Finding{{ID: "CVE-B", Severity: artifact.Critical, VEX: &artifact.Assessment{Status: "under_investigation"}}}
		}, []string{"scan", "1 of severity high or worse: CVE-B"}},
		"a high one":              {func(e *Evidence) { e.Scans[0] = scanned(0, artifact.Low, artifact.High) }, []string{"scan", "1 of severity high or worse: CVE-B"}},
		"critical and old":        {func(e *Evidence) { e.Scans[0] = scanned(25*time.Hour, artifact.Critical) }, []string{"scan", "old", "scan", "CVE-A"}},
		"a severity that is none": {func(e *Evidence) { e.Scans[0] = scanned(0, "terrible") }, []string{"scan", "CVE-A"}},
		"one child unscanned": {func(e *Evidence) {
			e.Scans = append(e.Scans, artifact.Scan{Digest: digest("child"), State: artifact.ScanPending, Reason: "not scanned yet"})
		}, []string{"scan", digest("child").Short() + " is pending"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := good
			e.Scans = []artifact.Scan{good.Scans[0]}
			c.change(&e)
			unmet := all.Unmet(e, Asked{At: now})
			require.Len(t, unmet, len(c.want)/2, "%v", unmet)
			for i, r := range unmet {
				require.Equal(t, c.want[2*i], r.Rule)
				require.Contains(t, r.Message, c.want[2*i+1])
			}
		})
	}
	require.Empty(t, all.Unmet(good, Asked{At: now}), "any key")
	// Without parameters the gate asks for a scan, of any age and result, and no more.
	any := Stage{Requires: Requires{Scan: &ScanGate{}}}
	require.Empty(t, any.Unmet(Evidence{Signature: digest("sig"), Scans: []artifact.Scan{scanned(9999*time.Hour, artifact.Critical)}}, Asked{At: now}))
	require.Len(t, any.Unmet(Evidence{Signature: digest("sig"), Scans: []artifact.Scan{{State: artifact.ScanPending}}}, Asked{At: now}), 1)
}

func TestBefore(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ trail, current, want string }{
		{"", "", ""}, {"A", "A", ""}, {"AB", "B", "A"}, {"ABC", "C", "B"},
		{"ABCb", "B", "A"},   // rolled back once: the next goes further back, not forth
		{"ABCba", "A", ""},   // and there is nothing before the first
		{"ABCbD", "D", "B"},  // promoted after a rollback
		{"ABA", "A", "B"},    // promoted again
		{"AB", "", "B"},      // the current one, C, was recalled: the trail is without it
		{"ACa", "A", ""},     // B was recalled
		{"AABB", "B", "A"},   // what stands twice in a row is one
		{"bA", "A", "B"},     // a rollback whose own past was recalled
		{"ABCbDd", "D", "B"}, // a rollback to the current one
	} {
		var trail []artifact.Promotion
		for _, r := range c.trail {
			p := artifact.Promotion{Action: "promote", Digest: digest(string(r))}
			if r >= 'a' {
				p = artifact.Promotion{Action: "rollback", Digest: digest(string(r - 'a' + 'A'))}
			}
			trail = append(trail, p)
		}
		var current artifact.Digest
		if c.current != "" {
			current = digest(c.current)
		}
		p, ok := before(trail, current)
		require.Equal(t, c.want != "", ok, "%+v", c)
		if ok {
			require.Equal(t, digest(c.want), p.Digest, "%+v", c)
		}
	}
}

// grants is a small world: what dev may pull.
type grants struct {
	dev      artifact.Digest
	recalled artifact.Digest
	away     bool
}

var errAway = errors.New("the database is away")

func (g grants) Granted(_ context.Context, es []artifact.Environment, _ artifact.Repository, d artifact.Digest) (bool, error) {
	if g.away {
		return true, errAway
	}
	for _, e := range es {
		if e.String() == "dev" && d == g.dev {
			return true, nil
		}
	}
	return false, nil
}

func (g grants) GrantedOf(ctx context.Context, es []artifact.Environment, r artifact.Repository, all []artifact.Digest) (granted []artifact.Digest, err error) {
	for _, d := range all {
		ok, err := g.Granted(ctx, es, r, d)
		if err != nil {
			return nil, err
		}
		if ok {
			granted = append(granted, d)
		}
	}
	return granted, nil
}

func (g grants) GrantedRepositories(_ context.Context, es []artifact.Environment) ([]artifact.Repository, error) {
	if contains(es, must(artifact.ParseEnvironment("dev"))) {
		return []artifact.Repository{must(artifact.ParseRepository("shop/returns")), must(artifact.ParseRepository("bank/x"))}, nil
	}
	return nil, nil
}

func (g grants) Recalled(_ context.Context, _ artifact.Repository, d artifact.Digest) (string, string, bool, error) {
	return "ada", "CVE-2024-24790", d == g.recalled, nil
}

func also(p artifact.Principal, more ...artifact.Binding) artifact.Principal {
	p.More = more
	return p
}

func TestGate(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	r := repository(t, "shop/returns")
	dev, production := environment(t, "dev"), environment(t, "production")
	world := grants{dev: digest("good"), recalled: digest("bad")}
	gate := NewGate(world)
	deployer := func(es ...artifact.Environment) artifact.Principal {
		return artifact.Principal{Name: "node", Role: artifact.Deployer, Repositories: []string{"shop/**"}, Environments: es}
	}
	for _, c := range []struct {
		p    artifact.Principal
		d    string
		want string // part of the refusal; "" allowed
	}{
		{artifact.Principal{Name: "a", Role: artifact.Admin}, "other", ""},
		{artifact.Principal{Name: "a", Role: artifact.Pusher, Repositories: []string{"shop/**"}}, "other", ""},
		{artifact.Principal{Name: "a", Role: artifact.Reader}, "other", ""},
		{artifact.Principal{Name: "a", Role: artifact.Promoter}, "other", ""},
		{artifact.Principal{Name: "a", Role: artifact.Approver}, "other", ""},
		{artifact.Principal{Name: "a", Role: artifact.Pusher, Repositories: []string{"bank/**"}}, "good", "no role for shop/returns"},
		{artifact.Principal{Name: "a", Role: artifact.Auditor}, "good", "auditor"},
		{artifact.Principal{}, "good", "nobody signed in"},
		{deployer(dev), "good", ""},
		{deployer(production, dev), "good", ""},
		{deployer(production), "good", "not promoted to production"},
		{deployer(dev), "other", "not promoted to dev"},
		{deployer(dev), "bad", "was recalled by ada: CVE-2024-24790"},
		{deployer(), "good", "deployer"},
		{artifact.Principal{Name: "a", Role: artifact.Deployer, Repositories: []string{"bank/**"}, Environments: []artifact.Environment{dev}}, "good", "no role for"},
		{also(deployer(production), artifact.Binding{Role: artifact.Deployer, Repositories: []string{"bank/**"}, Environments: []artifact.Environment{dev}}), "good", "not promoted to production"},
		{also(deployer(production), artifact.Binding{Role: artifact.Deployer, Repositories: []string{"*/returns"}, Environments: []artifact.Environment{dev}}), "good", ""},
		{also(deployer(dev), artifact.Binding{Role: artifact.Reader, Repositories: []string{"bank/**"}}), "good", ""},
		{also(deployer(dev), artifact.Binding{Role: artifact.Reader, Repositories: []string{"bank/**"}}), "other", "not promoted to dev"},
		{also(deployer(dev), artifact.Binding{Role: artifact.Reader, Repositories: []string{"shop/**"}}), "other", ""},
	} {
		err := gate.Pull(ctx, c.p, r, digest(c.d))
		filtered, ferr := gate.Filter(ctx, c.p, r, []artifact.Digest{digest(c.d)})
		require.NoError(t, ferr)
		require.Equal(t, err == nil, filtered[digest(c.d)], "Filter is Pull for lists: %+v", c)
		if c.want == "" {
			require.NoError(t, err, "%+v", c)
			continue
		}
		require.ErrorContains(t, err, c.want, "%+v", c)
		if !c.p.Anonymous() {
			var denied *artifact.Error
			require.ErrorAs(t, err, &denied)
			require.Equal(t, artifact.Denied, denied.Kind)
			require.NotEmpty(t, denied.Reasons)
		}
	}
	world.away = true
	require.ErrorIs(t, NewGate(world).Pull(ctx, deployer(dev), r, digest("good")), errAway, "no answer is no permission")
	_, err := NewGate(world).Filter(ctx, deployer(dev), r, []artifact.Digest{digest("good")})
	require.ErrorIs(t, err, errAway)

	all := []artifact.Repository{r, repository(t, "shop/other"), repository(t, "bank/x")}
	known, err := gate.Repositories(ctx, deployer(dev), all)
	require.NoError(t, err)
	require.Equal(t, []artifact.Repository{r}, known, "what is granted, in its own repositories")
	known, err = gate.Repositories(ctx, artifact.Principal{}, all)
	require.NoError(t, err)
	require.Empty(t, known)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func digest(s string) artifact.Digest { return artifact.DigestOf([]byte(s)) }

func repository(t *testing.T, s string) artifact.Repository {
	t.Helper()
	r, err := artifact.ParseRepository(s)
	require.NoError(t, err)
	return r
}

func environment(t *testing.T, s string) artifact.Environment {
	t.Helper()
	e, err := artifact.ParseEnvironment(s)
	require.NoError(t, err)
	return e
}
