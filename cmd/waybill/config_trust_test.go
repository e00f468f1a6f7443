package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTrustRootConfig: a trust root that cannot be used is told at the start, with where it stands.
func TestTrustRootConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	chain, key, whole := write("ca.pem", testChain), write("rekor.pem", testKey), write("trusted_root.json", `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`)
	large := write("large.pem", string(make([]byte, maxTrustFile+1)))
	for source, why := range map[string]string{
		"trustRoots: [{name: corporate, certificateAuthorities: [" + chain + "], transparencyLogs: [" + key + "]}]":       "",
		"trustRoots:\n- {certificateAuthorities: [" + chain + "]}":                                                        ":2:3: a trust root wants a name",
		"trustRoots: [{name: a, certificateAuthorities: [" + chain + "]}]":                                                "neither a transparency log nor a timestamp authority",
		"trustRoots: [{name: a, file: " + whole + "}]":                                                                    "it has no certificate authority",
		"trustRoots: [{name: a, file: " + whole + ", transparencyLogs: [" + key + "]}]":                                   "give nothing beside it",
		"trustRoots: [{name: a, certificateAuthorities: [" + key + "]}]":                                                  "certificate authority 1: it is no chain",
		"trustRoots: [{name: a, certificateAuthorities: [" + large + "]}]":                                                "at most 1048576 are read",
		"trustRoots: [{name: a, file: " + filepath.Join(dir, "gone") + "}]":                                               "no such file",
		"trustRoots: [{name: a, roots: [x]}]":                                                                             `unknown field "roots"`,
		"trustRoots:\n- {name: a, certificateAuthorities: [" + chain + "], transparencyLogs: [" + key + "]}\n- {name: a}": ":3:10: another trust root is called a too",
	} {
		_, err := loadConfig(write("waybill.yaml", source), nil)
		if why == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, why, source)
			require.ErrorIs(t, err, errUsage)
		}
	}
}

// A certificate authority that signed itself, and a public key.
const (
	testChain = `-----BEGIN CERTIFICATE-----
MIIBnDCCAUOgAwIBAgIUe2JywLQmng1mzzFVgX6K+12ZCfAwCgYIKoZIzj0EAwIw
IzEQMA4GA1UECgwHZXhhbXBsZTEPMA0GA1UEAwwGZnVsY2lvMCAXDTI2MTEyMTEz
MzIyN1oYDzIxMjYxMDI4MTMzMjI3WjAjMRAwDgYDVQQKDAdleGFtcGxlMQ8wDQYD
VQQDDAZmdWxjaW8wWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARGzwg1ulBeeHfq
SgW1crYMU7Hsn56NsGlTI21fpVEJo2xnRWPR5Y+NyrHsY68rbN5rhL+ahyQUIh3A
fgBd+j17o1MwUTAdBgNVHQ4EFgQU5sEkMWzlo1MXFtbyxiu3jSIXDTswHwYDVR0j
BBgwFoAU5sEkMWzlo1MXFtbyxiu3jSIXDTswDwYDVR0TAQH/BAUwAwEB/zAKBggq
hkjOPQQDAgNHADBEAiA/O1uILp8KAsr5d8xVNAslP/SJLxJrD1I64pzAoNz6hQIg
fyGadHZJ2SoNYpRJQlI3Ei852T8Oc3Fn9n8WAOmLaZ0=
-----END CERTIFICATE-----
`
	testKey = `-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEzq9bhdzoV5o56CX1l7/jlkzOecd2
M4yUcm8aXAF7L0Dq0E6S9m1KawLVAf2hPWsXqGMDHtvnFVaXdndgp0qrHQ==
-----END PUBLIC KEY-----
`
)
