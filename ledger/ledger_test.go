package ledger_test

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/note"
	"pgregory.net/rapid"

	"waybill/artifact"
	"waybill/ledger"
)

func TestCanonical(t *testing.T) {
	t.Parallel()
	repository, err := artifact.ParseRepository("shop/returns")
	require.NoError(t, err)
	e := ledger.Entry{Kind: "push.denied", Actor: "token:ci", At: time.Date(2026, 11, 21, 5, 0, 0, 123456789, time.FixedZone("", 3600)), Repository: repository,
		Version: "v456", Reasons: []string{"no-root-user: <root> & \"x\""}}
	body, err := e.Canonical()
	require.NoError(t, err)
	require.Equal(t, `{"actor":"token:ci","at":"2026-11-21T04:00:00.123456Z","kind":"push.denied","reasons":["no-root-user: <root> & \"x\""],"repository":"shop/returns","version":"v456"}`, string(body))
	parsed, err := ledger.Parse(body)
	require.NoError(t, err)
	again, err := parsed.Canonical()
	require.NoError(t, err)
	require.Equal(t, body, again)
}

// TestLeafFits: what has too many reasons for a bundle's 16 bits keeps the first, and says so.
func TestLeafFits(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1000)
	e := ledger.Entry{Kind: "push.denied", Actor: "a"}
	for range 200 {
		e.Reasons = append(e.Reasons, long)
	}
	body, err := e.Leaf()
	require.NoError(t, err)
	require.LessOrEqual(t, len(body), ledger.MaxEntry)
	kept, err := ledger.Parse(body)
	require.NoError(t, err)
	require.Len(t, kept.Reasons, 51)
	require.Equal(t, "150 more reasons are in the verdict", kept.Reasons[50])
	require.Len(t, e.Reasons, 200)
	e.Reasons = []string{strings.Repeat("x", 1<<17)}
	body, err = e.Leaf()
	require.NoError(t, err)
	require.Contains(t, string(body), `"1 more reasons are in the verdict"`)
	e.Reason = strings.Repeat("x", 1<<17)
	_, err = e.Leaf()
	require.Equal(t, artifact.TooLarge, artifact.KindOf(err))
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	good := `{"actor":"a","at":"2026-11-21T04:00:00Z","kind":"k"}`
	_, err := ledger.Parse([]byte(good))
	require.NoError(t, err)
	for name, body := range map[string]string{
		"unknown key":          `{"actor":"a","at":"2026-11-21T04:00:00Z","kind":"k","x":1}`,
		"other order":          `{"at":"2026-11-21T04:00:00Z","actor":"a","kind":"k"}`,
		"space":                `{"actor": "a","at":"2026-11-21T04:00:00Z","kind":"k"}`,
		"another key's case":   `{"Actor":"a","at":"2026-11-21T04:00:00Z","kind":"k"}`,
		"a key twice":          `{"actor":"b","actor":"a","at":"2026-11-21T04:00:00Z","kind":"k"}`,
		"an escape":            `{"actor":"\u0061","at":"2026-11-21T04:00:00Z","kind":"k"}`,
		"another zone":         `{"actor":"a","at":"2026-11-21T05:00:00+01:00","kind":"k"}`,
		"nanoseconds":          `{"actor":"a","at":"2026-11-21T04:00:00.000000001Z","kind":"k"}`,
		"an empty value":       `{"actor":"a","at":"2026-11-21T04:00:00Z","kind":"k","reason":""}`,
		"bytes after it":       good + "\n",
		"another JSON value":   good + "{}",
		"malformed digest":     `{"actor":"a","at":"2026-11-21T04:00:00Z","digest":"sha256:1","kind":"k"}`,
		"not JSON":             `x`,
		"nothing":              ``,
		"malformed repository": `{"actor":"a","at":"2026-11-21T04:00:00Z","kind":"k","repository":"../x"}`,
	} {
		_, err := ledger.Parse([]byte(body))
		require.Error(t, err, name)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"actor":"a","at":"2026-11-21T04:00:00Z","environments":["dev"],"evidence":[],"kind":"k"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := ledger.Parse(body)
		if err != nil {
			return
		}
		if again, err := e.Canonical(); err != nil || string(again) != string(body) {
			t.Fatalf("%q became %q: %v", body, again, err)
		}
	})
}

// tree is a ledger of bodies with its hashes.
type tree struct {
	bodies [][]byte
	hashes []ledger.Hash
}

func (tr *tree) read(indexes []int64) ([]ledger.Hash, error) {
	out := make([]ledger.Hash, len(indexes))
	for i, index := range indexes {
		out[i] = tr.hashes[index]
	}
	return out, nil
}

func (tr *tree) append(t require.TestingT, body []byte) {
	first, hashes, err := ledger.Append(int64(len(tr.bodies)), body, tr.read)
	require.NoError(t, err)
	require.Equal(t, int64(len(tr.hashes)), first)
	tr.bodies, tr.hashes = append(tr.bodies, body), append(tr.hashes, hashes...)
}

// TestProofs: each entry of each tree is proven, no other body is, and each tree extends those before it.
func TestProofs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var tr tree
		var roots []ledger.Checkpoint
		for i := range rapid.IntRange(1, 40).Draw(t, "entries") {
			tr.append(t, []byte{byte(i)})
			root, err := ledger.Root(int64(i+1), tr.read)
			require.NoError(t, err)
			roots = append(roots, ledger.Checkpoint{Size: int64(i + 1), Root: root})
		}
		at := roots[rapid.IntRange(0, len(roots)-1).Draw(t, "tree")]
		index := rapid.Int64Range(0, at.Size-1).Draw(t, "entry")
		proof, err := ledger.Prove(at.Size, index, tr.read)
		require.NoError(t, err)
		require.NoError(t, ledger.CheckInclusion(at, index, tr.bodies[index], proof))
		require.Error(t, ledger.CheckInclusion(at, index, []byte("another"), proof))
		if at.Size > 1 {
			require.Error(t, ledger.CheckInclusion(at, (index+1)%at.Size, tr.bodies[index], proof))
		}
		last := roots[len(roots)-1]
		consistency, err := ledger.ProveConsistency(last.Size, at.Size, tr.read)
		require.NoError(t, err)
		require.NoError(t, ledger.CheckConsistency(last, at, consistency))
		if at.Size < last.Size {
			at.Root[0] ^= 1
			require.Error(t, ledger.CheckConsistency(last, at, consistency))
		}
	})
}

func TestCheckpoint(t *testing.T) {
	t.Parallel()
	signer := newSigner(t)
	root := ledger.LeafHash([]byte("x"))
	signed, err := signer.Sign(7, root)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(signed, signer.Origin()+"\n7\n"), signed)
	c, err := ledger.OpenCheckpoint(signed, signer.PublicKey())
	require.NoError(t, err)
	require.Equal(t, ledger.Checkpoint{Origin: signer.Origin(), Size: 7, Root: root}, c)

	_, err = ledger.OpenCheckpoint(strings.Replace(signed, "\n7\n", "\n8\n", 1), signer.PublicKey())
	require.Error(t, err, "another size")
	_, err = ledger.OpenCheckpoint(signed, newSigner(t).PublicKey())
	require.Error(t, err, "another log's key")
	// The same origin with another key: the name is no proof.
	private, _, err := note.GenerateKey(rand.Reader, signer.Origin())
	require.NoError(t, err)
	other, err := ledger.NewSigner(private)
	require.NoError(t, err)
	_, err = ledger.OpenCheckpoint(signed, other.PublicKey())
	require.Error(t, err)
}

func FuzzOpenCheckpoint(f *testing.F) {
	private, public, err := ledger.GenerateKey()
	require.NoError(f, err)
	signer, err := ledger.NewSigner(private)
	require.NoError(f, err)
	signed, err := signer.Sign(3, ledger.Hash{})
	require.NoError(f, err)
	f.Add(signed)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ledger.OpenCheckpoint(text, public)
		if err == nil && (c.Size != 3 || c.Root != ledger.Hash{}) {
			t.Fatalf("nobody signed %q", text)
		}
	})
}

func TestOpenSigner(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger.key")
	keys := make([]string, 8)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if signer, err := ledger.OpenSigner(path); err == nil {
				keys[i] = signer.PublicKey()
			}
		}()
	}
	wg.Wait()
	require.NotEmpty(t, keys[0])
	for _, k := range keys {
		require.Equal(t, keys[0], k, "made once")
	}
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, left, 1)

	require.NoError(t, os.Chmod(path, 0o644))
	_, err = ledger.OpenSigner(path)
	require.ErrorContains(t, err, "chmod 0600")
	bad := filepath.Join(t.TempDir(), "bad")
	require.NoError(t, os.WriteFile(bad, []byte("secret words"), 0o600))
	_, err = ledger.OpenSigner(bad)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "secret words")
}

func newSigner(t testing.TB) *ledger.Signer {
	t.Helper()
	private, _, err := ledger.GenerateKey()
	require.NoError(t, err)
	signer, err := ledger.NewSigner(private)
	require.NoError(t, err)
	return signer
}
