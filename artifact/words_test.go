package artifact_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

func TestWords(t *testing.T) {
	t.Parallel()
	for noun, want := range map[string]string{"reader": "a reader", "admin": "an admin", "auditor": "an auditor", "approver and reader": "an approver and reader", "int": "an int"} {
		require.Equal(t, want, artifact.An(noun))
	}
	require.Equal(t, []string{"0 layers", "1 layer", "2 layers", "1 entry", "3 entries"},
		[]string{artifact.Count(0, "layer"), artifact.Count(1, "layer"), artifact.Count(int64(2), "layer"), artifact.Count(1, "entry"), artifact.Count(3, "entry")})
}

// TestRefusals: a refusal is a sentence, also of no repository in particular.
func TestRefusals(t *testing.T) {
	t.Parallel()
	shop, err := artifact.ParseRepository("shop/returns")
	require.NoError(t, err)
	bound := artifact.Principal{Name: "ci", Role: artifact.Approver, Repositories: []string{"bank/**"}}
	for _, c := range []struct {
		p    artifact.Principal
		a    artifact.Action
		r    artifact.Repository
		want string
	}{
		{artifact.Principal{Name: "ci", Role: artifact.Auditor}, artifact.ActionPush, shop, "ci, an auditor, may not push in shop/returns; that takes role pusher or admin, bound to it or to every repository"},
		{artifact.Principal{Name: "ci", Role: artifact.Reader}, artifact.ActionAudit, artifact.Repository{}, "ci, a reader, may not audit here; that takes role auditor or admin"},
		{bound, artifact.ActionLook, shop, "ci may not look in shop/returns: its role, approver, is bound to bank/**; that takes one of role reader, pusher, promoter, approver, auditor or admin that is bound to shop/returns"},
		{bound, artifact.ActionLook, artifact.Repository{}, "ci may not look everywhere: its role, approver, is bound to bank/**; that takes one of role reader, pusher, promoter, approver, auditor or admin that is bound to every repository"},
	} {
		require.Equal(t, c.want, c.p.Refusal(c.a, c.r).Error())
	}
}
