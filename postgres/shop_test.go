package postgres_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/ledger"
	"waybill/policy"
	"waybill/postgres"
	"waybill/postgres/pgtest"
	"waybill/promotion"
)

// judge allows what is stored, except what was denied since.
type judge struct {
	t      require.TestingT
	db     *postgres.DB
	denied map[artifact.Digest]bool
}

func (j judge) JudgeStored(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (policy.Verdict, error) {
	m, err := j.db.Manifest(ctx, repository, digest)
	if err != nil {
		return policy.Verdict{}, err
	}
	documents, err := policy.Parse("baseline.yaml", policy.Baseline())
	require.NoError(j.t, err)
	set := policy.NewSet([]policy.Versioned{{Document: documents[0], Version: 1}})
	subject := artifact.Subject{Repository: repository, Digest: digest, Manifest: m.Manifest}
	if j.denied[digest] {
		return set.Uninspectable(subject, "it has grown an sshd"), nil
	}
	return set.Artifact(subject), nil
}

// shop is a repository in a database of its own, with the service that promotes in it.
type shop struct {
	t          testing.TB
	ctx        context.Context
	db         *postgres.DB
	repository artifact.Repository
	service    *promotion.Service
	judge      judge
	ada        artifact.Principal
}

func newShop(t testing.TB) *shop {
	t.Helper()
	db := pgtest.New(t)
	s := &shop{t: t, ctx: context.Background(), db: db, repository: parsed(t, artifact.ParseRepository, "shop/returns"),
		judge: judge{t, db, map[artifact.Digest]bool{}}, ada: artifact.Principal{Name: "user:ada", Role: artifact.Promoter}}
	s.service = promotion.NewService(promotion.Config{Store: db, Judge: s.judge})
	s.rotate("key-1")
	s.apply(string(promotion.Default()))
	return s
}

func (s *shop) apply(source string) {
	s.t.Helper()
	all, err := promotion.Parse("p.yaml", []byte(source))
	require.NoError(s.t, err)
	for _, p := range all {
		_, _, err = s.db.ApplyDocument(s.ctx, "Pipeline", p.Name(), p.Hash(), source, "user:ada")
		require.NoError(s.t, err)
	}
}

// put stores a manifest with a blob of its own; change makes it what it is.
func (s *shop) put(name string, change func(*artifact.Push)) artifact.Digest {
	s.t.Helper()
	push := push(s.t, s.db, s.repository, name, change)
	require.NoError(s.t, s.db.PutManifest(s.ctx, push, func(artifact.Tag) bool { return true }))
	return push.Digest
}

func push(t require.TestingT, db *postgres.DB, repository artifact.Repository, name string, change func(*artifact.Push)) artifact.Push {
	blob := artifact.Descriptor{MediaType: artifact.MediaTypeLayerGzip, Digest: artifact.DigestOf([]byte("layer of " + name)), Size: 1}
	p := artifact.Push{StoredManifest: artifact.StoredManifest{Repository: repository, IsImage: true, PushedBy: "token:ci",
		Manifest: artifact.Manifest{MediaType: artifact.MediaTypeManifest, Config: &artifact.Descriptor{MediaType: artifact.MediaTypeConfig, Digest: artifact.DigestOf([]byte("{}")), Size: 2},
			Layers: []artifact.Descriptor{blob}}},
		Reference: name, Judgement: artifact.Judgement{Verdict: artifact.VerdictRecord{Repository: repository, Outcome: artifact.Allow, Reasons: []artifact.Reason{}, Policies: []string{"baseline@1"},
			PolicyHash: artifact.DigestOf([]byte("policy"))}}}
	if change != nil {
		change(&p)
	}
	for _, d := range p.Manifest.Blobs() {
		require.NoError(t, db.SaveBlob(context.Background(), repository, d.Digest, d.Size, "", func() error { return nil }))
	}
	m := p.Manifest
	wire := map[string]any{"schemaVersion": 2, "mediaType": m.MediaType, "annotations": map[string]string{"name": name}}
	if m.IsIndex() {
		wire["manifests"] = m.Manifests
	} else {
		wire["config"], wire["layers"] = m.Config, m.Layers
	}
	if m.Subject != nil {
		wire["subject"] = m.Subject
	}
	body, err := json.Marshal(wire)
	require.NoError(t, err)
	p.Body, p.Digest = body, artifact.DigestOf(body)
	p.Verdict.Digest = p.Digest
	return p
}

func tagged(t testing.TB, tags ...string) func(*artifact.Push) {
	return func(p *artifact.Push) {
		for _, tag := range tags {
			p.Tags = append(p.Tags, parsed(t, artifact.ParseTag, tag))
		}
	}
}

// attached makes a push what refers to a subject and is no image: a signature, an SBOM.
func attached(subject artifact.Digest) func(*artifact.Push) {
	return func(p *artifact.Push) {
		p.IsImage = false
		p.Manifest.Layers[0].MediaType = "application/spdx+json"
		p.Manifest.Subject = &artifact.Descriptor{MediaType: artifact.MediaTypeManifest, Digest: subject, Size: 1}
	}
}

func index(children ...artifact.Digest) func(*artifact.Push) {
	return func(p *artifact.Push) {
		p.IsImage = false
		p.Manifest = artifact.Manifest{MediaType: artifact.MediaTypeIndex}
		for _, c := range children {
			p.Manifest.Manifests = append(p.Manifest.Manifests, artifact.Descriptor{MediaType: artifact.MediaTypeManifest, Digest: c, Size: 1})
		}
	}
}

// keyID is the id of a key that has a name here instead of a public half.
func keyID(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

// rotate puts a key in force.
func (s *shop) rotate(name string) artifact.SigningKey {
	s.t.Helper()
	known, err := s.db.SigningKeys(s.ctx)
	require.NoError(s.t, err)
	replaces := ""
	if len(known) > 0 {
		replaces = known[len(known)-1].ID
	}
	k, err := s.db.RotateKey(s.ctx, "user:ada", "yearly", replaces, func(context.Context, []artifact.SigningKey) (artifact.SigningKey, error) { return keyNamed(name), nil })
	require.NoError(s.t, err)
	return k
}

func keyNamed(name string) artifact.SigningKey {
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte(name)})
	return artifact.SigningKey{ID: keyID(name), Algorithm: "ecdsa-p256", PublicKey: string(public), Reference: artifact.ManagedKey + name + ".key"}
}

// sign writes what the signer leaves behind.
func (s *shop) sign(digest artifact.Digest, key string) artifact.Digest {
	s.t.Helper()
	signature := s.put("signature of "+digest.String(), func(p *artifact.Push) {
		p.IsImage = false
		p.Manifest.Layers[0].MediaType = "application/vnd.dev.cosign.simplesigning.v1+json"
		tagged(s.t, "sha256-"+digest.Hex()+".sig")(p)
	})
	_, err := s.db.Pool.Exec(s.ctx, `insert into signatures (repository, digest, predicate, key_id, policy_hash, signed_at, manifest) values ($1, $2, '', $3, $2, now(), $4)`,
		s.repository, digest, keyID(key), signature)
	require.NoError(s.t, err)
	_, err = s.db.Record(s.ctx, ledger.Entry{Kind: ledger.KindSigned, Actor: "system", Repository: s.repository, Digest: digest, Subject: keyID(key), Evidence: []artifact.Digest{signature}})
	require.NoError(s.t, err)
	return signature
}

// release stores and signs an image by a tag.
func (s *shop) release(tag string) artifact.Digest {
	s.t.Helper()
	d := s.put(tag, tagged(s.t, tag))
	s.sign(d, "key-1")
	return d
}

func (s *shop) promote(version, environment string) (promotion.Result, error) {
	return s.service.Promote(s.ctx, s.ada, promotion.Request{Repository: s.repository, Version: version, Environment: parsed(s.t, artifact.ParseEnvironment, environment), Reason: "release"})
}

func (s *shop) mustPromote(version string, environments ...string) {
	s.t.Helper()
	for _, e := range environments {
		_, err := s.promote(version, e)
		require.NoError(s.t, err)
	}
}

func (s *shop) rollback(environment string) (promotion.Result, error) {
	return s.service.Rollback(s.ctx, s.ada, s.repository, parsed(s.t, artifact.ParseEnvironment, environment), "it is slow")
}

func (s *shop) current(environment string) artifact.Digest {
	s.t.Helper()
	d, _, err := s.db.Current(s.ctx, s.repository, parsed(s.t, artifact.ParseEnvironment, environment))
	require.NoError(s.t, err)
	return d.Digest
}

// pulls reports whether a deployer of an environment may pull a digest.
func (s *shop) pulls(environment string, d artifact.Digest) error {
	p := artifact.Principal{Name: "node", Role: artifact.Deployer, Environments: []artifact.Environment{parsed(s.t, artifact.ParseEnvironment, environment)}}
	return promotion.NewGate(s.db).Pull(s.ctx, p, s.repository, d)
}

func (s *shop) sound() {
	s.t.Helper()
	report, err := s.db.Audit(s.ctx) // there are no checkpoints
	require.NoError(s.t, err)
	require.Empty(s.t, report.Problems)
}

func parsed[T any](t require.TestingT, parse func(string) (T, error), s string) T {
	v, err := parse(s)
	require.NoError(t, err)
	return v
}

func rules(t testing.TB, err error) []string {
	t.Helper()
	var e *artifact.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, artifact.Denied, e.Kind)
	var all []string
	for _, r := range e.Reasons {
		all = append(all, r.Rule)
	}
	return all
}

// tells requires that what do changes is told to those who listen.
func (s *shop) tells(do func()) {
	s.t.Helper()
	listener, err := s.db.Pool.Acquire(s.ctx)
	require.NoError(s.t, err)
	defer listener.Release()
	_, err = listener.Exec(s.ctx, "listen changed")
	require.NoError(s.t, err)
	do()
	ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
	defer cancel()
	told, err := listener.Conn().WaitForNotification(ctx)
	require.NoError(s.t, err)
	require.Equal(s.t, s.repository.String(), told.Payload)
	_, err = listener.Exec(s.ctx, "unlisten changed")
	require.NoError(s.t, err)
}

// to is a move that its pass allows, from whatever the environment runs.
func (s *shop) to(p artifact.Promotion, pass policy.Pass) promotion.Move {
	current, _, err := s.db.Current(s.ctx, p.Repository, p.Environment)
	require.NoError(s.t, err)
	p.Previous = current.Digest
	return promotion.Move{Promotion: p, Pass: pass, Versions: 1}
}
