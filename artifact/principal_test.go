package artifact_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestBindings: whoever has several bindings may do what one of them allows, and nothing else: no role of one counts with the
// repositories or the environments of another.
func TestBindings(t *testing.T) {
	t.Parallel()
	repositories := []artifact.Repository{parsed(t, artifact.ParseRepository, "shop/returns"), parsed(t, artifact.ParseRepository, "shop/cart"), parsed(t, artifact.ParseRepository, "bank/ledger")}
	environments := []artifact.Environment{{}, parsed(t, artifact.ParseEnvironment, "dev"), parsed(t, artifact.ParseEnvironment, "production")}
	patterns := [][]string{nil, {"shop/**"}, {"bank/*"}, {"shop/cart"}, {"shop/cart", "bank/**"}}
	actions := []artifact.Action{artifact.ActionPull, artifact.ActionPush, artifact.ActionDelete, artifact.ActionLook, artifact.ActionBuild, artifact.ActionPromote,
		artifact.ActionApprove, artifact.ActionAudit, artifact.ActionManage}
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var p artifact.Principal
		var alone []artifact.Principal
		for range 1 + random.IntN(3) {
			b := artifact.Binding{Role: artifact.Roles[random.IntN(len(artifact.Roles))], Repositories: patterns[random.IntN(len(patterns))]}
			if n := random.IntN(3); n > 0 {
				b.Environments = environments[n : n+1]
			}
			if alone == nil {
				p = artifact.Principal{Role: b.Role, Repositories: b.Repositories, Environments: b.Environments}
			} else {
				p.More = append(p.More, b)
			}
			alone = append(alone, artifact.Principal{Role: b.Role, Repositories: b.Repositories, Environments: b.Environments})
		}
		some := func(is func(artifact.Principal) bool) bool { return slices.ContainsFunc(alone, is) }
		for _, r := range append(repositories, artifact.Repository{}) {
			for _, a := range actions {
				require.Equal(t, some(func(p artifact.Principal) bool { return p.Can(a, r) }), p.Can(a, r), "%+v %s %s", p, a, r)
				require.Equal(t, some(func(p artifact.Principal) bool { return p.CanEverywhere(a) }), p.CanEverywhere(a))
				require.Equal(t, some(func(p artifact.Principal) bool { return p.CanAll(a, "shop/**") }), p.CanAll(a, "shop/**"))
				for _, e := range environments {
					require.Equal(t, some(func(p artifact.Principal) bool { return p.CanTo(a, r, e) }), p.CanTo(a, r, e))
				}
			}
			for _, e := range environments[1:] {
				require.Equal(t, some(func(p artifact.Principal) bool { return slices.Contains(p.Deploys(r), e) }), slices.Contains(p.Deploys(r), e))
				for _, role := range artifact.Roles {
					require.Equal(t, some(func(p artifact.Principal) bool { return p.As(role, r, e) }), p.As(role, r, e))
				}
			}
			require.Equal(t, some(func(p artifact.Principal) bool { return p.Sees(r) }), p.Sees(r))
		}
	}
}

// TestOneBinding: what a single binding means.
func TestOneBinding(t *testing.T) {
	t.Parallel()
	returns, ledger := parsed(t, artifact.ParseRepository, "shop/returns"), parsed(t, artifact.ParseRepository, "bank/ledger")
	dev, production := parsed(t, artifact.ParseEnvironment, "dev"), parsed(t, artifact.ParseEnvironment, "production")
	deployer := artifact.Principal{Role: artifact.Deployer, Repositories: []string{"shop/**"}, Environments: []artifact.Environment{dev}}
	require.Equal(t, []artifact.Environment{dev}, deployer.Deploys(returns))
	require.Empty(t, deployer.Deploys(ledger))
	require.Empty(t, artifact.Principal{Role: artifact.Deployer}.Deploys(returns), "a deployer of no environment")
	approver := artifact.Principal{Role: artifact.Approver, Environments: []artifact.Environment{dev}}
	require.True(t, approver.CanTo(artifact.ActionApprove, returns, dev))
	require.False(t, approver.CanTo(artifact.ActionApprove, returns, production))
	require.False(t, approver.CanTo(artifact.ActionApprove, returns, artifact.Environment{}), "not to all")
	require.True(t, artifact.Principal{Role: artifact.Admin, Environments: []artifact.Environment{dev}}.CanTo(artifact.ActionPromote, returns, production))
	both := artifact.Principal{Name: "user:ada", Role: artifact.Reader, More: []artifact.Binding{{Role: artifact.Approver, Repositories: []string{"shop/**"}}}}
	require.Equal(t, "reader and approver", both.Roles())
	require.Contains(t, both.Refusal(artifact.ActionApprove, ledger).Error(), "its roles, reader and approver, are bound to shop/**")
	require.Contains(t, both.Refusal(artifact.ActionApprove, artifact.Repository{}).Error(), "bound to every repository")
	node := artifact.Principal{Name: "node", Role: artifact.Deployer}
	require.Contains(t, node.Refusal(artifact.ActionLook, artifact.Repository{}).Error(), "node, a deployer, may not look here; that takes role reader,")
}

func parsed[T any](t *testing.T, parse func(string) (T, error), text string) T {
	t.Helper()
	v, err := parse(text)
	require.NoError(t, err)
	return v
}

func TestHolder(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"token:ci/0123456789ab":                          "token:ci",
		"token:a/b/0123456789ab":                         "token:a/b",
		"token:ci":                                       "token:ci",
		"token:ci/0123456789AB":                          "token:ci/0123456789AB",
		"token:ci/0123456789abc":                         "token:ci/0123456789abc",
		"user:https://login.example/0123456789ab":        "user:https://login.example/0123456789ab",
		"workload:https://login.example#ci/0123456789ab": "workload:https://login.example#ci/0123456789ab",
		"system": "system", "": "",
	} {
		require.Equal(t, want, artifact.Holder(name))
	}
}
