package server_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/server"
)

// TestAffectedAreTheCallersImages: who may not look at a repository does not learn what is wrong in it, and a deployer
// learns of what is promoted to its environments alone.
func TestAffectedAreTheCallersImages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	for who, want := range map[string]int{"auditor": 3, "admin": 3, "scoped-reader": 1, "deployer": 1, "scoped-deployer": 0} {
		var page server.AffectedPage
		call(t, s, who, "GET", "/cves/CVE-2024-24790", "", "").decode(t, &page)
		require.Len(t, page.Affected, want, who)
		for _, a := range page.Affected {
			if who == "deployer" {
				require.Equal(t, w.promoted, a.Digest)
				require.Equal(t, w.production, a.RunsIn[0].Environment)
			}
		}
	}
	var none server.AffectedPage
	call(t, s, "auditor", "GET", "/cves/CVE-1999-0001", "", "").decode(t, &none)
	require.Empty(t, none.Affected)
	for _, wrong := range []string{"/cves/CVE%202024", "/cves/-x", "/cves/CVE-1?after=nonsense", "/cves/CVE-1?before=x"} {
		require.Contains(t, []int{400, 422}, call(t, s, "auditor", "GET", wrong, "", "").status, wrong)
	}
}

// TestSBOMIsWhatIsAttached: not one byte differs from the referrer, so that its digest can be checked.
func TestSBOMIsWhatIsAttached(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	got := call(t, s, "reader", "GET", "/sbom?ref=shop/returns:v456&format=spdx", "", "")
	require.Equal(t, 200, got.status)
	require.Equal(t, "{\"format\": \"spdx\"}\n", string(got.body))
	require.Equal(t, "application/spdx+json", got.header.Get("Content-Type"))
	require.Equal(t, "application/vnd.cyclonedx+json", call(t, s, "reader", "GET", "/sbom?ref=shop/returns:v456", "", "").header.Get("Content-Type"))
	require.Equal(t, 404, call(t, s, "reader", "GET", "/sbom?ref=shop/returns:v457", "", "").status)
	require.Equal(t, 403, call(t, s, "deployer", "GET", "/sbom?ref=shop/returns:v457", "", "").status)
	require.Equal(t, 422, call(t, s, "reader", "GET", "/sbom?ref=shop/returns:v456&format=xml", "", "").status)
}

// TestProvenance: what Waybill built is told, of what it did not that it did not, and to no one who may not look.
func TestProvenance(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, _ := w.start(t)
	var got server.Provenance
	call(t, s, "reader", "GET", "/provenance?ref=shop/returns:v456", "", "").decode(t, &got)
	require.Equal(t, map[string]any{"predicateType": "https://slsa.dev/provenance/v1"}, got.Statement)
	require.Equal(t, "k1", got.KeyID)
	require.Equal(t, 404, call(t, s, "reader", "GET", "/provenance?ref=shop/returns:v457", "", "").status)
	for _, path := range []string{"/provenance", "/attestations"} {
		require.Equal(t, 403, call(t, s, "deployer", "GET", path+"?ref=shop/returns:v457", "", "").status, path)
		require.Contains(t, []int{400, 422}, call(t, s, "reader", "GET", path+"?ref=x@y", "", "").status, path)
	}
	var all server.AttestationList
	call(t, s, "reader", "GET", "/attestations?ref=shop/returns:v456", "", "").decode(t, &all)
	require.Len(t, all.Attestations, 1)
}
