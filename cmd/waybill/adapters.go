package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	gcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/blob"
	"waybill/builder"
	"waybill/jobs"
	"waybill/ledger"
	"waybill/mirror"
	"waybill/policy"
	"waybill/postgres"
	"waybill/promotion"
	"waybill/registry"
	"waybill/scanner"
	"waybill/server"
	"waybill/signer"
	"waybill/storage"
)

// Packages declare the small interfaces that they call; here what implements them is fitted. Nothing is decided here.

// contents reads what is stored: rows from the database, bytes through the registry.
type contents struct {
	*postgres.DB
	registry *registry.Registry
}

func (c *contents) Blob(ctx context.Context, r artifact.Repository, d artifact.Digest) ([]byte, error) {
	return c.registry.Blob(ctx, r, d)
}

// coldContents reads what is stored, of many images: it leaves what is kept in memory to those that are pulled.
type coldContents struct {
	postgres.Cold
	files *blob.File
}

func (c coldContents) Blob(_ context.Context, _ artifact.Repository, d artifact.Digest) ([]byte, error) {
	file, _, err := c.files.Open(d)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, artifact.MaxManifest))
}

// recordJudge gives the registry a verdict's record: it stores and shows verdicts, and signs nothing.
type recordJudge struct{ judge *policy.Judge }

func (j recordJudge) Judge(ctx context.Context, s artifact.Subject) (artifact.Judgement, error) {
	v, err := j.judge.Judge(ctx, s)
	return artifact.Judgement{Verdict: v.VerdictRecord, Scan: v.Scan}, err
}

// mirrorPushes stores what a mirror fetched by the path of every push.
type mirrorPushes struct{ *registry.Registry }

func (m *mirrorPushes) PutManifest(ctx context.Context, p artifact.Principal, ref artifact.Reference, mediaType string, body []byte) error {
	_, err := m.Registry.PutManifest(ctx, p, ref, mediaType, body, nil)
	return err
}

// replicate records and inserts the copies that a promotion sets off, and its attestation, in its transaction.
func replicate(copier *mirror.Copier, db *postgres.DB, work *jobs.Client) func(context.Context, pgx.Tx, artifact.Promotion) error {
	return func(ctx context.Context, tx pgx.Tx, p artifact.Promotion) error {
		// A promotion, and not something that arrived for what is promoted: that has no row.
		if p.ID != 0 {
			if err := work.Promoted(ctx, tx, p); err != nil {
				return err
			}
		}
		for _, target := range copier.Targets(p.Repository, p.Environment) {
			r := artifact.Replication{Target: target, Repository: p.Repository, Digest: p.Digest, Environment: p.Environment, Version: p.Version}
			if err := db.QueueReplication(ctx, tx, r); err != nil {
				return err
			}
			if err := work.Replicate(ctx, tx, r); err != nil {
				return err
			}
		}
		return nil
	}
}

// signerStore keeps signatures in the registry, as anybody's push would be, and intents in the database.
type signerStore struct {
	registry *registry.Registry
	db       *postgres.DB
	replicas bool // others may work on this database
}

func (s signerStore) Image(ctx context.Context, r artifact.Repository, t artifact.Tag) (gcr.Image, error) {
	digest, err := s.db.ResolveTag(ctx, r, t)
	if artifact.KindOf(err) == artifact.NotFound {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return s.registry.Image(ctx, r, digest)
}

func (s signerStore) Put(ctx context.Context, r artifact.Repository, t artifact.Tag, image gcr.Image) (artifact.Digest, error) {
	var tags []artifact.Tag
	if !t.IsZero() {
		tags = append(tags, t)
	}
	return s.registry.PutImage(ctx, artifact.System, r, tags, image)
}

func (s signerStore) Subject(ctx context.Context, r artifact.Repository, d artifact.Digest) (artifact.Descriptor, error) {
	m, err := s.db.Manifest(ctx, r, d)
	return artifact.Descriptor{MediaType: m.Manifest.MediaType, Digest: d, Size: int64(len(m.Body))}, err
}

func (s signerStore) Intend(ctx context.Context, r signer.Record) (bool, error) {
	return s.db.IntendSignature(ctx, r.Repository, r.Digest, r.Predicate, r.KeyID, r.PolicyHash)
}

func (s signerStore) Signed(ctx context.Context, r signer.Record, manifest artifact.Digest) error {
	return s.db.RecordSignature(ctx, r.Repository, r.Digest, r.Predicate, r.KeyID, r.PolicyHash, manifest)
}

// layerLock has one replica inspect a layer, and uses at most so many connections for that.
func layerLock(db *postgres.DB, most int) func(context.Context, artifact.Digest) (func(), error) {
	turns := make(chan struct{}, most)
	return func(ctx context.Context, layer artifact.Digest) (func(), error) {
		select {
		case turns <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		release, err := db.LockLayer(ctx, layer)
		if err != nil {
			<-turns
			return nil, err
		}
		return func() { release(); <-turns }, nil
	}
}

// laterVEX is asked by the judge, which is there before what VEX documents are read from.
type laterVEX struct{ documents *vexDocuments }

func (v *laterVEX) Apply(ctx context.Context, r artifact.Repository, d artifact.Digest, findings []artifact.Finding) ([]artifact.Finding, error) {
	return v.documents.Apply(ctx, r, d, findings)
}

// describe brings an image's scan up to date, for a database that came in force while it was pushed, and stores its SBOMs
// as referrers, unless Waybill did before.
func describe(db *postgres.DB, scans *jobs.Scanner, kept sboms) func(context.Context, artifact.Repository, artifact.Digest) (bool, error) {
	return func(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (bool, error) {
		if err := scans.Refresh(ctx, repository, digest); err != nil {
			return false, err
		}
		subject, err := db.Manifest(ctx, repository, digest)
		if err != nil || !subject.IsImage {
			return false, err
		}
		if all, err := kept.all(ctx, subject); err != nil || all {
			return false, err
		}
		cycloneDX, spdx, err := scans.SBOMs(ctx, repository, digest)
		if err != nil {
			return false, err
		}
		return true, kept.attach(ctx, subject, cycloneDX, spdx)
	}
}

// buildStore fits the database's rows to builder's.
type buildStore struct{ db *postgres.DB }

func (s buildStore) LockBuild(ctx context.Context, r artifact.Repository, key artifact.Digest) (func(), error) {
	return s.db.LockBuild(ctx, r, key)
}

func (s buildStore) Build(ctx context.Context, r artifact.Repository, key artifact.Digest) (builder.Record, bool, error) {
	row, ok, err := s.db.Build(ctx, r, key)
	return builder.Record{Repository: r, Key: key, Digest: row.Digest, StartedBy: row.StartedBy, StartedAt: row.StartedAt}, ok, err
}

func (s buildStore) StartBuild(ctx context.Context, r builder.Record) error {
	return s.db.StartBuild(ctx, r.Repository, r.Key, r.StartedBy)
}

func (s buildStore) EndBuild(ctx context.Context, r builder.Record, provenance json.RawMessage, failure string) error {
	return s.db.EndBuild(ctx, r.Repository, r.Key, r.Digest, provenance, failure)
}

// bases resolves what a Dockerfile builds on, for one who may pull it. What policy denies by now, and what was recalled, is
// nothing to build on.
type bases struct {
	registry *registry.Registry
	judge    *policy.Judge
	db       *postgres.DB
	mirrors  map[string]bool // names of registries: docker.io/library/debian:12 is mirror/docker.io/library/debian:12 here
}

// local is where a reference is in this registry.
func (b bases) local(ref artifact.Reference) (artifact.Reference, error) {
	host, _, _ := strings.Cut(ref.Repository.String(), "/")
	if b.mirrors[host] {
		var err error
		ref.Repository, err = artifact.ParseRepository("mirror/" + ref.Repository.String())
		return ref, err
	}
	if strings.Contains(host, ".") {
		return ref, artifact.Errorf(artifact.Denied, "%s is no registry that bases may come from: they are in this one, or in one that its configuration mirrors", host)
	}
	return ref, nil
}

func (b bases) allowed(ctx context.Context, r artifact.Repository, digest artifact.Digest) error {
	verdict, err := b.judge.JudgeStored(ctx, r, digest)
	if err != nil {
		return err
	}
	if verdict.Outcome == artifact.Deny {
		denied := artifact.Errorf(artifact.Denied, "policy denies it")
		denied.Reasons = verdict.Reasons
		return denied
	}
	who, why, recalled, err := b.db.Recalled(ctx, r, digest)
	if err == nil && recalled {
		return artifact.Errorf(artifact.Denied, "%s recalled it: %s", who, why)
	}
	return err
}

func (b bases) Base(ctx context.Context, p artifact.Principal, ref artifact.Reference, platform artifact.Platform) (gcr.Image, artifact.Digest, error) {
	ref, err := b.local(ref)
	if err != nil {
		return nil, ref.Digest, err
	}
	m, err := b.registry.GetManifest(ctx, p, ref)
	if err != nil {
		return nil, ref.Digest, err
	}
	digest := m.Digest
	if err := b.allowed(ctx, ref.Repository, digest); err != nil {
		return nil, digest, err
	}
	if m.Manifest.IsIndex() {
		found := artifact.Digest{}
		for _, d := range m.Manifest.Manifests {
			if d.Platform != nil && d.Platform.OS == platform.OS && d.Platform.Architecture == platform.Architecture && (platform.Variant == "" || d.Platform.Variant == platform.Variant) {
				found = d.Digest
				break
			}
		}
		if found.IsZero() {
			return nil, digest, artifact.Errorf(artifact.NotFound, "%s has no image for %s", ref, platform)
		}
		digest = found
	}
	image, err := b.registry.Image(ctx, ref.Repository, digest)
	return image, digest, err
}

// publisher pushes what was built by the path of every push, and has its provenance signed once policy allows it.
type publisher struct {
	registry *registry.Registry
	judge    *policy.Judge
	signing  *signer.Service
	db       *postgres.DB
}

func (p publisher) Expect(ctx context.Context) { p.registry.Expect(ctx) }

func (p publisher) Publish(ctx context.Context, by artifact.Principal, r artifact.Repository, tags []artifact.Tag, built builder.Artifact) (artifact.Digest, error) {
	if index, ok := built.(gcr.ImageIndex); ok {
		return p.registry.PutIndex(ctx, by, r, tags, index)
	}
	image, ok := built.(gcr.Image)
	if !ok {
		return artifact.Digest{}, fmt.Errorf("a %T is neither image nor index", built)
	}
	return p.registry.PutImage(ctx, by, r, tags, image)
}

func (p publisher) Stored(ctx context.Context, by artifact.Principal, r artifact.Repository, digest artifact.Digest) (builder.Artifact, error) {
	m, err := p.registry.GetManifest(ctx, by, artifact.Reference{Repository: r, Digest: digest})
	if err != nil {
		return nil, err
	}
	if m.Manifest.IsIndex() {
		return p.registry.Index(ctx, r, digest)
	}
	return p.registry.Image(ctx, r, digest)
}

func (p publisher) Tag(ctx context.Context, by artifact.Principal, r artifact.Repository, tags []artifact.Tag, digest artifact.Digest) error {
	m, err := p.db.Manifest(ctx, r, digest)
	if err != nil || len(tags) == 0 {
		return err
	}
	at := make(map[artifact.Tag]bool)
	there, err := p.db.TagsOf(ctx, r, digest)
	if err != nil {
		return err
	}
	for _, t := range there {
		at[t] = true
	}
	for _, t := range tags {
		if !at[t] {
			_, err := p.registry.PutManifest(ctx, by, artifact.Reference{Repository: r, Digest: digest}, m.Manifest.MediaType, m.Body, tags)
			return err
		}
	}
	return nil
}

func (p publisher) Attest(ctx context.Context, r artifact.Repository, digest artifact.Digest, predicateType string, predicate json.RawMessage) error {
	verdict, err := p.judge.JudgeStored(ctx, r, digest)
	if err != nil {
		return err
	}
	pass, err := verdict.Pass()
	if err != nil {
		return err
	}
	return p.signing.AttestImage(ctx, pass, predicateType, predicate)
}

// documents fits stored documents to the API's.
type documents struct {
	db         *postgres.DB
	promotions *promotion.Service
}

func (d documents) Apply(ctx context.Context, actor artifact.Principal, p server.ParsedDocument) (server.Applied, error) {
	if p.Kind == "Pipeline" {
		if err := d.promotions.Fits(ctx, p.Name, p.Body); err != nil {
			return server.Applied{}, err
		}
	}
	v, changed, err := d.db.ApplyDocument(ctx, p.Kind, p.Name, p.Hash, string(p.Body), actor.Name)
	return server.Applied{Kind: p.Kind, Name: p.Name, Version: v, Hash: p.Hash, Changed: changed}, err
}

// Fit checks rules for repositories all together with those in force; a pipeline is checked when its turn comes.
func (d documents) Fit(ctx context.Context, all []server.ParsedDocument) error {
	var together []storage.Document
	anew := map[string]bool{}
	for _, p := range all {
		if p.Kind != storage.Kind {
			continue
		}
		parsed, err := storage.Parse(p.Name, p.Body)
		if err != nil {
			return err
		}
		together, anew[p.Name] = append(together, parsed...), true
	}
	if len(together) == 0 {
		return nil
	}
	current, err := d.db.StorageDocuments(ctx)
	if err != nil {
		return err
	}
	for _, c := range current {
		if !anew[c.Name()] {
			together = append(together, c.Document)
		}
	}
	return storage.Fit(together)
}

func (d documents) Current(ctx context.Context) ([]server.Document, error) {
	rows, err := d.db.CurrentDocuments(ctx, "")
	return documentsOf(rows), err
}

func documentsOf(rows []postgres.DocumentRow) []server.Document {
	var all []server.Document
	for _, r := range rows {
		all = append(all, documentOf(r))
	}
	return all
}

func documentOf(r postgres.DocumentRow) server.Document {
	return server.Document{Kind: r.Kind, Name: r.Name, Version: r.Version, Hash: r.Hash, AppliedBy: r.AppliedBy, AppliedAt: r.AppliedAt, Body: r.Body}
}

func (d documents) DocumentVersions(ctx context.Context, kind, name string, before, n int) ([]server.Document, error) {
	rows, err := d.db.DocumentVersions(ctx, kind, name, before, n)
	return documentsOf(rows), err
}

func (d documents) DocumentVersion(ctx context.Context, kind, name string, version int) (server.Document, error) {
	row, err := d.db.DocumentVersion(ctx, kind, name, version)
	return documentOf(row), err
}

// trial judges one image as a push would, and all of them from what is stored.
type trial struct {
	*postgres.DB
	judge, many *policy.Judge
}

func (t trial) JudgeUnder(ctx context.Context, m artifact.StoredManifest, policies []policy.Versioned) (policy.Verdict, error) {
	return t.judge.JudgeUnder(ctx, m, policies)
}

func (t trial) Impact(ctx context.Context, changed []policy.Document, sees func(artifact.Repository) bool, tell func(*policy.ImpactChange, int)) (policy.Impact, error) {
	return t.many.Impact(ctx, t.DB, changed, sees, tell)
}

// records fits stored signatures to the API's.
type records struct{ *postgres.DB }

func (r records) Signatures(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]server.SignatureRecord, error) {
	rows, err := r.DB.Signatures(ctx, repository, digest)
	all := make([]server.SignatureRecord, len(rows))
	for i, row := range rows {
		all[i] = server.SignatureRecord(row)
	}
	return all, err
}

// ledgerAPI fits the ledger to the API's.
type ledgerAPI struct {
	db     *postgres.DB
	signer *ledger.Signer
}

func (l ledgerAPI) Entries(ctx context.Context, from int64, limit int) ([]server.LedgerEntry, error) {
	rows, err := l.db.Entries(ctx, from, limit)
	all := make([]server.LedgerEntry, len(rows))
	for i, row := range rows {
		body, err := row.Canonical()
		if err != nil {
			return nil, err
		}
		all[i] = server.LedgerEntry{Index: row.Index, Body: body}
	}
	return all, err
}

func (l ledgerAPI) Checkpoint(ctx context.Context) (server.LedgerCheckpoint, error) {
	note, err := l.db.Checkpoint(ctx, l.signer)
	if err != nil {
		return server.LedgerCheckpoint{}, err
	}
	c, err := ledger.OpenCheckpoint(note, l.signer.PublicKey())
	return server.LedgerCheckpoint{Size: c.Size, Root: c.Root.String(), Note: note}, err
}

func (l ledgerAPI) Proof(ctx context.Context, index, size int64) ([][]byte, error) {
	hashes, err := l.db.Prove(ctx, size, index)
	return plainHashes(hashes), err
}

func (l ledgerAPI) Consistency(ctx context.Context, older, newer int64) ([][]byte, error) {
	hashes, err := l.db.ProveConsistency(ctx, newer, older)
	return plainHashes(hashes), err
}

func plainHashes(hashes []ledger.Hash) [][]byte {
	all := make([][]byte, len(hashes))
	for i, h := range hashes {
		all[i] = h[:]
	}
	return all
}

func (l ledgerAPI) Tile(ctx context.Context, path string) ([]byte, error) {
	t, err := ledger.ParseTile(path)
	if err != nil {
		return nil, err
	}
	return l.db.LedgerTile(ctx, t)
}

func (l ledgerAPI) EntriesAbout(ctx context.Context, r artifact.Repository, d artifact.Digest, limit int) ([]int64, error) {
	return l.db.EntriesAbout(ctx, r, d, limit)
}

func (l ledgerAPI) EntriesWithin(ctx context.Context, from, to time.Time, limit int) ([]int64, error) {
	return l.db.EntriesWithin(ctx, from, to, limit)
}

// Subject reads what an entry is about.
func (ledgerAPI) Subject(body []byte) (artifact.Repository, artifact.Digest, error) {
	e, err := ledger.Parse(body)
	return e.Repository, e.Digest, err
}

// SignListing signs an export's files with the key of the checkpoints.
func (l ledgerAPI) SignListing(files []server.ExportedFile) (string, error) {
	all := make([]ledger.ExportedFile, len(files))
	for i, f := range files {
		all[i] = ledger.ExportedFile(f)
	}
	return l.signer.SignListing(all)
}

func (l ledgerAPI) Audit(ctx context.Context) (server.LedgerReport, error) {
	if _, err := l.db.Checkpoint(ctx, l.signer); err != nil && artifact.KindOf(err) != "" {
		return server.LedgerReport{}, err
	}
	r, err := l.db.Audit(ctx, l.signer.PublicKey())
	return server.LedgerReport{OK: len(r.Problems) == 0, Size: r.Entries, Root: r.Root, Checkpoints: r.Checkpoints, Problems: r.Problems}, err
}

// advisories keeps imported databases in a folder each.
type advisories struct {
	db      *postgres.DB
	scanner *scanner.Client
	folder  string
	rescan  func(context.Context) error
}

func (a *advisories) path(d artifact.Digest) string { return filepath.Join(a.folder, d.Hex()) }

// prefer has scanners see the databases in force from their start.
func (a *advisories) prefer(ctx context.Context) error {
	d, have, err := a.db.AdvisoryDatabase(ctx)
	if err != nil || !have {
		return err
	}
	prefer := scanner.Databases{Advisories: a.path(d.Digest)}
	d, have, err = a.db.JavaDatabase(ctx)
	if have {
		prefer.Java = a.path(d.Digest)
	}
	a.scanner.Prefer(prefer)
	return err
}

func (a *advisories) AdvisoryDatabase(ctx context.Context) (artifact.AdvisoryDatabase, bool, error) {
	return a.db.AdvisoryDatabase(ctx)
}

func (a *advisories) JavaDatabase(ctx context.Context) (artifact.AdvisoryDatabase, bool, error) {
	return a.db.JavaDatabase(ctx)
}

// Import unpacks aside, has the scanner open what came, and renames: a killed import leaves nothing that looks whole.
func (a *advisories) Import(ctx context.Context, actor artifact.Principal, archive io.Reader) error {
	_, err := a.put(ctx, actor, archive, false)
	return err
}

// put is Import; with newer it refuses a database that was built before the one in force. What the archive holds says
// whether it is an advisory database or a Java database.
func (a *advisories) put(ctx context.Context, actor artifact.Principal, archive io.Reader, newer bool) (artifact.AdvisoryDatabase, error) {
	// Others, the scanner's user among them, may read advisories: they are public.
	if err := os.MkdirAll(a.folder, 0o755); err != nil {
		return artifact.AdvisoryDatabase{}, err
	}
	aside, err := os.MkdirTemp(a.folder, ".new-")
	if err != nil {
		return artifact.AdvisoryDatabase{}, err
	}
	defer os.RemoveAll(aside)
	if err := os.Chmod(aside, 0o755); err != nil {
		return artifact.AdvisoryDatabase{}, err
	}
	digest, java, err := unpackDatabase(archive, aside)
	if err != nil {
		return artifact.AdvisoryDatabase{}, err
	}
	what, check, current, save := "advisory", a.scanner.CheckDatabase, a.db.AdvisoryDatabase, a.db.SaveAdvisoryDatabase
	if java {
		what, check, current, save = "Java", a.scanner.CheckJavaDatabase, a.db.JavaDatabase, a.db.SaveJavaDatabase
	}
	info, err := check(ctx, aside)
	if artifact.KindOf(err) == artifact.Denied {
		return artifact.AdvisoryDatabase{}, artifact.Errorf(artifact.Invalid, "the %s database %v", what, err)
	} else if err != nil {
		return artifact.AdvisoryDatabase{}, err
	}
	if d, _, err := current(ctx); err != nil {
		return d, err
	} else if newer && info.UpdatedAt.Before(d.UpdatedAt) {
		return artifact.AdvisoryDatabase{}, artifact.Errorf(artifact.Conflict, "the database there was built %s, and the one in use %s; an older one can be imported from a file",
			info.UpdatedAt.Format(time.RFC3339), d.UpdatedAt.Format(time.RFC3339))
	}
	if err := os.Rename(aside, a.path(digest)); err != nil && !errors.Is(err, os.ErrExist) {
		if _, statErr := os.Stat(a.path(digest)); statErr != nil {
			return artifact.AdvisoryDatabase{}, err
		}
	}
	d := artifact.AdvisoryDatabase{Digest: digest, Schema: info.Schema, UpdatedAt: info.UpdatedAt, ImportedBy: actor.Name}
	if err := save(ctx, d); err != nil {
		return d, err
	}
	if err := a.prefer(ctx); err != nil {
		return d, err
	}
	if err := a.rescan(ctx); err != nil {
		return d, err
	}
	d, _, err = current(ctx)
	return d, err
}

// databaseFiles are the files of Trivy's database archives, with the most bytes that each may have. There is one of the
// databases in an archive, and its metadata.
var databaseFiles = map[string]int64{"trivy.db": 8 << 30, "trivy-java.db": 8 << 30, "metadata.json": 1 << 20}

// unpackDatabase reads the archive to its end and returns its digest, and whether it is a Java database.
func unpackDatabase(archive io.Reader, folder string) (_ artifact.Digest, java bool, err error) {
	sum := artifact.NewHash("sha256")
	tee := io.TeeReader(archive, sum)
	invalid := func(format string, args ...any) (artifact.Digest, bool, error) {
		return artifact.Digest{}, false, artifact.Errorf(artifact.Invalid, "advisory database: "+format, args...)
	}
	z, err := gzip.NewReader(tee)
	if err != nil {
		return invalid("it is no gzip-compressed archive; want the db.tar.gz that trivy-db is published as, or the javadb.tar.gz of trivy-java-db")
	}
	left := map[string]bool{"trivy.db": true, "trivy-java.db": true, "metadata.json": true}
	for members := tar.NewReader(z); ; {
		h, err := members.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return invalid("%w", err)
		}
		name := filepath.Clean(h.Name)
		if h.Typeflag == tar.TypeDir && name == "." {
			continue
		}
		if !left[name] || h.Typeflag != tar.TypeReg || h.Size > databaseFiles[name] {
			return invalid("it holds %.100q; want trivy.db or trivy-java.db, metadata.json, and nothing else", h.Name)
		}
		delete(left, name)
		switch name {
		case "trivy.db":
			delete(left, "trivy-java.db")
		case "trivy-java.db":
			delete(left, "trivy.db")
			java = true
		}
		if err := writeFile(filepath.Join(folder, name), members, h.Size); err != nil {
			return artifact.Digest{}, false, fmt.Errorf("unpack advisory database: %w", err)
		}
	}
	if len(left) > 0 {
		return invalid("it lacks %v", sortedKeys(left))
	}
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return artifact.Digest{}, false, err
	}
	return artifact.DigestFrom("sha256", sum), java, nil
}

func writeFile(path string, content io.Reader, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, content, size)
	return errors.Join(err, f.Sync(), f.Close())
}
