package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"waybill/artifact"
	"waybill/bench/rows"
	"waybill/blob"
	"waybill/ledger"
	"waybill/postgres"
)

// What there is: 500 services of 200 versions are 100,000 digests.
const (
	services    = 500
	maxVersions = 200
	busyTags    = 5000 // more, of the first service
	bases       = 10
	teams       = 20
	refusals    = 2000 // of pushes
)

var environments = []string{"dev", "test", "staging", "preprod", "production"}

func repository(s int) string { return fmt.Sprintf("team%02d/service%03d", s%teams, s) }

func digestOf(format string, args ...any) artifact.Digest {
	return artifact.DigestOf(fmt.Appendf(nil, format, args...))
}

// refused is the image of a push that was denied, of a version that no service has.
func refused(i int) image { return imageOf(i%services, maxVersions+1+i/services) }

// newest is the version that an environment of a service runs: dev is ahead of test, and so on, in two of three services.
func newest(s, environment, versions int) int { return versions - environment*(s%3) }

// image is a version of a service: a base, what its team puts on it, and the service.
type image struct {
	digest, config, app artifact.Digest
	body                []byte
}

func imageOf(s, v int) image {
	i := image{config: artifact.DigestOf(config(s)), app: digestOf("app %d %d", s, v)}
	i.body, _ = json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": artifact.MediaTypeManifest,
		"config": artifact.Descriptor{MediaType: artifact.MediaTypeConfig, Digest: i.config, Size: int64(len(config(s)))},
		"layers": []artifact.Descriptor{{MediaType: layerType, Digest: digestOf("base %d", s%bases), Size: 28 << 20}, {MediaType: layerType, Digest: digestOf("team %d", s%teams), Size: 9 << 20},
			{MediaType: layerType, Digest: i.app, Size: int64(8<<20 + v)}}})
	i.digest = artifact.DigestOf(i.body)
	return i
}

const layerType = "application/vnd.oci.image.layer.v1.tar+gzip"

func config(s int) []byte {
	return fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{"User":"65532:65532","Entrypoint":["/app/service%d"],"Env":["PATH=/usr/bin"],"Labels":{"org.opencontainers.image.source":"https://git.example/%s"}},`+
		`"rootfs":{"type":"layers","diff_ids":[%q,%q,%q]},"history":[{"created_by":"FROM debian"},{"created_by":"RUN apt-get install"},{"created_by":"COPY service /app/"}]}`,
		s, repository(s), digestOf("diff base %d", s%bases), digestOf("diff team %d", s%teams), digestOf("diff app %d", s))
}

// tree is the facts of a layer of so many files.
func tree(layer, diff artifact.Digest, folder string, n int) artifact.LayerFacts {
	facts := artifact.LayerFacts{Format: artifact.FactsFormat, Digest: layer, DiffID: diff, Compressed: int64(n) << 12, Uncompressed: int64(n) << 14, Compression: "gzip"}
	for i := range n {
		if i%20 == 0 {
			facts.Files = append(facts.Files, artifact.File{Path: fmt.Sprintf("%s/d%d", folder, i/20), Type: artifact.Dir, Mode: 0o755})
		}
		facts.Files = append(facts.Files, artifact.File{Path: fmt.Sprintf("%s/d%d/file%d.so", folder, i/20, i), Type: artifact.Regular, Mode: 0o644, Size: int64(i%97) << 10})
	}
	return facts
}

// filling is a data folder that is being filled.
type filling struct {
	db       *postgres.DB
	conn     *pgx.Conn
	files    *blob.File
	versions int
	now      time.Time
}

func fill(ctx context.Context, data string, versions int) error {
	db, stop, err := rows.Open(ctx, data)
	if err != nil {
		return err
	}
	defer stop()
	conn, err := db.Pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	f := &filling{db: db, conn: conn.Conn(), versions: versions, now: time.Now().UTC().Truncate(time.Microsecond)}
	if f.files, err = blob.NewFile(filepath.Join(data, "blobs")); err != nil {
		return err
	}
	if err := f.run(ctx, rows.Unchecked); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{{"configs and facts", f.templates}, {"images", f.images}, {"what is known of them", f.known}, {"promotions", f.promotions}, {"the ledger", f.ledger}, {"what is seldom", f.rest}} {
		begun := time.Now()
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Printf("%8.1f s  %s\n", time.Since(begun).Seconds(), step.name)
	}
	return f.run(ctx, "analyze")
}

func (f *filling) run(ctx context.Context, statements string, args ...any) error {
	return rows.Run(statements, func(sql string) (string, error) {
		tag, err := f.conn.Exec(ctx, sql, args...)
		return tag.String(), err
	})
}

// copyAll copies n rows into a table; columns are separated by spaces.
func (f *filling) copyAll(ctx context.Context, table, columns string, n int, row func(i int) []any) error {
	_, err := f.conn.CopyFrom(ctx, pgx.Identifier{table}, strings.Fields(columns), pgx.CopyFromSlice(n, func(i int) ([]any, error) { return row(i), nil }))
	return err
}

// templates stores the configs, which pages read, and facts and scans that others are copied from.
func (f *filling) templates(ctx context.Context) error {
	for s := range services {
		id := fmt.Sprintf("c%d", s)
		at, err := f.files.Append(ctx, id, blob.Progress{}, strings.NewReader(string(config(s))))
		if err != nil {
			return err
		}
		publish, err := f.files.Commit(ctx, id, at, artifact.DigestOf(config(s)))
		if err != nil {
			return err
		}
		if err := publish(); err != nil {
			return err
		}
	}
	for b := range bases {
		if err := f.db.SaveLayer(ctx, tree(digestOf("base %d", b), digestOf("diff base %d", b), "usr/lib", 6000), "bench", []byte("{}")); err != nil {
			return err
		}
	}
	for t := range teams {
		if err := f.db.SaveLayer(ctx, tree(digestOf("team %d", t), digestOf("diff team %d", t), "opt/team", 400), "bench", []byte("{}")); err != nil {
			return err
		}
	}
	if err := f.db.SaveLayer(ctx, tree(digestOf("app"), digestOf("diff app"), "app", 60), "bench", []byte("{}")); err != nil {
		return err
	}
	for i, n := range []int{120, 2500} {
		scan := artifact.Scan{Digest: digestOf("scan %d", i), State: artifact.Scanned, ScannedAt: f.now, DatabaseDigest: digestOf("advisories"), DatabaseUpdatedAt: f.now,
			Counts: map[artifact.Severity]int{artifact.Low: 9, artifact.Medium: 4, artifact.High: 2 * i, artifact.Critical: i}}
		for p := range n {
			scan.Packages = append(scan.Packages, artifact.Package{Name: fmt.Sprintf("library%d", p), Version: fmt.Sprintf("1.%d.%d-2+deb12u1", p%40, p%7), Type: "deb", PURL: fmt.Sprintf("pkg:deb/debian/library%d@1.%d.%d", p, p%40, p%7), Licenses: []string{"GPL-2.0-or-later"}})
		}
		if err := f.db.SaveScan(ctx, scan); err != nil {
			return err
		}
	}
	return nil
}

// images stores the manifests and what names them.
func (f *filling) images(ctx context.Context) error {
	n := services * f.versions
	at := func(i int) (s, v int, img image) {
		s, v = i/f.versions, i%f.versions+1
		return s, v, imageOf(s, v)
	}
	pushed := func(i int) time.Time { return f.now.Add(-time.Duration(n-i) * 150 * time.Second) }
	if err := f.copyAll(ctx, "repositories", "name", services, func(i int) []any { return []any{repository(i)} }); err != nil {
		return err
	}
	if err := f.copyAll(ctx, "blobs", "digest size", services, func(i int) []any {
		return []any{artifact.DigestOf(config(i)).String(), int64(len(config(i)))}
	}); err != nil {
		return err
	}
	if err := f.copyAll(ctx, "repository_blobs", "repository digest", services, func(i int) []any { return []any{repository(i), artifact.DigestOf(config(i)).String()} }); err != nil {
		return err
	}
	if err := f.copyAll(ctx, "blobs", "digest size", n, func(i int) []any {
		_, v, img := at(i)
		return []any{img.app.String(), int64(8<<20 + v)}
	}); err != nil {
		return err
	}
	if err := f.copyAll(ctx, "repository_blobs", "repository digest", n, func(i int) []any {
		s, _, img := at(i)
		return []any{repository(s), img.app.String()}
	}); err != nil {
		return err
	}
	if err := f.copyAll(ctx, "manifests", "repository digest media_type is_image is_index config platform body pushed_by pushed_at", n, func(i int) []any {
		s, _, img := at(i)
		return []any{repository(s), img.digest.String(), artifact.MediaTypeManifest, true, false, img.config.String(), "linux/amd64", img.body, "token:ci/7", pushed(i)}
	}); err != nil {
		return err
	}
	if err := f.copyAll(ctx, "manifest_references", "repository manifest position digest kind", 4*n, func(i int) []any {
		s, _, img := at(i / 4)
		kind, digest := "layer", []artifact.Digest{img.config, digestOf("base %d", s%bases), digestOf("team %d", s%teams), img.app}[i%4]
		if i%4 == 0 {
			kind = "config"
		}
		return []any{repository(s), img.digest.String(), i % 4, digest.String(), kind}
	}); err != nil {
		return err
	}
	tag := func(i int) []any {
		if i >= n {
			return []any{repository(0), fmt.Sprintf("nightly-%04d", i-n), imageOf(0, (i-n)%f.versions+1).digest.String(), "token:ci/7"}
		}
		s, v, img := at(i)
		return []any{repository(s), fmt.Sprintf("v%d", v), img.digest.String(), "token:ci/7"}
	}
	if err := f.copyAll(ctx, "tags", "repository name digest updated_by", n+busyTags, tag); err != nil {
		return err
	}
	return f.copyAll(ctx, "tag_history", "repository name digest actor", n+busyTags, tag)
}

// known is what the service found out about the images. A hundred and sixty kinds of findings are in every tenth image or so,
// others in one of a hundred; of the first service's newest image three thousand are known.
func (f *filling) known(ctx context.Context) error {
	if err := f.run(ctx, `insert into layer_facts (digest, format, diff_id, facts) select b.digest, t.format, t.diff_id, t.facts from blobs b cross join layer_facts t where t.digest = '`+digestOf("app").String()+`' and b.size >= 8388608 on conflict do nothing;
create temporary table numbered as select repository, digest, pushed_at, row_number() over (order by repository, pushed_at) as n from manifests;
insert into scans (digest, state, scanned_at, database_digest, database_updated_at, packages, counts) select i.digest, 'scanned', t.scanned_at, t.database_digest, t.database_updated_at, t.packages,
	case when i.n % 5 = 0 then '{"low": 8, "medium": 4, "high": 2, "critical": 1}' else '{"low": 10, "medium": 5}' end::jsonb from numbered i cross join scans t where t.digest = '`+digestOf("scan 0").String()+`';
create temporary table kinds as select k, case when k <= 10000 then 'CVE-2024-1' || lpad(k::text, 4, '0') else 'CVE-2024-1' end as id, (array['low', 'low', 'medium', 'low', 'high'])[k % 5 + 1] as severity, 'library' || k % 120 as package from generate_series(0, 10000) k;
update kinds set id = 'CVE-2024-1' where k = 0;
insert into findings (digest, hash, id, class, severity, finding, found_at) select i.digest, k.k, k.id, 'vulnerability', k.severity, jsonb_build_object('class', 'vulnerability', 'id', k.id, 'severity', k.severity, 'package', k.package,
	'installed', '1.2.3-2+deb12u1', 'fixed', '1.2.4', 'title', k.package || ': memory is read beyond its end when a header is parsed', 'url', 'https://avd.example/' || k.id, 'purl', 'pkg:deb/debian/' || k.package || '@1.2.3'), i.pushed_at
	from numbered i cross join generate_series(0, 14) j join kinds k on k.k = case j when 0 then 0 else (i.n * 37 + j * 271) % 2000 + 1 end;
insert into verdicts (repository, digest, outcome, reasons, policy_hash, policies, reference, actor, decided_at) select repository, digest, case when n % 97 = 0 then 'deny' else 'allow' end,
	'[{"rule": "max-severity", "policy": "baseline", "message": "CVE-2024-1 is of severity high, and library7 1.2.4 has the fix", "warning": true}]', digest, '{baseline@1}', 'v1', 'token:ci/7', pushed_at from numbered;
insert into signatures (repository, digest, predicate, key_id, policy_hash, signed_at, manifest) select repository, digest, '', (select id from signing_keys order by number desc limit 1), digest, pushed_at, digest from numbered;
insert into attestations (repository, digest, predicate, key_id, policy_hash, signed_at, manifest, envelope) select repository, digest, p, (select id from signing_keys order by number desc limit 1), digest, pushed_at, digest, digest
	from numbered, unnest(array['https://cyclonedx.org/bom', 'https://spdx.dev/Document', 'https://cosign.sigstore.dev/attestation/vuln/v1']) p;
insert into pull_days (repository, digest, day, principal, pulls, first_at, last_at) select repository, digest, current_date - d, 'token:node' || p || '/1', 7, now(), now() from numbered, generate_series(0, 29) d, generate_series(0, 2) p where n % 40 = 0`); err != nil {
		return err
	}
	heavy := imageOf(0, f.versions).digest.String()
	if err := f.run(ctx, `update scans s set packages = t.packages, counts = '{"low": 1800, "medium": 600, "high": 600}' from scans t where s.digest = '`+heavy+`' and t.digest = '`+digestOf("scan 1").String()+`';
insert into findings (digest, hash, id, class, severity, finding, found_at) select '`+heavy+`', 100000 + k.k, k.id, 'vulnerability', k.severity, jsonb_build_object('class', 'vulnerability', 'id', k.id, 'severity', k.severity, 'package', k.package,
	'installed', '1.2.3', 'fixed', '1.2.4', 'title', k.package || ': memory is read beyond its end when a header is parsed'), now() from kinds k where k.k between 3000 and 6000`); err != nil {
		return err
	}
	reasons := []artifact.Reason{{Rule: "no-root-user", Policy: "baseline", Message: "the image runs as root: its config names no user; add USER 65532"}, {Rule: "no-sshd", Policy: "baseline", Message: "/usr/sbin/sshd is an OpenSSH daemon"}}
	if err := f.copyAll(ctx, "denied_manifests", "repository digest media_type is_image platform body config", refusals, func(i int) []any {
		return []any{repository(i % services), refused(i).digest.String(), artifact.MediaTypeManifest, true, "linux/amd64", refused(i).body, config(i % services)}
	}); err != nil {
		return err
	}
	return f.copyAll(ctx, "verdicts", "repository digest outcome reasons policy_hash policies reference actor decided_at", refusals, func(i int) []any {
		return []any{repository(i % services), refused(i).digest.String(), "deny", reasons, digestOf("policy").String(), []string{"baseline@1"}, fmt.Sprintf("bad%d", i), "token:ci/7", f.now.Add(-time.Duration(i) * time.Hour)}
	})
}

// moved is a promotion of a service's version to an environment.
type moved struct{ s, e, v int }

// moves are in the order in which they happened; each environment of each service has had eight to ten.
func (f *filling) moves() (all []moved) {
	for back := 9; back >= 0; back-- {
		for s := range services {
			for e := range environments {
				if v := newest(s, e, f.versions) - back; back < 8 || e < 2 {
					all = append(all, moved{s, e, v})
				}
			}
		}
	}
	return all
}

func (f *filling) when(i, n int) time.Time {
	return f.now.Add(-time.Duration(n-i) * 10 * time.Minute)
}

// firstEntry is the ledger's size before this program.
func (f *filling) firstEntry(ctx context.Context) (n int64, err error) {
	err = f.conn.QueryRow(ctx, `select count(*) from ledger_entries`).Scan(&n)
	return n, err
}

func (f *filling) promotions(ctx context.Context) error {
	all := f.moves()
	first, err := f.firstEntry(ctx)
	if err != nil {
		return err
	}
	if err := f.copyAll(ctx, "promotions", "action repository environment digest version previous actor reason policy_hash ledger_index at", len(all), func(i int) []any {
		m := all[i]
		return []any{"promote", repository(m.s), environments[m.e], imageOf(m.s, m.v).digest.String(), fmt.Sprintf("v%d", m.v), imageOf(m.s, max(m.v-1, 1)).digest.String(), "user:https://login.example#ada",
			fmt.Sprintf("release %d of the week", m.v), digestOf("policy").String(), first + int64(services*f.versions+i), f.when(i, len(all))}
	}); err != nil {
		return err
	}
	return f.run(ctx, `insert into deployments (repository, environment, digest, version, promotion, since) select distinct on (repository, environment) repository, environment, digest, version, id, at from promotions order by repository, environment, id desc;
insert into grants (environment, repository, digest, root) select distinct p.environment, p.repository, r.digest, p.digest from promotions p join manifest_references r on r.repository = p.repository and r.manifest = p.digest
	union select distinct environment, repository, digest, digest from promotions on conflict do nothing;
insert into attestations (repository, digest, predicate, name, key_id, policy_hash, signed_at, manifest, envelope) select distinct repository, digest, 'https://slsa.dev/verification_summary/v1', environment,
	(select id from signing_keys order by number desc limit 1), digest, now(), digest, digest from promotions on conflict do nothing;
insert into approvals (repository, digest, environment, version, actor, role, reason, at, ledger_index) select repository, digest, environment, version, 'user:https://login.example#grace', 'approver', 'it went well before', at, ledger_index from promotions where environment = 'production'`)
}

// ledger appends an entry for each push and each promotion, with the tree's hashes.
func (f *filling) ledger(ctx context.Context) error {
	first, err := f.firstEntry(ctx)
	if err != nil {
		return err
	}
	stored, err := f.conn.Query(ctx, `select hash from ledger_hashes order by index`)
	if err != nil {
		return err
	}
	known, err := pgx.CollectRows(stored, pgx.RowTo[[]byte])
	if err != nil {
		return err
	}
	hashes := make([]ledger.Hash, len(known))
	for i, h := range known {
		copy(hashes[i][:], h)
	}
	begin := len(hashes)
	read := func(indexes []int64) ([]ledger.Hash, error) {
		found := make([]ledger.Hash, len(indexes))
		for i, index := range indexes {
			found[i] = hashes[index]
		}
		return found, nil
	}
	all, pushes := f.moves(), services*f.versions
	entries := make([]ledger.Entry, 0, pushes+len(all))
	parse := func(name string) artifact.Repository { r, _ := artifact.ParseRepository(name); return r }
	for i := range pushes {
		s, v := i/f.versions, i%f.versions+1
		entries = append(entries, ledger.Entry{Kind: "push.accepted", Actor: "token:ci/7", At: f.now.Add(-time.Duration(pushes-i) * 150 * time.Second), Repository: parse(repository(s)), Digest: imageOf(s, v).digest, Version: fmt.Sprintf("v%d", v), PolicyHash: digestOf("policy")})
	}
	for i, m := range all {
		e, _ := artifact.ParseEnvironment(environments[m.e])
		entries = append(entries, ledger.Entry{Kind: ledger.KindPromotion, Actor: "user:https://login.example#ada", At: f.when(i, len(all)), Repository: parse(repository(m.s)), Digest: imageOf(m.s, m.v).digest, Environment: e,
			Version: fmt.Sprintf("v%d", m.v), Previous: imageOf(m.s, max(m.v-1, 1)).digest, PolicyHash: digestOf("policy"), Reason: fmt.Sprintf("release %d of the week", m.v)})
	}
	for i := range refusals {
		entries = append(entries, ledger.Entry{Kind: "push.denied", Actor: "token:ci/7", At: f.now, Repository: parse(repository(i % services)), Digest: refused(i).digest, Version: fmt.Sprintf("bad%d", i), PolicyHash: digestOf("policy"), Reasons: []string{"no-root-user: the image runs as root"}})
	}
	bodies := make([][]byte, len(entries))
	for i, e := range entries {
		if bodies[i], err = e.Canonical(); err != nil {
			return err
		}
		_, more, err := ledger.Append(first+int64(i), bodies[i], read)
		if err != nil {
			return err
		}
		hashes = append(hashes, more...)
	}
	if err := f.copyAll(ctx, "ledger_entries", "index body kind actor repository digest environment at", len(entries), func(i int) []any {
		var environment any
		if !entries[i].Environment.IsZero() {
			environment = entries[i].Environment.String()
		}
		return []any{first + int64(i), bodies[i], entries[i].Kind, entries[i].Actor, entries[i].Repository.String(), entries[i].Digest.String(), environment, entries[i].At}
	}); err != nil {
		return err
	}
	return f.copyAll(ctx, "ledger_hashes", "index hash", len(hashes)-begin, func(i int) []any { return []any{int64(begin + i), hashes[begin+i][:]} })
}

// rest is what lists show that are beside the images.
func (f *filling) rest(ctx context.Context) error {
	return f.run(ctx, `insert into tokens (id, hash, name, role, repositories, created_by, created_at, expires_at) select 'bench' || n, sha256(int8send(n)), 'ci' || n, 'pusher', array['team' || lpad((n % 20)::text, 2, '0') || '/**'], 'user:https://login.example#ada', now(), now() + interval '90 days' from generate_series(1, 2000) n;
insert into build_runs (id, repository, key, request, principal, state, digest, built, asked_at, started_at, ended_at) select 'bench' || n, repository, digest, jsonb_build_object('Repository', repository, 'Tags', array['v1']), '{"name": "token:ci/7", "role": "pusher"}', 'done', digest, true, pushed_at, pushed_at + interval '1 second', pushed_at + interval '40 seconds' from numbered where n % 5 = 0;
insert into waivers (rule, repositories, reason, created_by, created_at, expires_at, ledger_index) select 'max-severity', array['team' || lpad((n % 20)::text, 2, '0') || '/**'], 'the vendor fixes it this week', 'user:https://login.example#grace', now() - interval '1 day', now() + interval '30 days', 0 from generate_series(1, 40) n`)
}
