package ledger_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"waybill/artifact"
	"waybill/ledger"
)

// grownTree is a log in memory.
type grownTree struct {
	t      *testing.T
	signer *ledger.Signer
	size   int64
	hashes []ledger.Hash
}

func newTree(t *testing.T, signer *ledger.Signer, entries ...string) *grownTree {
	t.Helper()
	tr := &grownTree{t: t, signer: signer}
	for _, e := range entries {
		tr.add(e)
	}
	return tr
}

func (tr *grownTree) read(indexes []int64) (all []ledger.Hash, _ error) {
	for _, i := range indexes {
		all = append(all, tr.hashes[i])
	}
	return all, nil
}

func (tr *grownTree) add(entry string) {
	tr.t.Helper()
	more, err := tlog.StoredHashes(tr.size, []byte(entry), tlog.HashReaderFunc(tr.read))
	require.NoError(tr.t, err)
	tr.hashes, tr.size = append(tr.hashes, more...), tr.size+1
}

// request is one to add the tree as it is.
func (tr *grownTree) request(old int64) ledger.AddCheckpoint {
	tr.t.Helper()
	root, err := ledger.Root(tr.size, tr.read)
	require.NoError(tr.t, err)
	signed, err := tr.signer.Sign(tr.size, root)
	require.NoError(tr.t, err)
	r := ledger.AddCheckpoint{Old: old, Checkpoint: signed}
	if old > 0 && old < tr.size {
		r.Proof, err = ledger.ProveConsistency(tr.size, old, tr.read)
		require.NoError(tr.t, err)
	}
	return r
}

func newCosigner(t *testing.T, name string) *ledger.Cosigner {
	t.Helper()
	private, err := ledger.GenerateCosigner(name)
	require.NoError(t, err)
	c, err := ledger.NewCosigner(private)
	require.NoError(t, err)
	return c
}

// TestCosign: a witness follows a log that grows, and signs no other tree of it, however that is put.
func TestCosign(t *testing.T) {
	t.Parallel()
	signer, w := newSigner(t), newCosigner(t, "witness.example/1")
	honest, forked := newTree(t, signer, "a", "b", "c"), newTree(t, signer, "a", "x", "c")
	log := signer.PublicKey()
	line, last, err := w.Cosign(honest.request(0), log, ledger.Checkpoint{})
	require.NoError(t, err)
	require.EqualValues(t, 3, last.Size)
	signed := ledger.WithCosignatures(honest.request(0).Checkpoint, line)
	_, err = ledger.OpenCheckpoint(signed, log)
	require.NoError(t, err, "it is the log's checkpoint still")
	found, kept, ok := ledger.CosignedBy(signed, w.PublicKey())
	require.True(t, ok)
	require.Equal(t, "witness.example/1", found.Witness)
	require.Equal(t, line, kept)
	require.Equal(t, signed, ledger.WithCosignatures(signed, line), "once")
	_, _, ok = ledger.CosignedBy(signed, newCosigner(t, "witness.example/1").PublicKey())
	require.False(t, ok, "of another of that name")
	_, _, ok = ledger.CosignedBy(strings.Replace(signed, "\n3\n", "\n4\n", 1), w.PublicKey())
	require.False(t, ok, "of another tree")
	_, again, err := w.Cosign(honest.request(3), log, last)
	require.NoError(t, err, "the same again")
	require.Equal(t, last, again)
	for range 4 {
		honest.add("more")
		forked.add("more")
	}

	grown := honest.request(3)
	cut := grown
	cut.Proof = grown.Proof[1:]
	ahead := newTree(t, signer, "a").request(0)
	ahead.Old = 3
	needless := newTree(t, signer, "a", "b", "c").request(3)
	needless.Proof = grown.Proof
	for name, c := range map[string]struct {
		request  ledger.AddCheckpoint
		conflict bool
		is       error
		kind     artifact.Kind
	}{
		"another tree of that size":   {request: newTree(t, signer, "a", "x", "c").request(3), conflict: true},
		"a tree that does not extend": {request: forked.request(3), is: ledger.ErrFork},
		"with the other's proof":      {request: ledger.AddCheckpoint{Old: 3, Proof: grown.Proof, Checkpoint: forked.request(3).Checkpoint}, is: ledger.ErrFork},
		"a proof too short":           {request: cut, is: ledger.ErrFork},
		"as if nothing was signed":    {request: forked.request(0), conflict: true},
		"from another size":           {request: honest.request(2), conflict: true},
		"shorter":                     {request: newTree(t, signer, "a").request(1), conflict: true},
		"shorter than old":            {request: ahead, kind: artifact.Invalid},
		"a proof of nothing":          {request: needless, kind: artifact.Invalid},
		"of another log":              {request: newTree(t, newSigner(t), "a", "b", "c").request(3), kind: artifact.Denied},
	} {
		line, now, err := w.Cosign(c.request, log, last)
		require.Error(t, err, name)
		require.Empty(t, line, name)
		require.Equal(t, last, now, name)
		if c.conflict {
			var conflict *ledger.Conflict
			require.ErrorAs(t, err, &conflict, name)
			require.EqualValues(t, 3, conflict.Size)
		} else if c.is != nil {
			require.ErrorIs(t, err, c.is, name)
		} else {
			require.Equal(t, c.kind, artifact.KindOf(err), "%s: %v", name, err)
		}
	}
	_, last, err = w.Cosign(grown, log, last)
	require.NoError(t, err)
	require.EqualValues(t, 7, last.Size)
}

func TestAddCheckpointIsParsedStrictly(t *testing.T) {
	t.Parallel()
	signer := newSigner(t)
	request := newTree(t, signer, "a", "b", "c", "d", "e").request(3)
	got, err := ledger.ParseAddCheckpoint(request.Encode())
	require.NoError(t, err)
	require.Equal(t, request, got)
	body := string(request.Encode())
	for name, bad := range map[string]string{
		"empty": "", "no old": strings.TrimPrefix(body, "old "), "a sign": strings.Replace(body, "old 3", "old +3", 1), "zeros": strings.Replace(body, "old 3", "old 03", 1),
		"negative": strings.Replace(body, "old 3", "old -3", 1), "no line": "old 3", "no hash": strings.Replace(body, "\n", "\nAAAA\n", 1),
		"many": strings.Replace(body, "\n", "\n"+strings.Repeat(strings.Repeat("A", 43)+"=\n", 64), 1), "long": body + strings.Repeat("x", ledger.MaxAddCheckpoint),
	} {
		_, err := ledger.ParseAddCheckpoint([]byte(bad))
		require.Equal(t, artifact.Invalid, artifact.KindOf(err), "%s: %v", name, err)
	}
}

func FuzzParseAddCheckpoint(f *testing.F) {
	f.Add([]byte("old 0\n\nlog\n1\nAAAA\n\n— log AAAA\n"))
	f.Add([]byte("old 3\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\nlog\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := ledger.ParseAddCheckpoint(body)
		if err != nil {
			if artifact.KindOf(err) != artifact.Invalid {
				t.Fatalf("an error without a kind: %v", err)
			}
			return
		}
		if again := r.Encode(); string(again) != string(body) {
			t.Fatalf("%q became %q", body, again)
		}
		_ = fmt.Sprint(ledger.WithCosignatures(r.Checkpoint, string(body)))
	})
}
