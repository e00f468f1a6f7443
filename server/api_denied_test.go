package server_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/server"
)

// deny has the world refuse a push by a tag; kept says whether what was pushed is kept.
func (w *world) deny(t *testing.T, kept bool) artifact.Digest {
	t.Helper()
	d := w.addImage(t, w.shop, "rooted", "0")
	m := w.manifests[w.shop.String()+"@"+d.String()]
	delete(w.manifests, w.shop.String()+"@"+d.String())
	delete(w.tags, w.shop.String()+":rooted")
	w.denied = &artifact.DeniedPush{Reference: "rooted", Actor: "token:ci", At: noon, LedgerIndex: 2, Manifest: artifact.StoredManifest{Repository: w.shop, Digest: d},
		Verdict: artifact.VerdictRecord{Repository: w.shop, Digest: d, Outcome: artifact.Deny, Reasons: []artifact.Reason{{Rule: "no-root-user", Message: "it runs as root"}}}}
	if kept {
		w.denied.Manifest, w.denied.Config = m, w.blobs[m.Manifest.Config.Digest]
		delete(w.blobs, m.Manifest.Config.Digest)
	}
	return d
}

// TestDenied: whoever may look is told what a denied push was and why; a tag that only it had leads there, and nothing else
// answers for it.
func TestDenied(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.deny(t, true)
	s, _ := w.start(t)
	ref := "?ref=shop/returns@" + d.String()
	for _, who := range []string{"reader", "auditor", "pusher"} {
		var i server.Inspection
		call(t, s, who, "GET", "/inspect"+ref, "", "").decode(t, &i)
		require.Equal(t, "image", i.Type)
		require.Equal(t, "0", i.Image.User)
		require.Len(t, i.Image.Layers, 1)
		require.True(t, i.Denied != nil && i.Denied.Kept && i.Denied.Reference == "rooted" && i.Denied.By == "token:ci", "%+v", i.Denied)
		var story server.Story
		call(t, s, who, "GET", "/show"+ref, "", "").decode(t, &story)
		require.Equal(t, artifact.Deny, story.Verdict.Outcome)
		require.Equal(t, "no-root-user", story.Verdict.Reasons[0].Rule)
		require.EqualValues(t, 2, story.Manifest.Denied.LedgerIndex)
		require.Empty(t, story.Signatures)
		var scan server.ScanReport
		call(t, s, who, "GET", "/scan"+ref, "", "").decode(t, &scan)
		require.NotNil(t, scan.Denied)
		require.Equal(t, artifact.ScanPending, scan.State)
	}
	for _, path := range []string{"/inspect", "/show", "/scan"} {
		for _, who := range []string{"deployer", "scoped-reader"} {
			require.Equal(t, 403, call(t, s, who, "GET", path+ref, "", "").status, "%s %s", who, path)
		}
		tag := call(t, s, "reader", "GET", path+"?ref=shop/returns:rooted", "", "")
		require.Equal(t, 404, tag.status)
		require.Contains(t, string(tag.body), "shop/returns@"+d.String())
		require.NotContains(t, string(call(t, s, "deployer", "GET", path+"?ref=shop/returns:rooted", "", "").body), d.String())
		require.Equal(t, 404, call(t, s, "reader", "GET", path+"?ref=shop/returns@"+artifact.DigestOf([]byte("never")).String(), "", "").status)
	}
	for _, path := range []string{"/sbom", "/provenance", "/attestations"} {
		require.Equal(t, 404, call(t, s, "reader", "GET", path+ref, "", "").status, path)
	}
}

// TestDeniedShort: the beginning of a denied push's digest is enough, for whoever may look; nobody else learns that there was one.
func TestDeniedShort(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.deny(t, true)
	s, _ := w.start(t)
	for _, path := range []string{"/inspect", "/show", "/scan", "/verdict"} {
		for _, ref := range []string{"?ref=shop/returns@" + d.Hex()[:12], "?ref=shop/returns@sha256:" + d.Hex()[:63], "?ref=shop/returns:rooted@" + d.Hex()[:20]} {
			got := call(t, s, "reader", "GET", path+ref, "", "")
			require.Equal(t, 200, got.status, "%s %s", path, got.body)
			require.Contains(t, string(got.body), d.String())
		}
		for _, who := range []string{"deployer", "scoped-reader"} {
			refused := call(t, s, who, "GET", path+"?ref=shop/returns@"+d.Hex()[:12], "", "")
			require.Equal(t, 403, refused.status, "%s %s", who, path)
			require.NotContains(t, string(refused.body), d.String())
		}
		require.Equal(t, 404, call(t, s, "reader", "GET", path+"?ref=shop/returns@"+artifact.DigestOf([]byte("never")).Hex()[:12], "", "").status)
	}
	require.Equal(t, 404, call(t, s, "reader", "GET", "/sbom?ref=shop/returns@"+d.Hex()[:12], "", "").status)
}

// TestDeniedLongAgo: of a push whose manifest was not kept there is the verdict still.
func TestDeniedLongAgo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := "?ref=shop/returns@" + w.deny(t, false).String()
	s, _ := w.start(t)
	var i server.Inspection
	call(t, s, "reader", "GET", "/inspect"+ref, "", "").decode(t, &i)
	require.Equal(t, "unknown", i.Type)
	require.False(t, i.Denied.Kept)
	var story server.Story
	call(t, s, "reader", "GET", "/show"+ref, "", "").decode(t, &story)
	require.Equal(t, artifact.Deny, story.Verdict.Outcome)
	require.Nil(t, story.Scan)
	var scan server.ScanReport
	call(t, s, "reader", "GET", "/scan"+ref, "", "").decode(t, &scan)
	require.Equal(t, artifact.ScanPending, scan.State)
}
