package policy_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
)

// witness knows what is signed, and counts how often it is asked about each digest.
type witness struct {
	signed  map[artifact.Digest]bool
	holders map[artifact.Digest][]artifact.Digest
	asked   map[artifact.Digest]int
	err     error
}

func (w *witness) Signed(_ context.Context, _ artifact.Repository, d artifact.Digest, _ policy.SignatureQuestion) (policy.Signed, error) {
	if w.asked[d]++; w.signed[d] {
		return policy.Signed{Statements: []policy.Statement{{Signer: "ada"}}}, w.err
	}
	return policy.Signed{Against: []string{d.Short() + " is by eve"}}, w.err
}

func (w *witness) Holders(_ context.Context, _ artifact.Repository, d artifact.Digest, n int) ([]artifact.Digest, error) {
	return w.holders[d][:min(n, len(w.holders[d]))], nil
}

const signedByAda = `[{rule: require-signature, action: deny, with: {identities: [{issuer: "https://a.example", subject: ada, trustRoot: corporate}]}}]`

// TestRequireSignature: of an image, of the index that is judged, or of one that holds it.
func TestRequireSignature(t *testing.T) {
	t.Parallel()
	parsed, err := policy.Parse("p", []byte(document("p", `{repositories: ["**"]}`, signedByAda)))
	require.NoError(t, err)
	w := newWorld(policy.Versioned{Document: parsed[0], Version: 1})
	plain := artifact.DigestOf([]byte("plain"))
	one, two := w.image("one", "1000", plain), w.image("two", "1000", plain)
	index := artifact.DigestOf([]byte("index"))
	w.manifests[index] = artifact.StoredManifest{Digest: index, Manifest: artifact.Manifest{MediaType: artifact.MediaTypeIndex, Manifests: []artifact.Descriptor{one, two}}}
	holders := map[artifact.Digest][]artifact.Digest{one.Digest: {index}, two.Digest: {index}}
	for what, c := range map[string]struct {
		judged artifact.Digest
		signed []artifact.Digest
		signs  bool
	}{
		"nothing": {one.Digest, nil, false}, "the image": {one.Digest, []artifact.Digest{one.Digest}, true}, "another image": {one.Digest, []artifact.Digest{two.Digest}, false},
		"what holds it": {one.Digest, []artifact.Digest{index}, true}, "the index": {index, []artifact.Digest{index}, true},
		"each image": {index, []artifact.Digest{one.Digest, two.Digest}, true}, "half of it": {index, []artifact.Digest{one.Digest}, false},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			v := &witness{signed: map[artifact.Digest]bool{}, holders: holders, asked: map[artifact.Digest]int{}}
			for _, d := range c.signed {
				v.signed[d] = true
			}
			judge := policy.NewJudge(policy.JudgeConfig{Facts: w, Scans: w, Contents: w, Policies: w, Signatures: v, Holders: v})
			verdict, err := judge.JudgeStored(t.Context(), subject(t).Repository, c.judged)
			require.NoError(t, err)
			require.Equal(t, artifact.Allow, verdict.Outcome, "a digest is never refused for it")
			pass, err := verdict.Pass()
			require.NoError(t, err)
			require.Equal(t, c.signs, pass.Signs(), verdict.Reasons)
			_, err = verdict.Promotion()
			require.Equal(t, c.signs, err == nil)
			for d, times := range v.asked {
				require.Equal(t, 1, times, "asked about %s", d)
			}
		})
	}

	broken := &witness{err: errors.New("the database is away"), asked: map[artifact.Digest]int{}}
	_, err = policy.NewJudge(policy.JudgeConfig{Facts: w, Scans: w, Contents: w, Policies: w, Signatures: broken}).JudgeStored(t.Context(), subject(t).Repository, one.Digest)
	require.ErrorContains(t, err, "the database is away", "no answer is no verdict")
	nobody, err := policy.NewJudge(policy.JudgeConfig{Facts: w, Scans: w, Contents: w, Policies: w}).JudgeStored(t.Context(), subject(t).Repository, one.Digest)
	require.NoError(t, err)
	require.Len(t, nobody.Waiting(), 1, "where nobody looks, nothing is signed")
}

// TestWaivedSignature: a waiver of an index is for the images in it, whatever they wait for.
func TestWaivedSignature(t *testing.T) {
	t.Parallel()
	bare := set(t, document("p", `{repositories: ["**"]}`, signedByAda))
	index := subject(t)
	index.Digest = artifact.DigestOf([]byte("index"))
	waiver := artifact.Waiver{ID: 7, Rule: "require-signature", Digest: index.Digest, Repositories: []string{"**"}, CreatedAt: noon, ExpiresAt: noon.Add(time.Hour)}
	for _, c := range []struct {
		set   policy.Set
		signs bool
	}{{bare, false}, {bare.With([]artifact.Waiver{waiver}, noon), true}} {
		child := c.set.Evaluate(policy.Image{Subject: subject(t), Now: noon})
		require.Len(t, child.Waiting(), 1)
		v := c.set.Index(index, []policy.Child{{Platform: "linux/amd64", Verdict: child}})
		pass, err := v.Pass()
		require.NoError(t, err)
		require.Equal(t, c.signs, pass.Signs())
		_, err = v.Promotion()
		require.Equal(t, c.signs, err == nil)
	}
}

// TestImpactOfSignatures: a policy that is tried asks of signatures though the one in force does not.
func TestImpactOfSignatures(t *testing.T) {
	t.Parallel()
	before, err := policy.Parse("p", []byte(document("p", `{repositories: ["**"]}`, "[{rule: no-sshd, action: deny}]")))
	require.NoError(t, err)
	after, err := policy.Parse("p", []byte(document("p", `{repositories: ["**"]}`, signedByAda)))
	require.NoError(t, err)
	w := newWorld(policy.Versioned{Document: before[0], Version: 1})
	one := w.image("one", "1000", artifact.DigestOf([]byte("plain")))
	v := &witness{asked: map[artifact.Digest]int{}}
	judge := policy.NewJudge(policy.JudgeConfig{Facts: w, Scans: w, Contents: w, Policies: w, Signatures: v})
	_, err = judge.Many(w, w).Impact(t.Context(), onePage{w.manifests[one.Digest]}, after, func(artifact.Repository) bool { return true }, func(*policy.ImpactChange, int) {})
	require.NoError(t, err)
	require.Equal(t, map[artifact.Digest]int{one.Digest: 1}, v.asked)
}

// onePage is a registry of one image.
type onePage struct{ image artifact.StoredManifest }

func (p onePage) ImagesAfter(_ context.Context, after artifact.Reference, _ int) ([]artifact.StoredManifest, error) {
	if !after.Digest.IsZero() {
		return nil, nil
	}
	return []artifact.StoredManifest{p.image}, nil
}

func (p onePage) Whereabouts(_ context.Context, all []artifact.Reference) ([]policy.Whereabouts, error) {
	return make([]policy.Whereabouts, len(all)), nil
}

// TestTrustRootsOf: each that a document names is looked at, and an error says where it stands.
func TestTrustRootsOf(t *testing.T) {
	t.Parallel()
	parsed, err := policy.Parse("p.yaml", []byte(document("p", `{repositories: ["**"]}`, signedByAda)))
	require.NoError(t, err)
	var names []string
	err = parsed[0].TrustRoots(func(r policy.TrustRoot) error {
		names = append(names, r.Name)
		return errors.New("nobody knows it")
	})
	require.ErrorContains(t, err, ": nobody knows it")
	require.Regexp(t, `^p\.yaml:6:\d+: `, err.Error())
	require.Equal(t, artifact.Invalid, artifact.KindOf(err))
	require.Equal(t, []string{"corporate"}, slices.Compact(names))
}
