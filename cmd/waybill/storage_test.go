package main

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/registry"
	"waybill/server"
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
