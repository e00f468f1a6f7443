package web

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEntryAbout: a row of the ledger names what its entry is about, in words of their own.
func TestEntryAbout(t *testing.T) {
	t.Parallel()
	for want, e := range map[string]entryView{
		"no-root-user (waiver 7)": {Kind: "waiver.created", Subject: "7", Version: "no-root-user"},
		"baseline@2":              {Kind: "policy.applied", Subject: "baseline", Version: "2"},
		"5abde160e7f2":            {Kind: "token.created", Subject: "5abde160e7f2"},
		"v456":                    {Kind: "promotion", Repository: "shop/returns", Version: "v456", Subject: "key"},
		"":                        {Kind: "database.imported"},
	} {
		require.Equal(t, want, e.About())
	}
}
