package artifact_test

import (
	"encoding/csv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// TestCSV: whatever is in a cell comes back as text that is no formula, in its own cell.
func TestCSV(t *testing.T) {
	t.Parallel()
	for cell, want := range map[string]string{
		"":                            "",
		"release 47":                  "release 47",
		"token:ci/k3v9":               "token:ci/k3v9",
		`=HYPERLINK("http://x";"y")`:  `'=HYPERLINK("http://x";"y")`,
		"+1":                          "'+1",
		"-2+3":                        "'-2+3",
		"@SUM(1)":                     "'@SUM(1)",
		" =1+1":                       "' =1+1",
		"\t=1+1":                      "'\t=1+1",
		"\n=1+1":                      "'\n=1+1",
		"\u00a0=1":                    "'\u00a0=1",
		"＝1":                          "'＝1",
		"a\r=1":                       "a\uFFFD=1",
		"a\x1b[31m\u202eb":            "a\uFFFD[31m\uFFFDb",
		"one, \"two\"\nthree":         "one, \"two\"\nthree",
		"not = a formula, nor - here": "not = a formula, nor - here",
	} {
		line := artifact.CSVLine("before", cell, "behind")
		rows, err := csv.NewReader(strings.NewReader(line)).ReadAll()
		require.NoError(t, err, "%q", line)
		require.Equal(t, [][]string{{"before", want, "behind"}}, rows)
	}
	repository, _ := artifact.ParseRepository("shop/returns")
	noon := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	require.Equal(t, "7,2026-11-21T12:00:00Z,promotion,token:ada/1,shop/returns,,,v456,,'=cmd|'/c calc'!A0,a; b\r\n",
		artifact.LedgerLine{Index: 7, At: noon, Kind: "promotion", Actor: "token:ada/1", Repository: repository, Version: "v456", Reason: "=cmd|'/c calc'!A0", Reasons: []string{"a", "b"}}.CSV())
	require.Equal(t, "2026-11-21,shop/returns,,'@x,3,2026-11-21T12:00:00Z,2026-11-21T12:00:00Z,attached\r\n", artifact.PullDay{Day: noon, Repository: repository, Principal: "@x", Pulls: 3, First: noon, Last: noon, Type: artifact.PulledAttached}.CSV())
}

// FuzzCSV: no cell begins a formula, and none leaves its place.
func FuzzCSV(f *testing.F) {
	f.Add("=1", "a,b")
	f.Add("\" ,=x\n", "\r\n")
	f.Fuzz(func(t *testing.T, one, two string) {
		one, two = strings.ToValidUTF8(one, "?"), strings.ToValidUTF8(two, "?")
		rows, err := csv.NewReader(strings.NewReader(artifact.CSVLine("x", one, two))).ReadAll()
		require.NoError(t, err)
		require.Len(t, rows, 1)
		require.Equal(t, []string{"x", artifact.InertCell(one), artifact.InertCell(two)}, rows[0])
		for _, cell := range rows[0] {
			require.False(t, strings.HasPrefix(strings.TrimSpace(cell), "=") || strings.HasPrefix(cell, "\t"), "%q", cell)
		}
	})
}
