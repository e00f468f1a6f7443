package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

func TestConfig(t *testing.T) {
	t.Parallel()
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "waybill.yaml")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	t.Run("nothing", func(t *testing.T) {
		cfg, err := loadConfig("", []string{"WAYBILL_TOKEN=x", "HOME=/"})
		require.NoError(t, err)
		require.Equal(t, "127.0.0.1:8080", cfg.Listen)
		require.Equal(t, []string{"latest", "*-dev", "dev-*"}, cfg.Registry.MutableTags)
	})
	t.Run("a variable beats the file", func(t *testing.T) {
		cfg, err := loadConfig(file("listen: 0.0.0.0:80\nscanner: {processes: 4, timeout: 90s}\n"),
			[]string{"WAYBILL_LISTEN=:5000", "WAYBILL_REGISTRY_MUTABLETAGS=latest, edge", "WAYBILL_SCANNER_MEMORY=512", "WAYBILL_REGISTRY_QUOTA=500Gi"})
		require.NoError(t, err)
		require.Equal(t, ":5000", cfg.Listen)
		require.Equal(t, []string{"latest", "edge"}, cfg.Registry.MutableTags)
		require.EqualValues(t, 500<<30, cfg.Registry.Quota)
		require.Equal(t, ScannerConfig{Processes: 4, Memory: 512, Timeout: 90 * time.Second}, cfg.Scanner)
	})
	t.Run("layers", func(t *testing.T) {
		cfg, err := loadConfig(file("layers: {uncompressed: 2Gi, entries: 5000}\n"), []string{"WAYBILL_LAYERS_NAMES=1Mi", "WAYBILL_LAYERS_DEPTH=9"})
		require.NoError(t, err)
		require.Equal(t, artifact.LayerLimits{Uncompressed: 2 << 30, Entries: 5000, Names: 1 << 20, Depth: 9}, cfg.Layers.limits())
	})
	t.Run("mirrors", func(t *testing.T) {
		secret := file("s3cret\n")
		cfg, err := loadConfig(file("mirrors:\n  - {name: docker.io, url: https://registry-1.docker.io, username: u, passwordFile: "+secret+"}\n  - name: quay.io\n    url: https://quay.io\n    ttl: 1h\n"), nil)
		require.NoError(t, err)
		require.Equal(t, 5*time.Minute, cfg.Mirrors[0].TTL)
		require.Equal(t, time.Hour, cfg.Mirrors[1].TTL)
		password, err := cfg.sources()[0].Password()
		require.NoError(t, err)
		require.Equal(t, "s3cret", password)
		require.Nil(t, cfg.sources()[1].Password)
	})
	t.Run("replication", func(t *testing.T) {
		cfg, err := loadConfig(file("replication:\n  - {name: edge, url: https://edge.example, repositories: [shop/**], environments: [production], username: u, passwordVariable: PATH, prefix: from/here}\n"), nil)
		require.NoError(t, err)
		target := cfg.targets()[0]
		require.Equal(t, "from/here", target.Prefix)
		require.Equal(t, "production", target.Environments[0].String())
		password, err := target.Password()
		require.NoError(t, err)
		require.Equal(t, os.Getenv("PATH"), password)
	})
	const edge = "replication:\n  - name: edge\n    url: https://edge.example\n"
	for name, c := range map[string]struct {
		file    string
		environ []string
		want    string
	}{
		"unknown key":               {"data: d\nregistry:\n  mutabletags: [x]\n", nil, `waybill.yaml:3:3: unknown field "mutabletags"`},
		"unknown top key":           {"lisen: x\n", nil, `waybill.yaml:1:1: unknown field "lisen"`},
		"duplicate key":             {"data: d\ndata: e\n", nil, `waybill.yaml:2:1: mapping key "data" already defined at [1:1]`},
		"wrong type":                {"scanner: {processes: many}\n", nil, "waybill.yaml:1:22:"},
		"git of any scheme":         {"builder: {git: ['**']}\n", nil, `builder.git: "**" names no scheme`},
		"unknown mirror key":        {"mirrors:\n  - name: a\n    url: https://a\n    tll: 5m\n", nil, `waybill.yaml:4:5: unknown field "tll"`},
		"mirror's password":         {"mirrors:\n  - name: a\n    url: https://a\n    password: x\n", nil, `waybill.yaml:4:5: unknown field "password"`},
		"mirror's name":             {"mirrors:\n  - name: A/b\n    url: https://a\n", nil, `waybill.yaml:2:11: name is "A/b"; want`},
		"mirror's address":          {"mirrors:\n  - name: a\n    url: a.example\n", nil, `waybill.yaml:3:10: url: want https://HOST`},
		"mirror in clear":           {"mirrors:\n  - {name: a, url: 'http://a'}\n", nil, `waybill.yaml:2:20: url: http:// sends`},
		"mirror twice":              {"mirrors:\n  - {name: a, url: 'https://a'}\n  - {name: a, url: 'https://b'}\n", nil, `waybill.yaml:3:12: another mirror`},
		"mirror unnamed":            {"mirrors:\n  - {url: 'https://a'}\n", nil, `waybill.yaml:2:5: name is ""`},
		"no password":               {"mirrors:\n  - {name: a, url: 'https://a', username: u}\n", nil, `waybill.yaml:2:43: username needs`},
		"no username":               {"mirrors:\n  - {name: a, url: 'https://a', passwordFile: x}\n", nil, `waybill.yaml:2:47: a password is given`},
		"no password file":          {"mirrors:\n  - {name: a, url: 'https://a', username: u, passwordFile: /nowhere}\n", nil, `waybill.yaml:2:60: password: open /nowhere`},
		"replication of nothing":    {edge, nil, "waybill.yaml:2:11: want repositories"},
		"replication's pattern":     {edge + "    repositories: ['a//b']\n    environments: [dev]\n", nil, `waybill.yaml:4:20: "a//b" is no pattern`},
		"replication's environment": {edge + "    repositories: ['**']\n    environments: [dev, Prod]\n", nil, `waybill.yaml:5:25: environment name "Prod"`},
		"replication's prefix":      {edge + "    repositories: ['**']\n    environments: [dev]\n    prefix: /x\n", nil, `waybill.yaml:6:13: repository name "/x"`},
		"replication's variable":    {edge + "    username: u\n    passwordVariable: NOT_SET_ANYWHERE\n", nil, `waybill.yaml:5:23: variable NOT_SET_ANYWHERE`},
		"unknown replication key":   {edge + "    environment: [dev]\n", nil, `waybill.yaml:4:5: unknown field "environment"`},
		"issuer in clear":           {"identity:\n  issuers:\n    - {issuer: 'http://a.example', audience: w, rules: [{claims: {sub: x}, role: reader}]}\n", nil, `waybill.yaml:3:16: issuer "http://a.example": want https://`},
		"issuer without audience":   {"identity:\n  issuers:\n    - {issuer: 'https://a.example', rules: [{claims: {sub: x}, role: reader}]}\n", nil, `waybill.yaml:3:7: want an audience`},
		"issuer without rules":      {"identity:\n  issuers:\n    - {issuer: 'https://a.example', audience: w}\n", nil, `waybill.yaml:3:16: want rules`},
		"issuer twice":              {"identity:\n  issuers:\n    - &a {issuer: 'https://a.example', audience: w, rules: [{claims: {sub: x}, role: reader}]}\n    - *a\n", nil, `issuer https://a.example is there already`},
		"rule for everybody":        {"identity:\n  issuers:\n    - {issuer: 'https://a.example', audience: w, rules: [{role: reader}]}\n", nil, `waybill.yaml:3:58: want claims`},
		"rule for all of GitHub":    {"identity:\n  issuers:\n    - issuer: https://token.actions.githubusercontent.com\n      audience: w\n      rules:\n        - {claims: {ref: refs/heads/main, repository: '*/*'}, role: pusher}\n", nil, `waybill.yaml:6:20: anybody can get a token of https://token.actions`},
		"rule for any owner":        {"identity:\n  issuers:\n    - issuer: https://token.actions.githubusercontent.com\n      audience: w\n      rules:\n        - {claims: {sub: 'repo:*/shop:ref:refs/heads/main'}, role: pusher}\n", nil, `waybill.yaml:6:20: anybody can get a token of https://token.actions`},
		"rule's role":               {"identity:\n  issuers:\n    - issuer: https://a.example\n      audience: w\n      rules:\n        - claims: {sub: x}\n          role: god\n", nil, `waybill.yaml:7:17: role "god" is not known`},
		"rule of no environment":    {"identity:\n  issuers:\n    - issuer: https://a.example\n      audience: w\n      rules:\n        - claims: {sub: x}\n          role: deployer\n", nil, `waybill.yaml:7:17: a deployer is one of an environment`},
		"rule's pattern":            {"identity:\n  issuers:\n    - issuer: https://a.example\n      audience: w\n      rules:\n        - claims: {sub: 'a//*'}\n          role: reader\n", nil, `waybill.yaml:6:19: claim sub: "a//*" is no pattern`},
		"unknown rule key":          {"identity:\n  issuers:\n    - issuer: https://a.example\n      audience: w\n      rules:\n        - claim: {sub: x}\n          role: reader\n", nil, `waybill.yaml:6:11: unknown field "claim"`},
		"no keys":                   {"identity:\n  issuers:\n    - {issuer: 'https://a.example', audience: w, jwksFile: /nowhere, rules: [{claims: {sub: x}, role: reader}]}\n", nil, `waybill.yaml:3:60: open /nowhere`},
		"people without client":     {"identity:\n  people:\n    issuer: https://a.example\n    rules: [{claims: {sub: x}, role: reader}]\n", nil, `waybill.yaml:3:11: want the id`},
		"people without openid":     {"identity:\n  people:\n    issuer: https://a.example\n    clientID: w\n    scopes: [email]\n    rules: [{claims: {sub: x}, role: reader}]\n", nil, `waybill.yaml:5:13: want openid`},
		"no proxy":                  {"identity: {trustedProxies: [proxy]}\n", nil, `waybill.yaml:1:29: "proxy" is no address`},
		"public pattern":            {"public: {repositories: ['a//b']}\n", nil, `waybill.yaml:1:25: "a//b" is no pattern`},
		"a key that is a program":   {"signer: {key: 'sh://x'}\n", nil, `waybill.yaml:1:15: signer.key: key "sh://x": want awskms://`},
		"no key of Vault's":         {"signer:\n  key: hashivault://a/b\n", nil, `waybill.yaml:2:8: signer.key: key "hashivault://a/b": want hashivault://KEY`},
		"two passwords":             {"signer: {key: a.key, passwordFile: a, passwordVariable: b}\n", nil, `waybill.yaml:1:57: signer: passwordFile and passwordVariable`},
		"a KMS with a password":     {"signer: {key: 'hashivault://a', passwordFile: a}\n", nil, `waybill.yaml:1:47: signer: a password is given`},
		"a password of nothing":     {"", []string{"WAYBILL_SIGNER_PASSWORDVARIABLE=X"}, `signer: a password is given`},
		"unknown signer key":        {"signer: {token: x}\n", nil, `waybill.yaml:1:10: unknown field "token"`},
		"mirrors variable":          {"", []string{"WAYBILL_MIRRORS=x"}, "WAYBILL_MIRRORS names no configuration key"},
		"unknown variable":          {"", []string{"WAYBILL_DATABASES_URL=x"}, "WAYBILL_DATABASES_URL names no configuration key; known are WAYBILL_ADVISORIES_INSECURE,"},
		"bad number":                {"", []string{"WAYBILL_SCANNER_PROCESSES=x"}, "WAYBILL_SCANNER_PROCESSES"},
		"bad level":                 {"log: {level: loud}\n", nil, `log.level is "loud"; want debug`},
		"negative bound":            {"layers: {entries: -1}\n", nil, "a bound below layers is negative"},
		"bad quota":                 {"data: d\nregistry:\n  quota: lots\n", nil, `waybill.yaml:3:10: size "lots": want a whole number above 0`},
		"bad quota there":           {"", []string{"WAYBILL_REGISTRY_QUOTA=500GB"}, `WAYBILL_REGISTRY_QUOTA: size "500GB"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := loadConfig(file(c.file), c.environ)
			require.ErrorContains(t, err, c.want)
			require.ErrorIs(t, err, errUsage)
		})
	}
	_, err := loadConfig(filepath.Join(t.TempDir(), "absent.yaml"), nil)
	require.ErrorContains(t, err, "does not exist")
}
