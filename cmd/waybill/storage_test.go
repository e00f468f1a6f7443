package main

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/registry"
	"waybill/server"
	"waybill/storage"
)

func TestGC(t *testing.T) {
	got := fakeServer(t, map[string]any{"POST /gc": registry.Collected{DryRun: true, Links: registry.Tally{Count: 2, Bytes: 3 << 20}, Blobs: registry.Tally{Count: 1, Bytes: 2 << 20},
		Uploads: registry.Tally{Count: 1, Bytes: 512}, Freed: 2<<20 + 512,
		Items: []registry.Item{{Kind: "link", Name: testDigest.String(), Repository: repository(t, "shop/returns"), Bytes: 1 << 20}}}})
	out, errs, code := run(t, "", "gc", "--dry-run")
	require.Zero(t, code, errs)
	require.JSONEq(t, `{"dryRun":true}`, (*got)[0].body)
	for _, want := range []string{"would remove 1 blob (2.0 MiB), 1 upload (512 B), 0 leftover files (0 B)\n", "would remove 2 blobs from repositories", "would free 2.0 MiB\n",
		testDigest.String(), "shop/returns", "1.0 MiB", "and 3 more\n"} {
		require.Contains(t, out, want)
	}
	out, _, code = run(t, "", "gc", "--output", "json")
	require.Zero(t, code)
	require.JSONEq(t, `{}`, (*got)[1].body)
	var c registry.Collected
	require.NoError(t, json.Unmarshal([]byte(out), &c))
	require.EqualValues(t, 2<<20+512, c.Freed)
}

func TestFsck(t *testing.T) {
	finding := registry.Finding{Damage: registry.DamageBytes, Digest: testDigest, Size: 2048, Detail: "its bytes are \x1b[31mothers", Repositories: []artifact.Repository{repository(t, "shop/returns")}, Quarantined: true}
	lines := func(events ...server.CheckEvent) string {
		var text string
		for _, e := range events {
			b, err := json.Marshal(e)
			require.NoError(t, err)
			text += string(b) + "\n"
		}
		return text
	}
	progress := server.CheckEvent{Progress: &registry.CheckProgress{Blobs: 1, OfBlobs: 2}}
	good := lines(progress, server.CheckEvent{Result: &registry.Checked{OK: true, Blobs: 2, Bytes: 4096}})
	bad := lines(progress, server.CheckEvent{Found: &finding}, server.CheckEvent{Result: &registry.Checked{Blobs: 2, Bytes: 4096, Findings: 1}})
	for _, c := range []struct {
		name, answer string
		args         []string
		code         int
		out, err     string
	}{
		{"good", good, nil, 0, "read 2 blobs, 4.0 KiB\n", ""},
		{"bad", bad, []string{"--quarantine"}, 1, "bytes        " + testDigest.String() + "  2.0 KiB: its bytes are �[31mothers; in shop/returns; in quarantine until it is pushed again\n", "something is wrong with 1 blob"},
		{"bad, as JSON", bad, []string{"-o", "json"}, 1, `"damage": "bytes"`, "something is wrong with 1 blob"},
		{"broken off", lines(progress), nil, 1, "", "broke off"},
		{"failed", lines(progress, server.CheckEvent{Problem: &server.Problem{Status: 503, Detail: "the database does not answer"}}), nil, 1, "", "the database does not answer"},
		{"nonsense", "nonsense\n", nil, 1, "", "not that of a check"},
	} {
		got := fakeServer(t, map[string]any{"POST /fsck": c.answer})
		out, errs, code := run(t, "", append([]string{"fsck"}, c.args...)...)
		require.Equal(t, c.code, code, "%s: %s", c.name, errs)
		require.Contains(t, out, c.out, c.name)
		require.Contains(t, errs, c.err, c.name)
		require.Equal(t, len(c.args) == 1 && c.args[0] == "--quarantine", (*got)[0].body == `{"quarantine":true}`)
	}
}

func TestStorage(t *testing.T) {
	own := int64(1 << 20)
	got := fakeServer(t, map[string]any{
		"GET /storage": server.StorageUsage{Of: 3, Total: &server.StorageTotal{Blobs: 9, Bytes: 7 << 20, Shared: 2 << 20, Quota: 1 << 30},
			Repositories: []server.RepositoryUsed{{Repository: repository(t, "shop/returns"), Blobs: 4, Bytes: 3 << 20, Own: &own, Quota: 6 << 20, Document: "sh\x1bop"}, {Repository: repository(t, "bank/money"), Blobs: 5, Bytes: 4 << 20}}},
		"GET /storage/runs":       server.StorageRuns{Runs: []storage.Run{{Kind: "fsck", Actor: "ad\x1ba", Outcome: storage.Outcome{Blobs: 2, Bytes: 2048, Findings: 1}, Problem: "cut short"}}},
		"GET /advisories/history": server.AdvisoryHistory{Databases: []artifact.AdvisoryDatabase{{Digest: testDigest, Schema: 2, ImportedBy: "system"}}},
	})
	out, errs, code := run(t, "", "storage", "shop", "--sort", "own")
	require.Zero(t, code, errs)
	for _, want := range []string{"1.0 MiB", "2.0 MiB", "50 %", "6.0 MiB (sh�op)", "and 1 more", "7.0 MiB in 9 blobs of 1.0 GiB"} {
		require.Contains(t, out, want)
	}
	out, errs, code = run(t, "", "storage", "runs", "fsck")
	require.Zero(t, code, errs)
	require.Contains(t, out, "read 2 blobs, 2.0 KiB; something is wrong with 1; cut short")
	require.NotContains(t, out, "\x1b")
	out, errs, code = run(t, "", "storage", "runs", "-o", "json")
	require.Zero(t, code, errs)
	var runs server.StorageRuns
	require.NoError(t, json.Unmarshal([]byte(out), &runs))
	require.Len(t, runs.Runs, 3, "of each kind")
	out, errs, code = run(t, "", "db", "history")
	require.Zero(t, code, errs)
	require.Contains(t, out, "system")
	require.Len(t, *got, 6)
}
