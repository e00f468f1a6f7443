package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBackfill: what a release pushed and promoted that signed and attested nothing is signed and attested at the next start,
// and what policy denies by then is not.
func TestBackfill(t *testing.T) {
	t.Parallel()
	d := newOutside(t)
	file := filepath.Join(t.TempDir(), "waybill.yaml")
	require.NoError(t, os.WriteFile(file, []byte("database: {url: '"+d.url()+"'}\n"), 0o600))
	s := serve(t, "--config", file)
	admin, pusher := s.admin(), s.token("--role", "pusher")
	s.ok(admin, "db", "import", advisories(t))
	s.ok(pusher, "build", "-t", "shop/returns:v1", filepath.Join(root, "examples/returns"))
	built := "shop/returns@" + s.current(pusher, "shop/returns:v1")
	refused := "shop/refused@" + s.pushed(pusher, "shop/refused:v1", configured(t, "1000", files(t, map[string]string{"app": "v1"})))
	want := []string{provenancePredicate, summaryPredicate + " dev", vulnPredicate, bomPredicate, spdxPredicate}
	slices.Sort(want)
	s.await("a signature", func() bool { _, _, code := s.waybill(admin, "promote", "returns", "v1", "dev"); return code == 0 })
	complete := func() bool { return slices.Equal(want, s.attestedTypes(pusher, built)) }
	s.await("all that is said of it", complete)
	s.await("that of the other", func() bool { return len(s.attestedTypes(pusher, refused)) == 3 })

	stderr, code := s.apply("apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: labels}\nspec:\n  match: {repositories: [shop/refused]}\n  rules: [{rule: require-labels, action: deny, with: {labels: {team: ''}}}]\n")
	require.Zero(t, code, stderr)
	s.stop(syscall.SIGTERM)
	d.sql(`delete from signatures; delete from attestations; delete from tags where name like 'sha256-%'; delete from manifests where pushed_by = 'system';
		delete from grants where digest not in (select digest from manifests) and digest not in (select digest from manifest_references);
		update manifests set pushed_at = now() - interval '1 year';
		alter table promotions disable trigger append_only; update promotions set at = now() - interval '1 year'; alter table promotions enable trigger append_only;
		update verdicts set outcome = 'allow'`)
	s.start("127.0.0.1:0")
	s.await("all that is said of it, again", complete)
	s.signed(pusher, built)
	key := s.publicKey()
	for _, cosign := range cosigns() {
		checked(t, cosign, key, s.dockerConfig(pusher), s.host+"/"+built, []string{bomPredicate, vulnPredicate, provenancePredicate, summaryPredicate})
	}
	require.Empty(t, s.attestedTypes(pusher, refused))
}
