package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/ledger"
	"waybill/server"
	"waybill/storage"
)

const testToken = "wbt_test_secret"

// request is what a fake server got.
type request struct {
	method, path, query, contentType, body string
}

// fakeServer answers each path with a value as JSON, or with a problem, and keeps what it was asked.
func fakeServer(t *testing.T, answers map[string]any) *[]request {
	t.Helper()
	var got []request // the commands of one test run one after the other
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = append(got, request{r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("Content-Type"), string(b)})
		answer, ok := answers[r.Method+" "+strings.TrimPrefix(r.URL.Path, "/api/v1")]
		if r.Header.Get("Authorization") != "Bearer "+testToken {
			answer, ok = server.Problem{Status: 401, Detail: "the token is not known"}, true
		}
		if !ok {
			answer = server.Problem{Status: 404, Detail: "no such route in this test: " + r.URL.Path}
		}
		if p, isProblem := answer.(server.Problem); isProblem {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(p.Status)
		}
		if text, isText := answer.(string); isText {
			_, _ = io.WriteString(w, text)
			return
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(s.Close)
	t.Setenv("WAYBILL_URL", s.URL)
	t.Setenv("WAYBILL_TOKEN", testToken)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	return &got
}

// run runs the command line as main does.
func run(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	root := newRoot(&cobra.Command{Use: "serve", RunE: func(*cobra.Command, []string) error { return nil }})
	root.SetArgs(args)
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&errs)
	err := execute(t.Context(), root)
	if err != nil {
		fmt.Fprintln(&errs, "waybill:", err)
	}
	return out.String(), errs.String(), exitCode(err)
}

var (
	testDigest = artifact.DigestOf([]byte("image"))
	testTime   = time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
)

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

func TestWrongUsageIsTwo(t *testing.T) {
	fakeServer(t, nil)
	for _, line := range []string{
		"nonsense", "promote", "promote a b", "promote a b c d", "promote a b c --nonsense", "token create", "token create --role king",
		"token create --role reader --expires soon", "token", "token nonsense", "apply", "apply -f /does/not/exist", "db import", "db import /does/not/exist",
		"build .", "build -t a:b", "build -t nocolon /tmp", "build -t a:b /does/not/exist", "build -t a:b -t c:d /tmp", "inspect", "inspect shop", "inspect UP:v1",
		"verdict a:b extra", "scan a:b --output xml", "show shop", "rollback returns", "recall shop@" + testDigest.String(), "recall shop:v1 --reason=", "status a b", "history", "inspect a:b --tree=9", "inspect a:b --tree=deep", "history UP:v1", "pulls a b", "history shop -o xml", "retention now", "policy show shop --kind rules", "replication", "replication status a b",
		"audit x", "gc x", "gc --dry", "fsck x", "fsck --repair", "verify", "verify shop", "verify shop:v1 --environment UP", "key", "key private", "login", "login ftp://x",
	} {
		out, errs, code := run(t, "", strings.Fields(line)...)
		require.Equal(t, 2, code, "%s: %s", line, errs)
		require.NotEmpty(t, errs, line)
		require.Empty(t, out, line)
	}
}

func TestHelpIsZero(t *testing.T) {
	for _, line := range []string{"--help", "help", "promote --help", "deploy --help", "db --help", "--version"} {
		out, _, code := run(t, "", strings.Fields(line)...)
		require.Zero(t, code, line)
		require.NotEmpty(t, out, line)
	}
}

func TestRefusalsAreOneWithEveryReason(t *testing.T) {
	fakeServer(t, map[string]any{"POST /promotions": server.Problem{Status: 403, Detail: "it may not go to production: after: it is not in staging; signed: it has no signature\x1b[2J", Reasons: []artifact.Reason{
		{Rule: "after", Policy: "default", Message: "it is not in staging"}, {Rule: "signed", Policy: "default", Message: "it has no signature\x1b[2J"}}}})
	for _, verb := range []string{"promote", "deploy"} {
		out, errs, code := run(t, "", verb, "returns", "v456", "production")
		require.Equal(t, 1, code)
		require.Empty(t, out)
		require.Contains(t, errs, "it may not go to production\n", "said once, not in the sentence too")
		require.Contains(t, errs, "\n  after: it is not in staging (default)\n")
		require.Contains(t, errs, "\n  signed: it has no signature")
		require.NotContains(t, errs, "\x1b", "a server cannot drive the terminal")
	}
}

func TestPromotePrintsTheDigestAlone(t *testing.T) {
	done := server.Promoted{Repository: repository(t, "shop/returns"), Environment: environment(t, "production"), Digest: testDigest, Version: "v456", LedgerIndex: 7}
	got := fakeServer(t, map[string]any{"POST /promotions": done, "POST /rollbacks": done})
	out, errs, code := run(t, "", "deploy", "returns", "v456", "production", "--reason", "release", "--dry-run")
	require.Zero(t, code, errs)
	require.Equal(t, testDigest.String()+"\n", out)
	require.JSONEq(t, `{"service":"returns","version":"v456","environment":"production","reason":"release","dryRun":true}`, (*got)[0].body)
	out, _, code = run(t, "", "rollback", "returns", "production", "--output", "json")
	require.Zero(t, code)
	var decoded server.Promoted
	require.NoError(t, json.Unmarshal([]byte(out), &decoded))
	require.Equal(t, done, decoded)
}

func TestTokenCreatePrintsTheTokenAlone(t *testing.T) {
	got := fakeServer(t, map[string]any{"POST /tokens": server.TokenCreated{Secret: "wbt_new", ExpiresAt: testTime}})
	before := time.Now()
	out, _, code := run(t, "", "token", "create", "--role", "deployer", "--environment", "production", "--environment", "staging", "--repository", "shop/**", "--expires", "90d")
	require.Zero(t, code)
	require.Equal(t, "wbt_new\n", out)
	var asked server.TokenRequest
	require.NoError(t, json.Unmarshal([]byte((*got)[0].body), &asked))
	require.Equal(t, []string{"production", "staging"}, asked.Environments)
	require.Equal(t, []string{"shop/**"}, asked.Repositories)
	require.WithinDuration(t, before.Add(90*24*time.Hour), asked.Expires, time.Minute)
}

func TestApply(t *testing.T) {
	got := fakeServer(t, map[string]any{"POST /documents": server.AppliedList{Documents: []server.Applied{
		{Kind: "Policy", Name: "baseline", Version: 2, Changed: true}, {Kind: "Pipeline", Name: "default", Version: 1}}}})
	out, _, code := run(t, "kind: Policy\n", "apply", "-f", "-")
	require.Zero(t, code)
	require.Equal(t, "policy baseline@2 applied\npipeline default@1 unchanged\n", out)
	require.Equal(t, "kind: Policy\n", (*got)[0].body)
	require.Equal(t, "application/yaml", (*got)[0].contentType)
}

func TestDatabase(t *testing.T) {
	status := server.AdvisoryStatus{Present: true, Database: &artifact.AdvisoryDatabase{Digest: testDigest, Schema: 2, UpdatedAt: testTime, ImportedAt: testTime, ImportedBy: "token:admin"}, AgeSeconds: 3 * 24 * 3600}
	got := fakeServer(t, map[string]any{"POST /advisories": status, "GET /advisories": server.AdvisoryStatus{}})
	file := filepath.Join(t.TempDir(), "db.tar.gz")
	require.NoError(t, os.WriteFile(file, []byte("archive"), 0o600))
	out, _, code := run(t, "", "db", "import", file)
	require.Zero(t, code)
	require.Equal(t, "archive", (*got)[0].body)
	require.Contains(t, out, "(3d ago)")
	out, _, code = run(t, "", "db", "status")
	require.Zero(t, code)
	require.Contains(t, out, "waybill db import FILE")
}

func TestBuildPrintsTheDigestLast(t *testing.T) {
	built := server.Built{Repository: repository(t, "shop/returns"), Digest: testDigest, New: true}
	result, err := json.Marshal(server.BuildEvent{Result: &built})
	require.NoError(t, err)
	got := fakeServer(t, map[string]any{"POST /builds": "{\"log\":\"COPY app\"}\n" + string(result) + "\n"})
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Other.Dockerfile"), []byte("FROM scratch\n"), 0o600))
	out, errs, code := run(t, "", "build", "-t", "shop/returns:v456", "-t", "shop/returns:latest", "-f", "Other.Dockerfile", "--build-arg", "A=1,2", dir)
	require.Zero(t, code, errs)
	require.Equal(t, "shop/returns@"+testDigest.String()+"\n", out)
	require.Contains(t, errs, "COPY app\n")
	require.Equal(t, "arg=A%3D1%2C2&dockerfile=Other.Dockerfile&repository=shop%2Freturns&tag=v456&tag=latest", (*got)[0].query)
	require.Contains(t, (*got)[0].body, "FROM scratch", "the context was packed and sent")
}

func TestBuildThatBreaksOffIsNotDone(t *testing.T) {
	fakeServer(t, map[string]any{"POST /builds": "{\"log\":\"COPY app\"}\n"})
	out, errs, code := run(t, "", "build", "-t", "shop/returns:v456", t.TempDir())
	require.Equal(t, 1, code)
	require.Empty(t, out)
	require.Contains(t, errs, "broke off")
}

func TestStatusIsATable(t *testing.T) {
	dev, production := environment(t, "dev"), environment(t, "production")
	cell := artifact.Status{Deployment: artifact.Deployment{Repository: repository(t, "shop/returns"), Environment: production, Digest: testDigest, Version: "v456", Since: testTime.Add(-3 * time.Hour)},
		Verdict: artifact.Deny, Scan: artifact.Scanned, Counts: map[artifact.Severity]int{artifact.Critical: 2, artifact.Low: 9}}
	got := fakeServer(t, map[string]any{"GET /status": server.Board{At: testTime, Environments: []artifact.Environment{dev, production}, Cells: []artifact.Status{cell}}})
	out, _, code := run(t, "", "status", "returns", "--at", "2026-10-01")
	require.Zero(t, code)
	require.Equal(t, "at=2026-10-01&service=returns", (*got)[0].query)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Equal(t, []string{"SERVICE", "DEV", "PRODUCTION"}, strings.Fields(lines[0]))
	require.Equal(t, []string{"shop/returns", "-", "v456", testDigest.Short(), "3h", "deny", "2", "critical"}, strings.Fields(lines[len(lines)-1]))
	require.NotContains(t, out, "\x1b", "no colour where there is no terminal")
}

// TestWaiverForAShortDigest: the server says which digest is meant, and the waiver is for the whole of it.
func TestWaiverForAShortDigest(t *testing.T) {
	got := fakeServer(t, map[string]any{"GET /verdict": artifact.VerdictRecord{Digest: testDigest}, "POST /waivers": artifact.Waiver{Digest: testDigest}})
	waive := func(digest string) (string, int) {
		_, errs, code := run(t, "", "waiver", "create", "--rule", "max-size", "--digest", digest, "--expires", "72h", "--reason", "models move out")
		return errs, code
	}
	errs, code := waive("shop/returns@" + testDigest.Short())
	require.Zero(t, code, errs)
	require.Contains(t, (*got)[1].body, testDigest.String())
	errs, code = waive("shop/returns@" + testDigest.String())
	require.Zero(t, code, errs)
	require.Len(t, *got, 3, "a whole digest is nobody's question")
	errs, code = waive(testDigest.Short())
	require.Equal(t, 2, code)
	require.Contains(t, errs, "or REPO@ and its first 12 or more")
}

// TestContextThatCannotBeSent: the server has no part in that, and is not blamed.
func TestContextThatCannotBeSent(t *testing.T) {
	fakeServer(t, map[string]any{"POST /builds": "{}\n"})
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY pipe /\n"), 0o600))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	_, errs, code := run(t, "", "build", "-t", "shop/returns:v456", dir)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "which no image can hold")
	require.NotContains(t, errs, "cannot reach")
}

// TestStatusTellsOfRecallsAndWhatIsHidden: neither looks like an environment that nothing was ever promoted to.
func TestStatusTellsOfRecallsAndWhatIsHidden(t *testing.T) {
	dev, production := environment(t, "dev"), environment(t, "production")
	returns, orders := repository(t, "shop/returns"), repository(t, "shop/orders")
	gone := artifact.Withdrawn{Deployment: artifact.Deployment{Repository: returns, Environment: production, Digest: testDigest, Version: "v456", Since: testTime.Add(-3 * time.Hour)},
		RecalledAt: testTime.Add(-time.Hour), RecalledBy: "user:ada", Why: "CVE-2026-1"}
	fakeServer(t, map[string]any{"GET /status": server.Board{At: testTime, Environments: []artifact.Environment{dev, production}, Recalled: []artifact.Withdrawn{gone},
		Cells: []artifact.Status{{Deployment: artifact.Deployment{Repository: orders, Environment: dev, Digest: testDigest, Since: testTime}}}, Hidden: []server.Place{{Repository: orders, Environment: production}}}})
	out, _, code := run(t, "", "status")
	require.Zero(t, code)
	lines := strings.Split(out, "\n")
	require.Equal(t, []string{"shop/orders", testDigest.Short(), "0s", "hidden"}, strings.Fields(lines[1]))
	require.Equal(t, []string{"shop/returns", "-", "recalled", "1h"}, strings.Fields(lines[2]))
	require.Contains(t, out, "v456 "+testDigest.String()+" was recalled at 2026-10-01 11:00:00Z by user:ada: CVE-2026-1")
	require.Contains(t, out, "waybill rollback shop/returns production")
	out, _, code = run(t, "", "status", "-o", "csv")
	require.Zero(t, code)
	require.Contains(t, out, "CVE-2026-1,deny,recalled")
}

func TestVerdictThatDeniesIsOne(t *testing.T) {
	denied := artifact.VerdictRecord{Repository: repository(t, "shop/returns"), Digest: testDigest, Outcome: artifact.Deny, Policies: []string{"baseline@1"},
		Reasons: []artifact.Reason{{Rule: "no-sshd", Message: "usr/sbin/sshd is an SSH daemon", Policy: "baseline"}, {Rule: "max-size", Message: "large", Warning: true}}}
	fakeServer(t, map[string]any{"GET /verdict": denied})
	out, errs, code := run(t, "", "verdict", "shop/returns:v456", "--output", "json")
	require.Equal(t, 1, code)
	var v artifact.VerdictRecord
	require.NoError(t, json.Unmarshal([]byte(out), &v))
	require.Equal(t, denied, v)
	require.Contains(t, errs, "no-sshd: usr/sbin/sshd is an SSH daemon")
	require.NotContains(t, errs, "max-size", "a warning does not deny")
}

func TestReaders(t *testing.T) {
	inspection := server.Inspection{Repository: repository(t, "shop/returns"), Digest: testDigest, Type: "image", Image: &server.ImageInspection{
		Layers: []artifact.LayerSummary{{Digest: testDigest, Compressed: 2048}}, Files: 12, Packages: []artifact.Package{{Name: "openssl", Version: "3.0", Type: "deb"}}}}
	scan := server.ScanReport{Repository: inspection.Repository, Digest: testDigest, State: artifact.Scanned, DatabaseAge: 7200, Counts: map[artifact.Severity]int{artifact.High: 1, artifact.Low: 1},
		Findings: []artifact.Finding{{ID: "CVE-1", Severity: artifact.Low, Package: "a"}, {ID: "CVE-2", Severity: artifact.High, Package: "b"}}}
	story := server.Story{Manifest: inspection, Verdict: artifact.VerdictRecord{Outcome: artifact.Allow}, Scan: &scan,
		Promotions: []artifact.Promotion{{Action: "promote", Environment: environment(t, "dev"), Digest: testDigest, Actor: "token:ci", At: testTime}}}
	compared := server.Comparison{From: server.ComparedImage{Repository: inspection.Repository, Image: testDigest, Layers: 2, Scan: artifact.Scanned}, To: server.ComparedImage{Repository: inspection.Repository, Image: testDigest, Layers: 3, Scan: artifact.Scanned}, MoreFiles: 7,
		Difference: artifact.Difference{Scanned: true, Stacked: true, Shared: 2, SizeChange: -2048, Introduced: scan.Findings[:1], Fixed: scan.Findings[1:], Added: []artifact.Package{{Name: "curl\x1b[2J", Version: "8", Type: "deb"}},
			Changed: []artifact.PackageChange{{Name: "openssl", From: "3.0", To: "3.1", Type: "deb"}}, Config: []artifact.ConfigChange{{Name: "User", To: "65532"}}, Files: []artifact.FileChange{{Path: "app/map.js", What: "changed", Bytes: 3 << 20}}, FilesChanged: 8}}
	fakeServer(t, map[string]any{"GET /compare": compared, "GET /inspect": inspection, "GET /scan": scan, "GET /show": story, "GET /history": server.HistoryList{Promotions: story.Promotions},
		"GET /replications": server.ReplicationList{Replications: []artifact.Replication{{Target: "edge", Repository: repository(t, "shop/returns"), Digest: testDigest, State: artifact.ReplicationFailed, Problem: "it is away", Since: testTime}}},
		"GET /tags/history": server.TagHistory{Changes: []artifact.TagChange{{Digest: testDigest, Actor: "token:ci", At: testTime}, {Actor: "user:ada", At: testTime}}},
		"GET /keys":         server.PublicKeys{PublicKeyPEM: "-----BEGIN PUBLIC KEY-----\n"}})
	for line, wants := range map[string][]string{
		"inspect shop/returns:v456":                   {"(none: root)", "12 (0 hidden", "openssl", "2.0 KiB"},
		"scan shop/returns:v456":                      {"1 high, 1 low", "(2h ago)", "CVE-1"},
		"compare shop/returns:v455 shop/returns:v456": {"-2.0 KiB compressed, 2 layers shared", "1 introduced, 1 fixed", "+ low CVE-1", "- high CVE-2", "~ openssl 3.0 -> 3.1 (deb)", "User: - -> 65532", "~ app/map.js +3.0 MiB", "and 7 more"},
		"show shop/returns:v456":                      {"allow", "not yet", "promote", "token:ci"},
		"history returns":                             {"promote", "2026-10-01 12:00:00Z"},
		"replication status":                          {"edge", "shop/returns", "failed", "it is away"},
		"history shop/returns:v456":                   {testDigest.String(), "deleted", "user:ada"},
		"key public":                                  {"-----BEGIN PUBLIC KEY-----\n"},
	} {
		out, errs, code := run(t, "", strings.Fields(line)...)
		require.Zero(t, code, "%s: %s", line, errs)
		for _, want := range wants {
			require.Contains(t, out, want, line)
		}
		require.NotContains(t, out, "\x1b", line)
		out, _, code = run(t, "", append(strings.Fields(line), "--output", "json")...)
		require.Zero(t, code, line)
		require.True(t, json.Valid([]byte(out)), line)
	}
	out, _, _ := run(t, "", "scan", "shop/returns:v456")
	require.Less(t, strings.Index(out, "CVE-2"), strings.Index(out, "CVE-1"), "the worst comes first")
}

func TestRetention(t *testing.T) {
	tag := func(s string) artifact.Tag {
		parsed, err := artifact.ParseTag(s)
		require.NoError(t, err)
		return parsed
	}
	report := storage.Report{DryRun: true, Repositories: []storage.RepositoryReport{{Repository: repository(t, "shop/returns"), Document: "shop@3", Freed: 3 << 20,
		Removed: []storage.Removed{{Digest: testDigest, Tags: []artifact.Tag{tag("v1"), tag("v2")}, Bytes: 2048}, {Digest: testDigest, Tags: []artifact.Tag{tag("v3")}, TagOnly: true}},
		Kept:    []storage.Kept{{Tag: tag("v9"), Digest: testDigest, Reasons: []string{"promoted to dev", "one of the newest 10"}}},
		Skipped: []storage.Skipped{{Digest: testDigest, Tags: []artifact.Tag{}, Reason: "it changed\x1b[2J"}}}}}
	got := fakeServer(t, map[string]any{"POST /retention": report})
	out, errs, code := run(t, "", "retention", "--dry-run")
	require.Zero(t, code, errs)
	require.JSONEq(t, `{"dryRun":true}`, (*got)[0].body)
	for _, want := range []string{"v1 v2", "2.0 KiB", "would be removed", "nothing in shop@3 keeps it", "tag would be removed", "promoted to dev; one of the newest 10", "skipped", "3.0 MiB of blobs would be no longer needed"} {
		require.Contains(t, out, want)
	}
	require.NotContains(t, out, "\x1b")
	report.DryRun = false
	fakeServer(t, map[string]any{"POST /retention": report})
	out, _, code = run(t, "", "retention")
	require.Zero(t, code)
	require.Contains(t, out, "3.0 MiB of blobs are no longer needed")
	require.NotContains(t, out, "would")
	fakeServer(t, map[string]any{"POST /retention": storage.Report{}})
	out, _, code = run(t, "", "retention")
	require.Zero(t, code)
	require.Contains(t, out, "no document in force has retention")
}

func TestAudit(t *testing.T) {
	report := server.LedgerReport{OK: true, Size: 3, Root: "cm9vdA==", Checkpoints: 2}
	answers := map[string]any{"GET /audit": report}
	fakeServer(t, answers)
	out, _, code := run(t, "", "audit")
	require.Zero(t, code)
	require.True(t, strings.HasSuffix(out, "\nok\n"), out)
	report.OK, report.Problems = false, []string{"entry 1: its hash differs"}
	answers["GET /audit"] = report
	out, errs, code := run(t, "", "audit")
	require.Equal(t, 1, code)
	require.NotContains(t, out, "ok")
	require.Contains(t, errs, "entry 1: its hash differs")
}

func TestLoginStoresForOneServerOnly(t *testing.T) {
	fakeServer(t, map[string]any{"GET /repositories": server.RepositoryList{}})
	home := os.Getenv("XDG_CONFIG_HOME")
	address := os.Getenv("WAYBILL_URL")
	t.Setenv("WAYBILL_TOKEN", "")
	_, errs, code := run(t, "wrong\n", "login", address)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "the token is not known")
	require.NoFileExists(t, filepath.Join(home, "waybill", "login.json"), "a wrong token is not stored")
	_, errs, code = run(t, testToken+"\n", "login", address+"/")
	require.Zero(t, code, errs)
	require.NotContains(t, errs, testToken)
	info, err := os.Stat(filepath.Join(home, "waybill", "login.json"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	t.Setenv("WAYBILL_URL", "")
	c, err := newClient()
	require.NoError(t, err)
	require.Equal(t, testToken, c.token)
	t.Setenv("WAYBILL_URL", "http://elsewhere.example:1")
	c, err = newClient()
	require.NoError(t, err)
	require.Empty(t, c.token, "a stored token goes nowhere else")
}

func TestNoServer(t *testing.T) {
	fakeServer(t, nil)
	t.Setenv("WAYBILL_URL", "http://127.0.0.1:1")
	_, errs, code := run(t, "", "status")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "waybill serve")
	require.Contains(t, errs, "WAYBILL_URL")
}

func TestWrongTokenSaysWhatToDo(t *testing.T) {
	fakeServer(t, nil)
	t.Setenv("WAYBILL_TOKEN", "wbt_other")
	_, errs, code := run(t, "", "status")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "waybill login http://")
	require.NotContains(t, errs, "wbt_other")
}

// evidence makes a bundle that verifies, with real keys and a real tree.
func evidence(t *testing.T) server.Bundle {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	require.NoError(t, err)
	private, public, err := ledger.GenerateKey()
	require.NoError(t, err)
	signer, err := ledger.NewSigner(private)
	require.NoError(t, err)
	b := server.Bundle{Repository: repository(t, "shop/returns"), Environment: environment(t, "production"), Manifest: []byte(`{"schemaVersion":2}`),
		Keys: server.PublicKeys{PublicKeyPEM: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), LedgerVerifier: public}}
	b.Digest = artifact.DigestOf(b.Manifest)
	b.Runs = &server.Running{At: testTime, Digest: b.Digest, Version: "v456", Since: testTime}
	payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"shop/returns"},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, b.Digest)
	sum := sha256.Sum256(payload)
	signature, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	require.NoError(t, err)
	b.Signatures = []server.BundleSignature{{Payload: payload, Signature: signature}}

	var hashes []ledger.Hash
	read := func(indexes []int64) ([]ledger.Hash, error) {
		out := make([]ledger.Hash, len(indexes))
		for i, n := range indexes {
			out[i] = hashes[n]
		}
		return out, nil
	}
	var leaves [][]byte
	for n := range int64(5) {
		e := ledger.Entry{Kind: "promotion", Actor: "token:release", At: testTime, Repository: b.Repository, Digest: b.Digest, Environment: environment(t, "dev")}
		if n == 3 {
			e.Environment = b.Environment
		}
		leaf, err := e.Canonical()
		require.NoError(t, err)
		_, more, err := ledger.Append(n, leaf, read)
		require.NoError(t, err)
		hashes, leaves = append(hashes, more...), append(leaves, leaf)
	}
	proof, err := ledger.Prove(5, 3, read)
	require.NoError(t, err)
	root, err := ledger.Root(5, read)
	require.NoError(t, err)
	b.Checkpoint, err = signer.Sign(5, root)
	require.NoError(t, err)
	b.Promotion = &server.InclusionProof{Index: 3, Size: 5, Leaf: leaves[3]}
	for _, h := range proof {
		b.Promotion.Proof = append(b.Promotion.Proof, h[:])
	}
	return b
}

func TestVerifyCatchesEveryForgery(t *testing.T) {
	t.Parallel()
	good := evidence(t)
	ref, err := artifact.ParseShortReference("shop/returns@" + good.Digest.String())
	require.NoError(t, err)
	v := verifyBundle(good, ref, good.Environment, good.Keys)
	require.True(t, v.OK, "%+v", v.Checks)
	require.Len(t, v.Checks, 5)

	stranger := evidence(t)
	for name, forge := range map[string]struct {
		change func(b *server.Bundle)
		fails  string
	}{
		"another manifest":         {func(b *server.Bundle) { b.Manifest = []byte("{}") }, "manifest"},
		"no signature":             {func(b *server.Bundle) { b.Signatures = nil }, "signature"},
		"another payload":          {func(b *server.Bundle) { b.Signatures[0].Payload = []byte("{}") }, "signature"},
		"another key's signature":  {func(b *server.Bundle) { b.Signatures = stranger.Signatures }, "signature"},
		"no checkpoint":            {func(b *server.Bundle) { b.Checkpoint = "" }, "checkpoint"},
		"another log's checkpoint": {func(b *server.Bundle) { b.Checkpoint = stranger.Checkpoint }, "checkpoint"},
		"another entry": {func(b *server.Bundle) {
			b.Promotion.Leaf = bytes.Replace(b.Promotion.Leaf, []byte("token:release"), []byte("token:mallory"), 1)
		}, "ledger"},
		"another index":       {func(b *server.Bundle) { b.Promotion.Index = 2 }, "ledger"},
		"index past the tree": {func(b *server.Bundle) { b.Promotion.Index = 5 }, "ledger"},
		"negative index":      {func(b *server.Bundle) { b.Promotion.Index = -1 }, "ledger"},
		"no proof":            {func(b *server.Bundle) { b.Promotion.Proof = nil }, "ledger"},
		"short hash":          {func(b *server.Bundle) { b.Promotion.Proof[0] = []byte{1} }, "ledger"},
		"no promotion":        {func(b *server.Bundle) { b.Promotion = nil }, "promotion"},
		"malformed entry":     {func(b *server.Bundle) { b.Promotion.Leaf = []byte("{") }, "promotion"},
	} {
		b := copyBundle(t, good)
		forge.change(&b)
		v := verifyBundle(b, ref, good.Environment, good.Keys)
		require.False(t, v.OK, name)
		failed := map[string]bool{}
		for _, c := range v.Checks {
			failed[c.Name] = failed[c.Name] || !c.OK
		}
		require.True(t, failed[forge.fails], "%s: %+v", name, v.Checks)
	}
	// What is asked for comes from the command line: true evidence of something else proves nothing.
	elsewhere := verifyBundle(good, ref, environment(t, "staging"), good.Keys)
	require.False(t, elsewhere.OK)
	ref.Repository = repository(t, "shop/other")
	require.False(t, verifyBundle(good, ref, good.Environment, good.Keys).OK)
}

func copyBundle(t *testing.T, b server.Bundle) (c server.Bundle) {
	t.Helper()
	j, err := json.Marshal(b)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(j, &c))
	return c
}

// TestVerifyWhatRuns: a digest that was promoted and replaced since verifies only where that is asked for.
func TestVerifyWhatRuns(t *testing.T) {
	b := evidence(t)
	ref := "shop/returns@" + b.Digest.Short()
	for name, c := range map[string]struct {
		runs *server.Running
		says string
	}{
		"it runs":       {b.Runs, "runs it since"},
		"replaced":      {&server.Running{At: testTime, Digest: testDigest, Version: "v455", Since: testTime, Actor: "user:ada", Reason: "v456 is slow"}, "replaced by v455 " + testDigest.String() + " at"},
		"nothing runs":  {&server.Running{At: testTime}, "ran nothing"},
		"nothing known": {nil, "does not say what production runs"},
	} {
		b.Runs = c.runs
		fakeServer(t, map[string]any{"GET /verify": b})
		out, errs, code := run(t, "", "verify", ref, "--environment", "production")
		require.Contains(t, out+errs, c.says, name)
		require.Equal(t, name == "it runs", code == 0, "%s: %s", name, errs)
		_, errs, code = run(t, "", "verify", ref, "--environment", "production", "--ever")
		require.Zero(t, code, "%s: %s", name, errs)
	}
	_, errs, code := run(t, "", "verify", "shop/returns@"+strings.Repeat("0", 12))
	require.Equal(t, 1, code)
	require.Contains(t, errs, "does not mean", "evidence of another digest is none")
}

func TestVerifyOffline(t *testing.T) {
	b := evidence(t)
	fakeServer(t, map[string]any{"GET /verify": b})
	dir := t.TempDir()
	file, key, ledgerKey := filepath.Join(dir, "bundle.json"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "ledger.pub")
	ref := "shop/returns@" + b.Digest.String()
	out, errs, code := run(t, "", "verify", ref, "--environment", "production", "--save", file)
	require.Zero(t, code, errs)
	require.Contains(t, out, "pin them with --key")
	require.Contains(t, out, "verified "+ref)
	require.NoError(t, os.WriteFile(key, []byte(b.Keys.PublicKeyPEM), 0o600))
	require.NoError(t, os.WriteFile(ledgerKey, []byte(b.Keys.LedgerVerifier+"\n"), 0o600))
	t.Setenv("WAYBILL_URL", "http://127.0.0.1:1") // nobody is asked
	out, errs, code = run(t, "", "verify", ref, "--environment", "production", "--bundle", file, "--key", key, "--ledger-key", ledgerKey)
	require.Zero(t, code, errs)
	require.NotContains(t, out, "pin them")
	stranger := evidence(t)
	require.NoError(t, os.WriteFile(key, []byte(stranger.Keys.PublicKeyPEM), 0o600))
	_, errs, code = run(t, "", "verify", ref, "--bundle", file, "--key", key)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "not of the given key")
}
