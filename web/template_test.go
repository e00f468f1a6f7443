package web

import (
	"testing"
	"time"

	"github.com/jba/templatecheck"
	"github.com/stretchr/testify/require"
)

// TestTemplates: each page's template names only what its struct has.
func TestTemplates(t *testing.T) {
	t.Parallel()
	w, err := New(Config{SessionKey: make([]byte, 32), Now: time.Now})
	require.NoError(t, err)
	for name, page := range map[string]any{"board": &boardPage{}, "digest": &digestPage{}, "repository": repositoryPage{}, "repositories": repositoriesPage{}, "compare": &comparePage{},
		"promote": &promotePage{}, "rollback": &rollbackPage{}, "recall": &recallPage{}, "approvals": &approvalsPage{}, "pipelines": pipelinesPage{}, "policies": policiesPage{}, "policy": &policyPage{}, "draft": &draftPage{}, "builds": buildsPage{}, "build": &buildPage{}, "audit": auditPage{}, "cve": cvePage{}, "ledger": ledgerPage{},
		"tokens": &tokensPage{}, "storage": &storagePage{}, "advisories": &advisoriesPage{}, "reference": referencePage{}, "operations": operationsPage{},
		"login": loginPage{}, "signedin": nil, "failure": failurePage{}} {
		if page != nil {
			require.NoError(t, templatecheck.CheckHTML(w.pages[name].Lookup("page"), page), name)
		}
	}
	require.NoError(t, templatecheck.CheckHTML(w.pages["signedin"].Lookup("layout.html"), frame{}))
	for _, name := range pageNames {
		require.Contains(t, w.pages, name)
	}
}
