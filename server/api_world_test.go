package server_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/auth"
	"waybill/policy"
	"waybill/promotion"
	"waybill/registry"
	"waybill/server"
	"waybill/storage"
)

// noon is when everything in these tests happens.
var noon = time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)

// world stands behind the API: what other packages hold in PostgreSQL and on disk, in memory. Each of its methods
// answers as the interface it serves says, so that a handler that asks the wrong question gets a wrong answer.
type world struct {
	imported    atomic.Pointer[artifact.AdvisoryDatabase]
	shop, other artifact.Repository
	production  artifact.Environment
	manifests   map[string]artifact.StoredManifest
	tags        map[string]artifact.Digest
	blobs       map[artifact.Digest][]byte
	promoted    artifact.Digest // in shop, to production
	waiting     artifact.Digest // in shop, pushed and not promoted
	documents   []server.Document
	entries     []server.LedgerEntry
	found       []artifact.LedgerFilter
	asked       artifact.PullFilter // the last
	listingErr  error
	history     []artifact.Promotion
	withdrawn   []artifact.Withdrawn
	unmet       []artifact.Reason
	problems    []string
	denied      *artifact.DeniedPush
	builderErr  error
	slow        time.Duration // that a collection takes
	busy        bool          // a check runs already

	mu   sync.Mutex // guards calls
	done []string   // what changed something, in order
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		manifests: map[string]artifact.StoredManifest{}, tags: map[string]artifact.Digest{}, blobs: map[artifact.Digest][]byte{},
	}
	var err error
	w.shop, err = artifact.ParseRepository("shop/returns")
	require.NoError(t, err)
	w.other, err = artifact.ParseRepository("other/thing")
	require.NoError(t, err)
	w.production, err = artifact.ParseEnvironment("production")
	require.NoError(t, err)
	w.promoted = w.addImage(t, w.shop, "v456", "10001")
	w.waiting = w.addImage(t, w.shop, "v457", "10002")
	w.addImage(t, w.other, "v1", "10003")
	w.tags[w.shop.String()+":production"] = w.promoted
	w.history = []artifact.Promotion{{ID: 1, Action: "promote", Repository: w.shop, Environment: w.production, Digest: w.promoted, Version: "v456", Actor: "token:release", LedgerIndex: 1, At: noon.Add(-time.Hour)}}
	for i := range 3 {
		w.entries = append(w.entries, server.LedgerEntry{Index: int64(i), Body: fmt.Appendf(nil, `{"kind":"test","n":%d}`, i)})
	}
	return w
}

func (w *world) addImage(t *testing.T, r artifact.Repository, tag, user string) artifact.Digest {
	t.Helper()
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{"User":%q,"Env":["PASSWORD=hunter2"],"ExposedPorts":{"8080/tcp":{}}},"rootfs":{"type":"layers","diff_ids":[%q]}}`, user, artifact.DigestOf([]byte("tar")))
	body := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":5}]}`,
		artifact.MediaTypeManifest, artifact.MediaTypeConfig, artifact.DigestOf(config), len(config), artifact.MediaTypeLayerGzip, artifact.DigestOf([]byte("layer")))
	m, err := artifact.ParseManifest(artifact.MediaTypeManifest, body)
	require.NoError(t, err)
	d := artifact.DigestOf(body)
	w.blobs[artifact.DigestOf(config)] = config
	w.manifests[r.String()+"@"+d.String()] = artifact.StoredManifest{Repository: r, Digest: d, Manifest: m, Body: body, IsImage: true, Platform: "linux/amd64", PushedBy: "token:ci", PushedAt: noon.Add(-2 * time.Hour)}
	w.tags[r.String()+":"+tag] = d
	return d
}

func (w *world) record(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = append(w.done, fmt.Sprintf(format, args...))
}

func (w *world) changes() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.done...)
}

// principals by what stands after Bearer. scoped-… are bound to another repository than the one that matters.
func (w *world) FromRequest(_ context.Context, authorization string) (auth.Identity, error) {
	name, ok := strings.CutPrefix(authorization, "Bearer ")
	if name == "access-token" {
		return auth.Identity{Principal: artifact.Principal{Name: "token:ci", Role: artifact.Admin}, Scopes: []auth.Scope{}}, nil
	}
	p := artifact.Principal{Name: "token:" + name, Role: artifact.Role(strings.TrimPrefix(name, "scoped-"))}
	if strings.HasPrefix(name, "scoped-") {
		p.Repositories = []string{"other/**"}
	}
	if p.Role == artifact.Deployer {
		p.Environments = []artifact.Environment{w.production}
	}
	for _, r := range artifact.Roles {
		if ok && p.Role == r {
			return auth.Identity{Principal: p}, nil
		}
	}
	return auth.Identity{}, artifact.Errorf(artifact.Unauthentic, "the token is not known; make a new one")
}

func (w *world) Pull(_ context.Context, p artifact.Principal, r artifact.Repository, d artifact.Digest) error {
	if p.Can(artifact.ActionPull, r) || (p.Role == artifact.Deployer && p.Sees(r) && r == w.shop && d == w.promoted) {
		return nil
	}
	return &artifact.Error{Kind: artifact.Denied, Message: "not promoted", Reasons: []artifact.Reason{{Rule: "promotion", Message: d.String() + " is not promoted to production"}}}
}

func (w *world) Filter(ctx context.Context, p artifact.Principal, r artifact.Repository, all []artifact.Digest) (map[artifact.Digest]bool, error) {
	allowed := map[artifact.Digest]bool{}
	for _, d := range all {
		allowed[d] = w.Pull(ctx, p, r, d) == nil
	}
	return allowed, nil
}

// gate is the world as the pull gate: its Repositories is another than the content's.
type gate struct{ *world }

func (w gate) Repositories(ctx context.Context, p artifact.Principal, all []artifact.Repository) ([]artifact.Repository, error) {
	return slices.DeleteFunc(slices.Clone(all), func(r artifact.Repository) bool {
		for _, m := range w.manifests {
			if m.Repository == r && w.Pull(ctx, p, r, m.Digest) == nil {
				return false
			}
		}
		return true
	}), nil
}

func (w *world) Manifest(_ context.Context, r artifact.Repository, d artifact.Digest) (artifact.StoredManifest, error) {
	m, ok := w.manifests[r.String()+"@"+d.String()]
	if !ok {
		return m, artifact.Errorf(artifact.NotFound, "%s@%s is not here", r, d)
	}
	return m, nil
}

func (w *world) Blob(_ context.Context, _ artifact.Repository, d artifact.Digest) ([]byte, error) {
	b, ok := w.blobs[d]
	if !ok {
		return nil, artifact.Errorf(artifact.NotFound, "no blob %s", d)
	}
	return b, nil
}

func (w *world) ResolveTag(_ context.Context, r artifact.Repository, t artifact.Tag) (artifact.Digest, error) {
	d, ok := w.tags[r.String()+":"+t.String()]
	if !ok {
		return d, artifact.Errorf(artifact.NotFound, "%s has no tag %s", r, t)
	}
	return d, nil
}

func (w *world) Repositories(context.Context) ([]artifact.Repository, error) {
	return []artifact.Repository{w.other, w.shop}, nil
}

func (w *world) TagsOf(_ context.Context, r artifact.Repository, d artifact.Digest) ([]artifact.Tag, error) {
	var all []artifact.Tag
	for name, at := range w.tags {
		if tag, ok := strings.CutPrefix(name, r.String()+":"); ok && at == d {
			parsed, err := artifact.ParseTag(tag)
			if err != nil {
				return nil, err
			}
			all = append(all, parsed)
		}
	}
	return all, nil
}

func (w *world) DigestsByPrefix(_ context.Context, r artifact.Repository, hex string) (all []artifact.Digest, err error) {
	for _, m := range w.manifests {
		if m.Repository == r && strings.HasPrefix(m.Digest.Hex(), hex) {
			all = append(all, m.Digest)
		}
	}
	return all, nil
}

func (w *world) Layer(_ context.Context, _ artifact.Repository, d artifact.Descriptor) (artifact.LayerFacts, error) {
	return artifact.LayerFacts{Format: artifact.FactsFormat, Digest: d.Digest, DiffID: artifact.DigestOf([]byte("tar")), Compressed: d.Size, Uncompressed: 1024,
		Files:    []artifact.File{{Path: "app", Type: artifact.Regular, Mode: 0o755, Size: 512}},
		Packages: []artifact.Package{{Name: "openssl", Version: "3.0.1", Type: "deb", File: "app"}}}, nil
}

func (w *world) JudgeStored(_ context.Context, r artifact.Repository, d artifact.Digest) (policy.Verdict, error) {
	return policy.Verdict{VerdictRecord: artifact.VerdictRecord{Repository: r, Digest: d, Outcome: artifact.Allow, PolicyHash: artifact.DigestOf(nil), Policies: []string{"baseline@1"}}}, nil
}

func (w *world) DeniedPush(_ context.Context, r artifact.Repository, d artifact.Digest) (artifact.DeniedPush, error) {
	if w.denied == nil || w.denied.Verdict.Digest != d || w.denied.Verdict.Repository != r {
		return artifact.DeniedPush{}, artifact.Errorf(artifact.NotFound, "no such push")
	}
	return *w.denied, nil
}

func (w *world) DeniedTag(_ context.Context, r artifact.Repository, t artifact.Tag) (artifact.Digest, bool, error) {
	if w.denied == nil || w.denied.Verdict.Repository != r || w.denied.Reference != t.String() {
		return artifact.Digest{}, false, nil
	}
	return w.denied.Verdict.Digest, true, nil
}

func (w *world) DeniedByPrefix(_ context.Context, r artifact.Repository, hex string) ([]artifact.Digest, error) {
	if w.denied == nil || w.denied.Verdict.Repository != r || !strings.HasPrefix(w.denied.Verdict.Digest.Hex(), hex) {
		return nil, nil
	}
	return []artifact.Digest{w.denied.Verdict.Digest}, nil
}

func (w *world) Recalled(context.Context, artifact.Repository, artifact.Digest) (actor, reason string, ok bool, err error) {
	return "", "", false, nil
}

func (w *world) RefusedVerdict(_ context.Context, r artifact.Repository, reference string) (artifact.VerdictRecord, error) {
	if w.denied != nil && reference == w.denied.Verdict.Digest.String() {
		return w.denied.Verdict, nil
	}
	if r == w.shop && reference == "rooted" {
		return artifact.VerdictRecord{Repository: r, Digest: artifact.DigestOf([]byte("rooted")), Outcome: artifact.Deny, PolicyHash: artifact.DigestOf(nil),
			Reasons: []artifact.Reason{{Rule: "no-root-user", Policy: "baseline", Message: "it runs as root"}}}, nil
	}
	return artifact.VerdictRecord{}, artifact.Errorf(artifact.NotFound, "no verdict")
}

func (w *world) Scan(_ context.Context, d artifact.Digest) (artifact.Scan, error) {
	if d != w.promoted {
		return artifact.Scan{Digest: d, State: artifact.ScanPending, Reason: "no advisory database"}, nil
	}
	return artifact.Scan{Digest: d, State: artifact.Scanned, ScannedAt: noon, DatabaseDigest: artifact.DigestOf([]byte("db")), DatabaseUpdatedAt: noon.Add(-24 * time.Hour),
		Packages: []artifact.Package{{Name: "golang.org/x/net", Version: "v0.1.0", Type: "gobinary"}, {Name: "openssl", Version: "3.0.1", Type: "debian"}},
		Counts:   map[artifact.Severity]int{artifact.High: 1}, Findings: []artifact.Finding{{Class: "vulnerability", ID: "CVE-2026-1", Severity: artifact.High, Package: "openssl"}}}, nil
}

func (w *world) TurnedBad(context.Context, artifact.Repository, artifact.Digest) (artifact.TurnedBad, bool, error) {
	return artifact.TurnedBad{}, false, nil
}

func (w *world) DocumentVersions(_ context.Context, kind, name string, before, n int) ([]server.Document, error) {
	var all []server.Document
	for _, d := range slices.Backward(w.documents) {
		if d.Kind == kind && d.Name == name && (before == 0 || d.Version < before) && len(all) < n {
			all = append(all, d)
		}
	}
	return all, nil
}

func (w *world) DocumentVersion(_ context.Context, kind, name string, version int) (server.Document, error) {
	for _, d := range w.documents {
		if d.Kind == kind && d.Name == name && d.Version == version {
			return d, nil
		}
	}
	return server.Document{}, artifact.Errorf(artifact.NotFound, "no version %d", version)
}

func (w *world) Policies(context.Context) ([]policy.Versioned, error) {
	all, err := policy.Parse("baseline", policy.Baseline())
	return []policy.Versioned{{Document: all[0], Version: 4}}, err
}

func (w *world) JudgeUnder(_ context.Context, m artifact.StoredManifest, policies []policy.Versioned) (policy.Verdict, error) {
	return policy.NewSet(policies).Artifact(artifact.Subject{Repository: m.Repository, Digest: m.Digest}), nil
}

func (w *world) Impact(_ context.Context, changed []policy.Document, sees func(artifact.Repository) bool, tell func(*policy.ImpactChange, int)) (policy.Impact, error) {
	impact := policy.Impact{Images: 1, Environments: map[string]int{"production": 1}}
	if sees(w.shop) {
		tell(&policy.ImpactChange{Repository: w.shop, Digest: w.promoted, Was: artifact.Allow, Becomes: artifact.Deny, Reasons: []artifact.Reason{{Rule: "no-sshd", Policy: changed[0].Name(), Message: "it has one"}}}, 1)
		impact.Denied = 1
	}
	tell(nil, 1)
	if w.problems != nil {
		return impact, artifact.Errorf(artifact.Unavailable, "the database does not answer; try again")
	}
	return impact, nil
}

// waivingFake is apart because Waiving and the others share methods' names.
type waivingFake struct{ *world }

func (w waivingFake) Create(_ context.Context, p artifact.Principal, r policy.WaiverRequest) (artifact.Waiver, error) {
	if !p.CanAll(artifact.ActionApprove, r.Repository) {
		return artifact.Waiver{}, p.Refusal(artifact.ActionApprove, w.shop)
	}
	w.record("waive %s in %s until %s by %s", r.Rule, r.Repository, r.Expires.Format(time.RFC3339), p.Name)
	return artifact.Waiver{ID: 7, Rule: r.Rule}, nil
}

func (w waivingFake) Revoke(_ context.Context, p artifact.Principal, id int64) (artifact.Waiver, error) {
	if !p.CanAll(artifact.ActionApprove, "shop/**") {
		return artifact.Waiver{}, p.Refusal(artifact.ActionApprove, w.shop)
	}
	w.record("revoke waiver %d by %s", id, p.Name)
	return artifact.Waiver{ID: id}, nil
}

func (w waivingFake) List(context.Context, artifact.Principal, bool, int64, int) (all []artifact.Waiver, next int64, err error) {
	return nil, 0, nil
}

func (w *world) Signatures(context.Context, artifact.Repository, artifact.Digest) ([]server.SignatureRecord, error) {
	return []server.SignatureRecord{{KeyID: "k1", SignedAt: noon, Manifest: artifact.DigestOf([]byte("sig")), PolicyHash: artifact.DigestOf(nil)}}, nil
}

func (w *world) Status(context.Context) ([]artifact.Status, error) {
	return []artifact.Status{
		{Deployment: artifact.Deployment{Repository: w.shop, Environment: w.production, Digest: w.promoted, Version: "v456", Since: noon.Add(-time.Hour)}, Verdict: artifact.Allow, Scan: artifact.Scanned},
		{Deployment: artifact.Deployment{Repository: w.other, Environment: w.production, Digest: w.waiting, Since: noon}, Verdict: artifact.Allow, Scan: artifact.ScanPending},
	}, nil
}

func (w *world) Withdrawn(_ context.Context, at time.Time) ([]artifact.Withdrawn, error) {
	return slices.DeleteFunc(slices.Clone(w.withdrawn), func(one artifact.Withdrawn) bool { return one.RecalledAt.After(at) }), nil
}

func (w *world) History(_ context.Context, r artifact.Repository) ([]artifact.Promotion, error) {
	var all []artifact.Promotion
	for _, h := range w.history {
		if r.IsZero() || h.Repository == r {
			all = append(all, h)
		}
	}
	return all, nil
}

func (w *world) Replications(_ context.Context, r artifact.Repository, _ artifact.Replication, _ int) ([]artifact.Replication, error) {
	all := []artifact.Replication{{Target: "edge", Repository: w.shop, Digest: w.promoted, Environment: w.production, State: artifact.ReplicationCopied, Since: noon}}
	if r == w.shop {
		return all, nil
	}
	return append(all, artifact.Replication{Target: "edge", Repository: w.other, Digest: w.waiting, Environment: w.production, State: artifact.ReplicationFailed, Problem: "it is away", Since: noon}), nil
}

func (w *world) Promote(_ context.Context, p artifact.Principal, r promotion.Request) (promotion.Result, error) {
	if len(w.unmet) > 0 {
		return promotion.Result{}, &artifact.Error{Kind: artifact.Denied, Message: "2 gates are not met", Reasons: w.unmet}
	}
	w.record("promote %s %s %s by %s", r.Repository, r.Version, r.Environment, p.Name)
	return w.result(r.Repository, r.Environment), nil
}

func (w *world) RollbackTo(_ context.Context, p artifact.Principal, r promotion.Request) (promotion.Result, error) {
	w.record("rollback %s %s by %s", r.Repository, r.Environment, p.Name)
	return w.result(r.Repository, r.Environment), nil
}

func (w *world) Copies(context.Context, artifact.Principal, artifact.Repository, artifact.Digest) (recalls, others []artifact.Repository, err error) {
	return nil, nil, nil
}

func (w *world) Recall(_ context.Context, p artifact.Principal, r artifact.Repository, d artifact.Digest, reason, _ string) error {
	w.record("recall %s@%s by %s: %s", r, d, p.Name, reason)
	return nil
}

func (w *world) CreateRelease(_ context.Context, p artifact.Principal, name, _ string, versions []promotion.Request) (artifact.Release, error) {
	w.record("release %s of %d by %s", name, len(versions), p.Name)
	return w.Release(context.Background(), p, name)
}

func (w *world) Release(_ context.Context, _ artifact.Principal, name string) (artifact.Release, error) {
	return artifact.Release{Name: name, At: noon, Services: []artifact.ReleaseService{{Repository: w.shop, Digest: w.promoted, Version: "v456"}}}, nil
}

func (w *world) Releases(context.Context, artifact.Principal, artifact.Release, int) (all []artifact.Release, last artifact.Release, more bool, err error) {
	return nil, last, false, nil
}

func (w *world) PromoteRelease(_ context.Context, p artifact.Principal, name string, r promotion.Request) ([]promotion.Result, error) {
	if !p.CanPromote(w.shop, r.Environment) {
		return nil, p.Refusal(artifact.ActionPromote, w.shop)
	}
	w.record("promote release %s to %s by %s", name, r.Environment, p.Name)
	return []promotion.Result{w.result(w.shop, r.Environment)}, nil
}

func (w *world) Deliveries(context.Context) ([]artifact.Delivery, error) { return nil, nil }

func (w *world) Retire(_ context.Context, p artifact.Principal, e artifact.Environment, _ string) (int, error) {
	w.record("retire %s by %s", e, p.Name)
	return 3, nil
}

func (w *world) Approve(_ context.Context, p artifact.Principal, r promotion.Request) (artifact.Approval, error) {
	w.record("approve %s %s %s by %s", r.Repository, r.Version, r.Environment, p.Name)
	return artifact.Approval{ID: 3, Repository: r.Repository, Environment: r.Environment, Digest: w.promoted, Actor: p.Name, Role: p.Role, At: noon}, nil
}

func (w *world) RevokeApproval(_ context.Context, p artifact.Principal, id int64) (artifact.Approval, error) {
	if !p.Sees(w.shop) {
		return artifact.Approval{}, p.Refusal(artifact.ActionApprove, w.shop)
	}
	w.record("revoke approval %d by %s", id, p.Name)
	return artifact.Approval{ID: id, Repository: w.shop, Environment: w.production, Digest: w.promoted, At: noon}, nil
}

func (w *world) Waiting(_ context.Context, sees func(artifact.Repository) bool) ([]promotion.Waiting, error) {
	if !sees(w.shop) {
		return nil, nil
	}
	return []promotion.Waiting{{Repository: w.shop, Environment: w.production, Digest: w.waiting, Gate: promotion.ApprovalGate{Count: 2, Role: artifact.Approver}}}, nil
}

func (w *world) ResolveService(_ context.Context, name string) (artifact.Repository, error) {
	switch name {
	case "returns", "shop/returns":
		return w.shop, nil
	case "other/thing":
		return w.other, nil
	}
	return artifact.Repository{}, artifact.Errorf(artifact.NotFound, "no service is named %q", name)
}

func (w *world) Create(_ context.Context, actor artifact.Principal, g auth.Grant) (string, auth.Token, error) {
	w.record("token %s %s by %s", g.Role, g.Name, actor.Name)
	return "wbt_id_secret", auth.Token{ID: "id", ExpiresAt: g.Expires}, nil
}

func (w *world) Exchange(_ context.Context, idToken string) (string, auth.Token, error) {
	switch idToken {
	case "good":
		return "wbt_id_secret", auth.Token{ID: "id", Session: "workload:https://a.example#job", Role: artifact.Pusher}, nil
	case "often":
		return "", auth.Token{}, artifact.Errorf(artifact.TooMany, "too many")
	}
	return "", auth.Token{}, artifact.Errorf(artifact.Unauthentic, "not trusted")
}

func (w *world) Trusted() map[string]string {
	return map[string]string{"https://b.example": "b", "https://a.example": "a"}
}

func (w *world) SignIn() (issuer, clientID string, scopes []string, ok bool) {
	return "", "", nil, false
}

func (w *world) List(context.Context) ([]auth.Token, error) {
	return []auth.Token{{ID: "id", Name: "ci", Role: artifact.Pusher}}, nil
}

func (w *world) Revoke(_ context.Context, actor artifact.Principal, id string) error {
	if id != "known" {
		return artifact.Errorf(artifact.NotFound, "no token %s", id)
	}
	w.record("revoke %s by %s", id, actor.Name)
	return nil
}

func (w *world) Apply(_ context.Context, actor artifact.Principal, d server.ParsedDocument) (server.Applied, error) {
	w.record("apply %s %s by %s", d.Kind, d.Name, actor.Name)
	return server.Applied{Kind: d.Kind, Name: d.Name, Version: 1, Hash: d.Hash, Changed: true}, nil
}

func (w *world) Fit(_ context.Context, all []server.ParsedDocument) error {
	for _, d := range all {
		if d.Name == "tie" {
			return artifact.Errorf(artifact.Conflict, "shop and tie are for the same repositories alike")
		}
	}
	return nil
}

func (w *world) TagHistory(_ context.Context, r artifact.Repository, tag artifact.Tag) ([]artifact.TagChange, error) {
	if r != w.shop || tag.String() != "v456" {
		return nil, nil
	}
	return []artifact.TagChange{{Digest: w.promoted, Actor: "token:ci", At: noon.Add(-time.Hour)}, {Actor: "user:ada", At: noon}}, nil
}

// Affected: both repositories have images with the one CVE; in shop, of both versions.
func (w *world) Affected(_ context.Context, id string, after artifact.Digest, n int) ([]artifact.Affected, artifact.Digest, error) {
	var all []artifact.Affected
	for _, m := range w.manifests {
		if id != "CVE-2024-24790" || m.Digest.String() <= after.String() {
			continue
		}
		one := artifact.Affected{Repository: m.Repository, Digest: m.Digest, Platform: m.Platform, Tags: []artifact.Tag{}, FoundAt: noon,
			Findings: []artifact.Finding{{Class: artifact.ClassVulnerability, ID: id, Severity: artifact.Critical, Package: "stdlib", Installed: "v1.22.3", Fixed: "1.21.11, 1.22.4", FoundAt: noon}}}
		if m.Digest == w.promoted {
			one.PromotedAt, one.RunsIn = noon, []artifact.Affecting{{Environment: w.production, Digest: m.Digest, Version: "v456", Since: noon}}
		}
		all = append(all, one)
	}
	return all, artifact.Digest{}, nil
}

// advisoriesFake is the world as what holds advisories: its Pull is another than the gate's.
type advisoriesFake struct{ *world }

func (w advisoriesFake) Pull(_ context.Context, p artifact.Principal, source string) (artifact.AdvisoryDatabase, error) {
	w.record("pulled %s by %s", source, p.Name)
	return artifact.AdvisoryDatabase{}, nil
}

func (w *world) LastPull(context.Context) (artifact.AdvisoryPull, bool, error) {
	return artifact.AdvisoryPull{Source: w.Source(), At: noon, Problem: "it is away", Actor: "system"}, true, nil
}

func (w *world) LastJavaPull(context.Context) (artifact.AdvisoryPull, bool, error) {
	return artifact.AdvisoryPull{}, false, nil
}

func (w *world) JavaDatabase(context.Context) (artifact.AdvisoryDatabase, bool, error) {
	return artifact.AdvisoryDatabase{Digest: artifact.DigestOf([]byte("java")), Schema: 1, UpdatedAt: noon.Add(-time.Minute), ImportedAt: noon, ImportedBy: "system"}, true, nil
}

func (w *world) JavaSource() string    { return "ghcr.io/aquasecurity/trivy-java-db:1" }
func (w *world) Source() string        { return "ghcr.io/aquasecurity/trivy-db:2" }
func (w *world) MaxAge() time.Duration { return 72 * time.Hour }

// vexFake knows of no document.
type vexFake struct{}

func (vexFake) Apply(_ context.Context, _ artifact.Repository, _ artifact.Digest, findings []artifact.Finding) ([]artifact.Finding, error) {
	return findings, nil
}

func (w *world) SBOM(_ context.Context, _ artifact.Repository, d artifact.Digest, format string) ([]byte, error) {
	if d == w.waiting {
		return nil, artifact.Errorf(artifact.NotFound, "no SBOM yet")
	}
	return []byte(`{"format": "` + format + `"}` + "\n"), nil
}

func (w *world) Attached(_ context.Context, _ artifact.Repository, d artifact.Digest) ([]artifact.Attached, error) {
	return []artifact.Attached{{PredicateType: "https://cyclonedx.org/bom", KeyID: "k1", SignedAt: noon, Envelope: artifact.DigestOf([]byte(d.String())), Size: 8}}, nil
}

func (w *world) Envelope(context.Context, artifact.Repository, artifact.Digest) ([]byte, error) {
	return []byte("envelope"), nil
}

func (w *world) Provenance(_ context.Context, r artifact.Repository, d artifact.Digest) (json.RawMessage, artifact.Attached, error) {
	if d == w.waiting {
		return nil, artifact.Attached{}, artifact.Errorf(artifact.NotFound, "%s@%s was not built here", r, d)
	}
	return json.RawMessage(`{"predicateType":"https://slsa.dev/provenance/v1"}`), artifact.Attached{KeyID: "k1", SignedAt: noon}, nil
}

func (w *world) Run(_ context.Context, actor string, dryRun bool) (storage.Report, error) {
	if !dryRun {
		w.record("retention by %s", actor)
	}
	return storage.Report{DryRun: dryRun, Repositories: []storage.RepositoryReport{}}, nil
}

func (w *world) Current(context.Context) ([]server.Document, error) { return w.documents, nil }

func (w *world) Import(_ context.Context, actor artifact.Principal, archive io.Reader) error {
	b, err := io.ReadAll(archive)
	if err != nil {
		return err
	}
	w.record("import %d bytes by %s", len(b), actor.Name)
	w.imported.Store(&artifact.AdvisoryDatabase{Digest: artifact.DigestOf(b), Schema: 2, UpdatedAt: noon.Add(-time.Hour), ImportedAt: noon, ImportedBy: actor.Name})
	return nil
}

func (w *world) AdvisoryDatabase(context.Context) (artifact.AdvisoryDatabase, bool, error) {
	if d := w.imported.Load(); d != nil {
		return *d, true, nil
	}
	return artifact.AdvisoryDatabase{}, false, nil
}

// buildFake is apart because Builder and the others would share a method's name.
type buildFake struct{ *world }

func (b buildFake) Build(_ context.Context, p artifact.Principal, r server.BuildRequest, log server.BuildLog) (server.Built, error) {
	n, err := io.Copy(io.Discard, r.Context)
	if err != nil {
		return server.Built{}, err
	}
	if b.builderErr != nil && r.Target == "" {
		return server.Built{}, b.builderErr
	}
	fmt.Fprintf(log, "read %d bytes\nCOPY", n)
	if b.builderErr != nil {
		return server.Built{}, b.builderErr
	}
	b.record("build %s %s by %s", r.Repository, r.Args["A"], p.Name)
	return server.Built{Repository: r.Repository, Tags: r.Tags, Digest: b.promoted, Key: artifact.DigestOf(nil), New: true, BuiltBy: p.Name, BuiltAt: noon}, nil
}

func (b buildFake) Run(_ context.Context, id string) (artifact.Build, error) {
	if id != "one" {
		return artifact.Build{}, artifact.Errorf(artifact.NotFound, "there is no build %s", id)
	}
	shop, err := artifact.ParseRepository("shop/returns")
	return artifact.Build{ID: id, Repository: shop, State: artifact.BuildDone, Digest: b.promoted, AskedAt: noon}, err
}

func (b buildFake) Runs(ctx context.Context, f artifact.BuildFilter) ([]artifact.Build, error) {
	one, err := b.Run(ctx, "one")
	return []artifact.Build{one}, err
}

func (b buildFake) Follow(ctx context.Context, id string, after int64, tell func(int64, server.BuildEvent)) (artifact.Build, error) {
	for i := after + 1; i <= 2; i++ {
		tell(i, server.BuildEvent{Log: fmt.Sprintf("line %d", i)})
	}
	return b.Run(ctx, id)
}

func (b buildFake) Cancel(_ context.Context, id, by string) error {
	b.record("cancel %s by %s", id, by)
	return nil
}

func (b buildFake) BuiltOn(context.Context, artifact.BuiltOn, int) ([]artifact.BuiltOn, error) {
	shop, err := artifact.ParseRepository("shop/returns")
	return []artifact.BuiltOn{{Repository: shop, Digest: b.promoted, BaseRepository: shop, BaseDigest: b.promoted, Recalled: true}, {Repository: shop, Digest: b.promoted}}, err
}

func (b buildFake) BasesOf(ctx context.Context, _ artifact.Repository, _ artifact.Digest) ([]artifact.BuiltOn, error) {
	return b.BuiltOn(ctx, artifact.BuiltOn{}, 1)
}

func (w *world) Entries(_ context.Context, from int64, limit int) ([]server.LedgerEntry, error) {
	from = min(from, int64(len(w.entries)))
	return w.entries[from:min(int64(len(w.entries)), from+int64(limit))], nil
}

func (w *world) FindEntries(_ context.Context, f artifact.LedgerFilter) ([]artifact.LedgerLine, error) {
	w.found = append(w.found, f)
	all := []artifact.LedgerLine{{Index: 2, At: noon, Kind: "promotion", Actor: "token:ada/1", Repository: w.shop, Digest: w.promoted, Reason: "=1+1"}, {Index: 1, At: noon, Kind: "recall", Actor: "system"}}
	if f.Before.Index == 2 {
		return all[1:], nil
	}
	return all[:min(f.Limit, len(all))], nil
}

func (w *world) Checkpoint(context.Context) (server.LedgerCheckpoint, error) {
	return server.LedgerCheckpoint{Size: int64(len(w.entries)), Root: "cm9vdA==", Note: "waybill/test\n3\ncm9vdA==\n"}, nil
}

func (w *world) Witnessed(ctx context.Context) (server.LedgerCheckpoint, error) {
	return w.Checkpoint(ctx)
}

func (w *world) Proof(context.Context, int64, int64) ([][]byte, error) {
	return [][]byte{make([]byte, 32)}, nil
}

func (w *world) Pulls(_ context.Context, f artifact.PullFilter) ([]artifact.PullDay, error) {
	w.asked = f
	var all []artifact.PullDay
	for _, who := range []string{"token:k8s/1", "token:k8s/2"} {
		if who > f.After.Principal && len(all) < f.Limit {
			all = append(all, artifact.PullDay{Day: noon.Truncate(24 * time.Hour), Repository: w.shop, Digest: w.promoted, Principal: who, Pulls: 3, First: noon, Last: noon})
		}
	}
	return all, nil
}

func (w *world) EntriesAbout(context.Context, artifact.Repository, artifact.Digest, int) ([]int64, error) {
	return []int64{0, 1}, nil
}

func (w *world) EntriesWithin(_ context.Context, _, _ time.Time, limit int) ([]int64, error) {
	if w.busy {
		return make([]int64, limit), nil
	}
	return []int64{0, 2}, nil
}

func (w *world) Subject([]byte) (artifact.Repository, artifact.Digest, error) {
	return w.shop, w.promoted, nil
}

func (w *world) SignListing(files []server.ExportedFile) (string, error) {
	all := ""
	for _, f := range files {
		all += fmt.Sprintf("%x %d %s\n", f.SHA256, f.Size, f.Path)
	}
	return all, w.listingErr
}

func (w *world) Consistency(context.Context, int64, int64) ([][]byte, error) {
	return [][]byte{make([]byte, 32)}, nil
}

func (w *world) Tile(_ context.Context, path string) ([]byte, error) {
	if path == "tile/none" {
		return nil, artifact.Errorf(artifact.NotFound, "there is no %s", path)
	}
	return []byte(path), nil
}

func (w *world) Audit(context.Context) (server.LedgerReport, error) {
	return server.LedgerReport{Size: 3, Root: "cm9vdA==", Checkpoints: 1, Problems: w.problems}, nil
}

func (w *world) Account(context.Context) (storage.Account, error) {
	return storage.Account{CountedAt: noon, Blobs: 5, Bytes: 1037, Shared: 1000, Loose: 7, Uploads: 3, Quota: 5000, Repositories: []storage.Holding{
		{Repository: w.shop, Blobs: 2, Bytes: 1010, Own: 10, Quota: 2000, Document: "shop"}, {Repository: w.other, Blobs: 3, Bytes: 1020, Own: 20}}}, nil
}

func (w *world) Runs(_ context.Context, kind string, n int) ([]storage.Run, error) {
	return []storage.Run{{ID: int64(n), Kind: kind, Actor: "system", BeganAt: noon.Add(-time.Minute), EndedAt: noon, Outcome: storage.Outcome{Removed: 2, Freed: 5}}}, nil
}

func (w *world) Interval() time.Duration { return 6 * time.Hour }
func (w *world) Key() string             { return "k9" }

func (w *world) NextPull(context.Context) (time.Time, error) { return noon.Add(time.Hour), nil }

func (w *world) Matched(context.Context) (artifact.ScanCoverage, error) {
	return artifact.ScanCoverage{Matched: 7, Outdated: 1}, nil
}

func (w *world) AdvisoryDatabases(context.Context, int) ([]artifact.AdvisoryDatabase, error) {
	return []artifact.AdvisoryDatabase{{Digest: w.promoted, Schema: 2, UpdatedAt: noon, ImportedAt: noon, ImportedBy: "system"}}, nil
}

func (w *world) JavaDatabases(context.Context, int) ([]artifact.AdvisoryDatabase, error) {
	return nil, nil
}

func (w *world) Collect(ctx context.Context, _ artifact.Principal, dryRun bool) (registry.Collected, error) {
	if w.slow > 0 {
		select {
		case <-ctx.Done():
			return registry.Collected{}, ctx.Err()
		case <-time.After(w.slow):
		}
	}
	if !dryRun {
		w.record("collect")
	}
	return registry.Collected{DryRun: dryRun, Blobs: registry.Tally{Count: 1, Bytes: 5}, Freed: 5, Items: []registry.Item{{Kind: "blob", Name: w.waiting.String(), Bytes: 5}}}, nil
}

func (w *world) Check(_ context.Context, _ artifact.Principal, quarantine bool, report registry.CheckReport) (registry.Checked, error) {
	if w.busy {
		return registry.Checked{}, artifact.Errorf(artifact.Conflict, "a check of the blobs is under way already; wait for its end")
	}
	report.Progress(registry.CheckProgress{Blobs: 1, OfBlobs: 2})
	report.Found(registry.Finding{Damage: registry.DamageBytes, Digest: w.waiting, Size: 5, Detail: "its bytes are others", Repositories: []artifact.Repository{w.shop}, Quarantined: quarantine})
	if w.problems != nil {
		return registry.Checked{}, artifact.Errorf(artifact.Unavailable, "the database does not answer; try again")
	}
	return registry.Checked{Blobs: 2, Bytes: 10, Findings: 1}, nil
}

// keysFake are a key that was revoked, one that was rotated, and the one that signs.
type keysFake struct{ *world }

func (keysFake) SigningKeys(context.Context) ([]artifact.SigningKey, error) {
	key := func(id string, since time.Time) artifact.SigningKey {
		return artifact.SigningKey{ID: id, Algorithm: "ecdsa-p256", PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte(id)})), Reference: "hashivault://" + id, AddedBy: "token:root", Reason: "yearly", Since: since}
	}
	lost, old, current := key("k-1", noon.Add(-2*time.Hour)), key("k0", noon.Add(-time.Hour)), key("k1", noon)
	lost.Until, old.Until = old.Since, current.Since
	lost.Revocation = &artifact.KeyRevocation{At: noon, By: "token:root", Reason: "lost", Before: noon.Add(-90 * time.Minute)}
	return []artifact.SigningKey{lost, old, current}, nil
}

func (k keysFake) Rotate(_ context.Context, p artifact.Principal, reference, replaces, reason string) (artifact.SigningKey, error) {
	k.record("rotate %s to %q by %s: %s", replaces, reference, p.Name, reason)
	return artifact.SigningKey{ID: "k2"}, nil
}

func (k keysFake) Revoke(_ context.Context, p artifact.Principal, id, reason string, before time.Time) (artifact.SigningKey, error) {
	k.record("revoke %.4s by %s: %s", id, p.Name, reason)
	return artifact.SigningKey{ID: id, Revocation: &artifact.KeyRevocation{At: noon, Before: before}}, nil
}

func (keysFake) SignedEntries(context.Context, artifact.Repository, artifact.Digest, string, time.Time) ([]int64, error) {
	return []int64{0, 1 << 40}, nil
}

func (keysFake) LedgerVerifier() string { return "waybill/test+00000000+key" }

// start serves the API over w and returns the engine with it.
func (w *world) start(t *testing.T) (*httptest.Server, *gin.Engine) {
	t.Helper()
	return w.startWith(t, func(*server.APIConfig) {})
}

// startWith is start with something else behind a part of it.
func (w *world) startWith(t *testing.T, change func(*server.APIConfig)) (*httptest.Server, *gin.Engine) {
	t.Helper()
	gin.SetMode(gin.TestMode)
	engine := gin.New()
	cfg := server.APIConfig{Version: "v1.2.3", Authenticator: w, Tokens: w, Identities: w, Documents: w, Promotions: w, Gate: gate{w}, Content: w, Facts: w, Judge: w, Records: w, SBOMs: w, Attestations: w, VEX: vexFake{}, Replications: w, Webhooks: w,
		Advisories: advisoriesFake{w}, Builder: buildFake{w}, Ledger: w, Keys: keysFake{w}, Collector: w, Checker: w, Retention: w, Accounts: w, Runs: w, Trial: w, Waiving: waivingFake{w}, Pulls: w, Exports: w, Now: func() time.Time { return noon }}
	change(&cfg)
	server.NewAPI(cfg).Mount(engine)
	s := httptest.NewServer(engine)
	t.Cleanup(s.Close)
	return s, engine
}

// answer is a response that was read.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) decode(t *testing.T, into any) {
	t.Helper()
	require.NoError(t, json.Unmarshal(a.body, into), string(a.body))
}

func call(t *testing.T, s *httptest.Server, who, method, path, contentType, body string) answer {
	t.Helper()
	target := s.URL + "/api/v1" + path
	if outside, ok := strings.CutPrefix(path, "//"); ok {
		target = s.URL + "/" + outside
	}
	req, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	require.NoError(t, err)
	if who != "" {
		req.Header.Set("Authorization", "Bearer "+who)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := s.Client().Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return answer{res.StatusCode, res.Header, b}
}

func (w *world) result(r artifact.Repository, e artifact.Environment) promotion.Result {
	return promotion.Result{Promotion: artifact.Promotion{Repository: r, Environment: e, Digest: w.promoted, LedgerIndex: 1}}
}

func (w *world) Pipeline(context.Context, artifact.Repository) (promotion.Pipeline, error) {
	all, err := promotion.Parse("default", promotion.Default())
	return all[0], err
}
