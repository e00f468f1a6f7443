package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/ledger"
	"waybill/server"
)

// withKey is evidence whose key has a row, revoked or not, and whose ledger has an entry that the key signed the digest.
func withKey(t *testing.T, revoked *server.PublicRevocation, signed ledger.Entry) server.Bundle {
	t.Helper()
	b := evidence(t)
	block, _ := pem.Decode([]byte(b.Keys.PublicKeyPEM))
	sum := sha256.Sum256(block.Bytes)
	b.Keys.Keys = []server.PublicKey{{ID: strings.Repeat("0", 64), PublicKeyPEM: evidence(t).Keys.PublicKeyPEM}, {ID: hex.EncodeToString(sum[:]), PublicKeyPEM: b.Keys.PublicKeyPEM, Revoked: revoked}}
	if signed.Kind == "" {
		return b
	}
	if signed.Subject == "" {
		signed.Subject = b.Keys.Keys[1].ID
	}
	if signed.Repository.IsZero() {
		signed.Repository = b.Repository
	}
	if signed.Digest.IsZero() {
		signed.Digest = b.Digest
	}
	signed.Actor = "system"
	leaf, err := signed.Canonical()
	require.NoError(t, err)
	var hashes []ledger.Hash
	read := func(indexes []int64) (all []ledger.Hash, _ error) {
		for _, n := range indexes {
			all = append(all, hashes[n])
		}
		return all, nil
	}
	_, hashes, err = ledger.Append(0, leaf, read)
	require.NoError(t, err)
	root, err := ledger.Root(1, read)
	require.NoError(t, err)
	private, public, err := ledger.GenerateKey()
	require.NoError(t, err)
	signer, err := ledger.NewSigner(private)
	require.NoError(t, err)
	b.Checkpoint, err = signer.Sign(1, root)
	require.NoError(t, err)
	b.Keys.LedgerVerifier, b.Signed = public, []server.InclusionProof{{Index: 0, Size: 1, Leaf: leaf}}
	return b
}

// TestVerifyRevokedKey: a signature of a revoked key counts when the ledger proves that it is older than it was trusted.
func TestVerifyRevokedKey(t *testing.T) {
	t.Parallel()
	at := testTime
	before := &server.PublicRevocation{At: at.Add(time.Hour), Before: at}
	entry := ledger.Entry{Kind: "signed", At: at.Add(-time.Second)}
	change := func(f func(*ledger.Entry)) ledger.Entry {
		e := entry
		f(&e)
		return e
	}
	for name, c := range map[string]struct {
		revoked *server.PublicRevocation
		signed  ledger.Entry
		forge   func(*server.Bundle)
		fails   string
	}{
		"not revoked":              {},
		"revoked":                  {revoked: &server.PublicRevocation{At: at}, signed: entry, fails: "was revoked"},
		"proven to be older":       {revoked: before, signed: entry},
		"without a proof":          {revoked: before, fails: "no entry of the ledger"},
		"not older":                {revoked: before, signed: change(func(e *ledger.Entry) { e.At = at }), fails: "no entry of the ledger"},
		"by another key":           {revoked: before, signed: change(func(e *ledger.Entry) { e.Subject = strings.Repeat("a", 64) }), fails: "no entry of the ledger"},
		"another digest":           {revoked: before, signed: change(func(e *ledger.Entry) { e.Digest = artifact.DigestOf(nil) }), fails: "no entry of the ledger"},
		"another kind":             {revoked: before, signed: change(func(e *ledger.Entry) { e.Kind = "push.accepted" }), fails: "no entry of the ledger"},
		"an entry that is changed": {revoked: before, signed: entry, forge: func(b *server.Bundle) { b.Signed[0].Leaf = []byte("{}") }, fails: "canonical"},
		"not in the tree": {revoked: before, signed: entry, forge: func(b *server.Bundle) {
			b.Signed[0].Leaf = []byte(strings.Replace(string(b.Signed[0].Leaf), "system", "mallory", 1))
		}, fails: "signature"},
		"no checkpoint":     {revoked: before, signed: entry, forge: func(b *server.Bundle) { b.Checkpoint = "" }, fails: "checkpoint"},
		"another's key":     {revoked: before, signed: entry, forge: func(b *server.Bundle) { b.Keys.LedgerVerifier = evidence(t).Keys.LedgerVerifier }, fails: "checkpoint"},
		"the wrong key pem": {forge: func(b *server.Bundle) { b.Keys.Keys[0].PublicKeyPEM = "x" }, fails: "not PEM"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := withKey(t, c.revoked, c.signed)
			if c.forge != nil {
				c.forge(&b)
			}
			ref, err := artifact.ParseShortReference("shop/returns@" + b.Digest.String())
			require.NoError(t, err)
			v := verifyBundle(b, ref, artifact.Environment{}, b.Keys)
			require.Equal(t, c.fails == "", v.OK, "%+v", v.Checks)
			require.Contains(t, v.Checks[1].Name+": "+v.Checks[1].Detail, c.fails)
			// Whoever pinned the key is told the same.
			pinned := b.Keys
			if pin(&pinned); c.forge == nil {
				v = verifyBundle(b, ref, artifact.Environment{}, pinned)
				require.Equal(t, c.fails == "", v.OK, "%+v", v.Checks)
			}
		})
	}
}

func TestKeyCommands(t *testing.T) {
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	first := artifact.SigningKey{ID: a, Algorithm: "ecdsa-p256", Reference: "managed:cosign.key", Since: testTime, Until: testTime.Add(time.Hour), AddedBy: "system", Reason: "first start"}
	second := artifact.SigningKey{ID: b, Algorithm: "ed25519", Reference: "hashivault://two\x1b[2J", Since: testTime.Add(time.Hour), AddedBy: "token:root", Reason: "yearly"}
	revoked := first
	revoked.Revocation = &artifact.KeyRevocation{At: testTime.Add(2 * time.Hour), By: "token:root", Reason: "lost", Before: testTime}
	got := fakeServer(t, map[string]any{
		"GET /keys":          server.PublicKeys{KeyID: b, PublicKeyPEM: "two", Keys: []server.PublicKey{{ID: b, PublicKeyPEM: "two"}, {ID: a, PublicKeyPEM: "one"}}},
		"GET /signing-keys":  server.SigningKeyList{Keys: []artifact.SigningKey{second, revoked}},
		"POST /signing-keys": second,
		"POST /signing-keys/" + a + "/revocation": revoked,
	})
	out, errs, code := run(t, "", "key", "list")
	require.Zero(t, code, errs)
	for _, want := range []string{"bbbbbbbbbbbbbbbb", "signs", "managed:cosign.key", "but for signatures before 2026-10-01 12:00:00Z: lost"} {
		require.Contains(t, out, want)
	}
	require.NotContains(t, out, "\x1b")
	for line, want := range map[string]string{"key public": "two\n", "key public --all": "two\none\n", "key public --id aaaa": "one\n"} {
		out, errs, code := run(t, "", strings.Fields(line)...)
		require.Zero(t, code, errs)
		require.Equal(t, want, out, line)
	}
	_, _, code = run(t, "", "key", "public", "--id", "c")
	require.Equal(t, 1, code)
	out, errs, code = run(t, "", "key", "rotate", "--reason", "yearly", "--key", "hashivault://two")
	require.Zero(t, code, errs)
	require.Contains(t, out, "signs from now on")
	var sent map[string]any
	last := (*got)[len(*got)-1]
	require.NoError(t, json.Unmarshal([]byte(last.body), &sent))
	require.Equal(t, map[string]any{"key": "hashivault://two", "reason": "yearly", "replaces": b}, sent)
	out, errs, code = run(t, "", "key", "revoke", a[:16], "--reason", "lost", "--before", "2026-10-01T12:00:00Z")
	require.Zero(t, code, errs)
	require.Contains(t, out, "signed again")
	require.JSONEq(t, `{"reason":"lost","before":"2026-10-01T12:00:00Z"}`, (*got)[len(*got)-1].body)
	for _, wrong := range []string{"key rotate", "key revoke aaaaaaaa", "key revoke aaaa --reason x", "key revoke cccccccc --reason x", "key revoke aaaaaaaa --reason x --before yesterday", "key public --id a --all"} {
		_, _, code := run(t, "", strings.Fields(wrong)...)
		require.Equal(t, 2, code, wrong)
	}
	require.Equal(t, http.MethodPost, last.method)
}
