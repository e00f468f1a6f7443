package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/csv"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/ledger"
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
	s.await("attestations", func() bool { return len(s.attestedTypes(pusher, ref)) == 2 })
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
		require.Equal(t, []string{"day", "repository", "digest", "by", "pulls", "first", "last", "type"}, rows[0])
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
		s.everyByte(at("one.tar.gz"), verify)
		b, err := os.ReadFile(at("one.tar.gz"))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(at("cut.tar.gz"), b[:len(b)/2], 0o600))
		out, stderr, code := verify(at("cut.tar.gz"))
		require.Equal(t, 1, code, out)
		require.Contains(t, stderr, "is not what `waybill export` writes")
	})
}

// everyByte changes one byte of each kind of file in an archive: each is named. So it is by who signs the listing anew, of what
// is signed by itself or proven.
func (s *waybillServer) everyByte(archive string, verify func(file string) (string, string, int)) {
	t := s.t.(*testing.T)
	key, err := ledger.OpenSigner(filepath.Join(s.data, "keys", "ledger.key"))
	require.NoError(t, err)
	kinds := map[string]bool{}
	for _, name := range names(t, archive) {
		kinds[kindOf(name)] = true
	}
	want := map[string]struct {
		after string // the byte after this is changed
		sound string // what is found wrong when the listing is signed anew; nothing: only the listing covers it
	}{
		"checkpoint":        {"\n\n\u2014 ", "checkpoint"},
		"entries.jsonl":     {`"leaf":"`, "entry"},
		"manifest":          {`"digest":"sha256:`, "manifest: shop/returns@"},
		"signatures.json":   {`"signature": "`, "none of 1 signatures holds"},
		"attestations.json": {`"envelope": "sha256:`, "lists it, and it is not there"},
		"attestations":      {`"payload":"`, "its bytes hash to"},
		"promotions.json":   {`"actor": "`, "is not what entry"},
		"story.json":        {`"digest": "sha256:`, ""},
		"pulls.json":        {`"principal": "`, ""},
		"documents.json":    {`"kind": "`, ""},
		"export.json":       {`"madeBy": "`, ""},
		"listing":           {"waybill-export/v1\n", ""},
	}
	require.Len(t, kinds, len(want), "%v", kinds)
	file := filepath.Join(t.TempDir(), "changed.tar.gz")
	for kind, c := range want {
		require.True(t, kinds[kind], kind)
		for _, anew := range []bool{false, true} {
			changed := ""
			var listed []ledger.ExportedFile
			rewrite(t, archive, file, func(name string, b []byte) []byte {
				if kindOf(name) == kind && changed == "" && (kind != "listing" || !anew) {
					at := bytes.Index(b, []byte(c.after)) + len(c.after)
					require.GreaterOrEqual(t, at, len(c.after), "%s: %s", name, b)
					other := byte('0')
					if b[at] == other {
						other = '1'
					}
					b[at], changed = other, name
				}
				if anew && name == "listing" {
					signed, err := key.SignListing(listed)
					require.NoError(t, err)
					return []byte(signed)
				}
				listed = append(listed, ledger.ExportedFile{Path: name, Size: int64(len(b)), SHA256: sha256.Sum256(b)})
				return b
			})
			out, stderr, code := verify(file)
			switch {
			case !anew && kind == "listing":
				require.Equal(t, 1, code, out)
				require.Contains(t, stderr, "listing")
			case !anew:
				require.Equal(t, 1, code, "%s: %s", kind, out)
				require.Contains(t, stderr, changed+" was changed after it was signed", kind)
			case c.sound == "":
				require.Zero(t, code, "%s: %s", kind, stderr)
			default:
				require.Equal(t, 1, code, "%s: %s", kind, out)
				require.Contains(t, stderr, c.sound, kind)
				require.NotContains(t, stderr, "after it was signed", kind)
			}
		}
	}
}

// kindOf is what kind of file of an archive one is.
func kindOf(name string) string {
	if strings.Contains(name, "/attestations/") {
		return "attestations"
	}
	return name[strings.LastIndexByte(name, '/')+1:]
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
