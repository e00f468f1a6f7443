package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAuditor is the job of one who trusts two public keys and nothing else: tiles, checkpoints, pulls, and an archive.
func TestAuditor(t *testing.T) {
	t.Parallel()
	s := serve(t)
	pusher, auditor := s.token("--role", "pusher", "--repository", "shop/**"), s.token("--role", "auditor")
	deployer := s.token("--role", "deployer", "--environment", "dev", "--repository", "shop/**")
	folder := t.TempDir()
	at := func(name string) string { return filepath.Join(folder, name) }
	for name, key := range map[string]string{"ledger.pub": "ledger", "waybill.pub": "public"} {
		require.NoError(t, os.WriteFile(at(name), []byte(s.ok(auditor, "key", key)), 0o600))
	}
	audit := func(args ...string) string {
		return s.ok(auditor, append([]string{"audit", "--ledger-key", at("ledger.pub")}, args...)...)
	}
	require.Contains(t, audit("--save", at("first")), "ok")

	d := s.pushed(pusher, "shop/returns:v1", configured(t, "65532", files(t, map[string]string{"app": "v1"})))
	ref := "shop/returns@" + d
	s.signed(pusher, ref)
	s.ok(s.admin(), "promote", "returns", "v1", "dev", "--reason", "=1+1")
	require.Equal(t, d, s.current(deployer, "shop/returns:dev"))

	t.Run("tiles", func(t *testing.T) {
		require.Contains(t, audit("--since", at("first"), "--save", at("second")), "ok")
		require.Contains(t, audit("--tiles", "server", "--since", at("first"), "--keep", at("copy")), "ok")
		require.Contains(t, audit("--tiles", "http://"+s.host+"/ledger", "--since", at("second")), "ok")
		require.Contains(t, audit("--tiles", at("copy"), "--since", at("second")), "ok")
		_, stderr, code := s.waybill(auditor, "audit", "--tiles", at("copy"))
		require.Equal(t, 2, code, stderr)
		bundles, err := filepath.Glob(at("copy/tile/entries/000.p/*"))
		require.NoError(t, err)
		require.Len(t, bundles, 1)
		b, err := os.ReadFile(bundles[0])
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(bundles[0], bytes.Replace(b, []byte("shop/returns"), []byte("shop/orderss"), 1), 0o600))
		_, stderr, code = s.waybill(auditor, "audit", "--ledger-key", at("ledger.pub"), "--tiles", at("copy"))
		require.Equal(t, 1, code, stderr)
		require.Contains(t, stderr, "its bundle gives leaf hash")
		status, body := s.get(deployer, "/ledger/checkpoint")
		require.Equal(t, 403, status, body)
	})
	t.Run("pulls", func(t *testing.T) {
		var rows [][]string
		s.await("the pull to be written", func() bool {
			out, stderr, code := s.waybill(auditor, "pulls", ref, "-o", "csv")
			require.Zero(t, code, stderr)
			var err error
			rows, err = csv.NewReader(strings.NewReader(out)).ReadAll()
			require.NoError(t, err)
			return len(rows) > 1
		})
		require.Equal(t, []string{"day", "repository", "digest", "by", "pulls", "first", "last"}, rows[0])
		require.Equal(t, d, rows[1][2])
		require.Contains(t, rows[1][3], "token:")
		require.Equal(t, s.ok(auditor, "pulls", ref), s.ok(auditor, "history", ref))
		_, stderr, code := s.waybill(deployer, "pulls", ref)
		require.Equal(t, 1, code, stderr)
	})
	t.Run("csv", func(t *testing.T) {
		require.Contains(t, s.ok(auditor, "status", "-o", "csv"), "shop/returns,dev,"+d+",v1,")
		require.Contains(t, s.ok(auditor, "history", "returns", "-o", "csv"), ",'=1+1\n", "no spreadsheet runs a reason")
	})
	t.Run("export", func(t *testing.T) {
		verify := func(file string) (string, string, int) {
			return s.waybill("", "verify", "--export", file, "--ledger-key", at("ledger.pub"), "--key", at("waybill.pub"))
		}
		s.ok(auditor, "export", "--from", "2020-01-01", "--to", "2100-01-01", "-o", at("all.tar.gz"))
		s.ok(auditor, "export", ref, "-o", at("one.tar.gz"))
		for _, file := range []string{at("all.tar.gz"), at("one.tar.gz")} {
			out, stderr, code := verify(file)
			require.Zero(t, code, out+stderr)
			require.Contains(t, out, "1 hash to their digests; 1 have a signature of the key")
		}
		for name, c := range map[string]struct {
			change func(name string, b []byte) []byte // nil leaves the file out
			want   string
		}{
			"changed": {func(name string, b []byte) []byte {
				return bytes.ReplaceAll(b, []byte(`"dev"`), []byte(`"qa"`))
			}, "was changed after it was signed"},
			"removed": {func(name string, b []byte) []byte {
				if name == "pulls.json" {
					return nil
				}
				return b
			}, "pulls.json is missing"},
			"unsigned": {func(name string, b []byte) []byte {
				if name == "listing" {
					return nil
				}
				return b
			}, "the archive has no listing"},
			"another checkpoint": {func(name string, b []byte) []byte {
				if name == "checkpoint" {
					b, _ = os.ReadFile(at("first"))
				}
				return b
			}, "is not proven to be in the ledger"},
			"another manifest": {func(name string, b []byte) []byte {
				if strings.HasSuffix(name, "/manifest") {
					return append(b, ' ')
				}
				return b
			}, "hash to sha256:"},
		} {
			rewrite(t, at("one.tar.gz"), at("bad.tar.gz"), c.change)
			out, stderr, code := verify(at("bad.tar.gz"))
			require.Equal(t, 1, code, "%s: %s", name, out)
			require.Contains(t, stderr, c.want, name)
		}
		b, err := os.ReadFile(at("one.tar.gz"))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(at("cut.tar.gz"), b[:len(b)/2], 0o600))
		out, stderr, code := verify(at("cut.tar.gz"))
		require.Equal(t, 1, code, out)
		require.Contains(t, stderr, "is not what `waybill export` writes")
	})
}

// rewrite copies an archive with its files changed.
func rewrite(t *testing.T, from, to string, change func(name string, b []byte) []byte) {
	t.Helper()
	source, err := os.Open(from)
	require.NoError(t, err)
	defer source.Close()
	unzipped, err := gzip.NewReader(source)
	require.NoError(t, err)
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	archive := tar.NewWriter(zipped)
	for in := tar.NewReader(unzipped); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		b, err := io.ReadAll(in)
		require.NoError(t, err)
		if b = change(h.Name, b); b == nil {
			continue
		}
		h.Size = int64(len(b))
		require.NoError(t, archive.WriteHeader(h))
		_, err = archive.Write(b)
		require.NoError(t, err)
	}
	require.NoError(t, archive.Close())
	require.NoError(t, zipped.Close())
	require.NoError(t, os.WriteFile(to, out.Bytes(), 0o600))
}
