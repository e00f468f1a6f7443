package signer_test

import (
	"context"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	gcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/policy"
	"waybill/signer"
)

func (s *store) LockAttestations(context.Context, artifact.Repository, artifact.Digest) (func(), error) {
	return func() {}, nil
}

func (s *store) IntendAttestation(_ context.Context, r signer.Record) (bool, error) {
	if err := s.failing("intend"); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before, ok := s.made[r.Predicate+" "+r.Name]
	return ok && before.Basis == r.Basis, nil
}

// PutAttestations trusts that nobody else writes there, which the registry's tests look at.
func (s *store) PutAttestations(_ context.Context, _ artifact.Repository, tag artifact.Tag, image gcr.Image, _ []artifact.Digest) error {
	if err := s.failing("attest-before"); err != nil {
		return err
	}
	require.NoError(s.t, remote.Write(s.repo.Tag(tag.String()), image))
	return s.failing("attest-after")
}

func (s *store) RemoveSuperseded(context.Context, artifact.Repository, artifact.Digest, artifact.Tag, []signer.Attested) error {
	return s.failing("remove")
}

func (s *store) Attested(_ context.Context, made []signer.Attested) error {
	if err := s.failing("attested"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range made {
		s.made[m.Predicate+" "+m.Name] = m
	}
	return nil
}

// statement is one whose predicate says value.
func statement(predicateType, environment, value string) signer.Statement {
	one := signer.Statement{PredicateType: predicateType, Basis: value}
	if environment != "" {
		one.Name, one.Field = environment, "environment"
	}
	one.Predicate = func() (json.RawMessage, error) {
		return json.Marshal(map[string]string{"environment": environment, "value": value})
	}
	return one
}

// verified returns what cosign's own code finds signed by a key: type, environment and value.
func verified(t *testing.T, key *signer.Signer, ref name.Digest) (all []string) {
	t.Helper()
	opts := checks(t, key)
	opts.ClaimVerifier = cosign.IntotoSubjectClaimVerifier
	found, _, err := cosign.VerifyImageAttestations(t.Context(), ref, opts)
	require.NoError(t, err)
	for _, f := range found {
		raw, err := f.Payload()
		require.NoError(t, err)
		var envelope struct {
			Payload []byte `json:"payload"`
		}
		require.NoError(t, json.Unmarshal(raw, &envelope))
		var said struct {
			PredicateType string            `json:"predicateType"`
			Predicate     map[string]string `json:"predicate"`
		}
		require.NoError(t, json.Unmarshal(envelope.Payload, &said))
		all = append(all, strings.TrimSpace(said.PredicateType+" "+said.Predicate["environment"]+" "+said.Predicate["value"]))
	}
	slices.Sort(all)
	return all
}

const (
	scan    = "https://cosign.sigstore.dev/attestation/vuln/v1"
	sbom    = "https://cyclonedx.org/bom"
	summary = "https://slsa.dev/verification_summary/v1"
)

// TestAttest: whatever fails, stored or not, the next run ends with each statement once, and what another one replaces is gone.
func TestAttest(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"", "intend", "put-before", "put-after", "attest-before", "attest-after", "remove", "attested"} {
		t.Run("killed at "+step, func(t *testing.T) {
			t.Parallel()
			key, store, pass, ref := world(t)
			service := signer.NewService(key, store)
			attest := func(want []string, all ...signer.Statement) {
				t.Helper()
				if step != "" {
					store.fail[step] = true
					require.ErrorContains(t, service.Attest(t.Context(), pass, all...), "killed at "+step)
				}
				require.NoError(t, service.Attest(t.Context(), pass, all...))
				require.NoError(t, service.Attest(t.Context(), pass, all...))
				require.Equal(t, want, verified(t, key, ref))
			}
			attest([]string{scan + "  old", sbom + "  a"}, statement(sbom, "", "a"), statement(scan, "", "old"))
			attest([]string{scan + "  new", sbom + "  a"}, statement(scan, "", "new"))
			attest([]string{scan + "  new", sbom + "  a", summary + " dev 1", summary + " production 2"}, statement(summary, "dev", "1"), statement(summary, "production", "2"))
			attest([]string{scan + "  new", sbom + "  a", summary + " dev 3", summary + " production 2"}, statement(summary, "dev", "3"))

			index, err := remote.Referrers(ref)
			require.NoError(t, err)
			manifest, err := index.IndexManifest()
			require.NoError(t, err)
			for _, made := range store.made {
				require.True(t, slices.ContainsFunc(manifest.Manifests, func(d gcr.Descriptor) bool { return d.Digest.String() == made.Referrer.String() }), made.Predicate)
			}
		})
	}
}

// TestAttestKeepsOthers: what others attested stays, of the same type too; and of a statement that cannot be made,
// nothing is signed.
func TestAttestKeepsOthers(t *testing.T) {
	t.Parallel()
	key, store, pass, ref := world(t)
	other, err := signer.Open(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, signer.NewService(other, store).Attest(t.Context(), pass, statement(scan, "", "theirs")))
	clear(store.made)
	service := signer.NewService(key, store)
	for _, value := range []string{"1", "2"} {
		require.NoError(t, service.Attest(t.Context(), pass, statement(scan, "", value)))
		require.Equal(t, []string{scan + "  " + value}, verified(t, key, ref))
		require.Equal(t, []string{scan + "  theirs"}, verified(t, other, ref))
	}
	for want, predicate := range map[string]string{"no JSON object": `["a"]`, "unexpected end": `{"a"`, "at most": `{"a":"` + strings.Repeat("a", signer.MaxPredicate) + `"}`} {
		require.ErrorContains(t, service.Attest(t.Context(), pass, signer.Statement{PredicateType: sbom, Predicate: func() (json.RawMessage, error) { return json.RawMessage(predicate), nil }}), want)
	}
	require.Error(t, service.Attest(t.Context(), policy.Pass{}, statement(sbom, "", "a")), "no pass, no attestation")
	require.Equal(t, []string{scan + "  2"}, verified(t, key, ref))
}

// TestOnlyAPassReachesTheKey reads this package: whatever signs takes a pass, and asks whether it is one before it does.
func TestOnlyAPassReachesTheKey(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("*.go")
	require.NoError(t, err)
	signing := 0
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		require.NoError(t, err)
		for _, declared := range file.Decls {
			f, ok := declared.(*ast.FuncDecl)
			if !ok {
				continue
			}
			var asked token.Pos
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				selected, ok := call.Fun.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				switch selected.Sel.Name {
				case "Valid", "Signs":
					if asked == token.NoPos {
						asked = call.Pos()
					}
				case "SignMessage", "SignPayload", "Sign":
					if x, ok := selected.X.(*ast.Ident); ok && x.Name == "signer" {
						return true // Service asks Signer, which is looked at itself
					}
					if f.Name.Name == "SignMessage" || signsAConstant(call) {
						return true // a key itself; and a new key's proof that it can sign, which is a statement about nothing
					}
					signing++
					require.True(t, takesPass(f), "%s: %s signs, and takes no policy.Pass", path, f.Name.Name)
					require.True(t, asked != token.NoPos && asked < call.Pos(), "%s: %s signs before it asks whether the pass is valid", path, f.Name.Name)
				}
				return true
			})
		}
	}
	require.GreaterOrEqual(t, signing, 2, "the signature and the attestation")
}

func takesPass(f *ast.FuncDecl) bool {
	return slices.ContainsFunc(f.Type.Params.List, func(p *ast.Field) bool {
		selected, ok := p.Type.(*ast.SelectorExpr)
		return ok && selected.Sel.Name == "Pass"
	})
}

// TestPredicates: what is said, byte by byte the same for the same.
func TestPredicates(t *testing.T) {
	t.Parallel()
	repository, err := artifact.ParseRepository("shop/returns")
	require.NoError(t, err)
	environment, err := artifact.ParseEnvironment("production")
	require.NoError(t, err)
	index, image := artifact.DigestOf([]byte("index")), artifact.DigestOf([]byte("image"))
	at := time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)
	p := signer.Product{Version: "v1", Host: "registry.example.com"}

	raw, err := p.Vulnerabilities(repository, image, []signer.Scanned{{Platform: "linux/amd64", Scan: artifact.Scan{Digest: image, State: artifact.Scanned, ScannedAt: at, DatabaseDigest: index, DatabaseUpdatedAt: at.Add(-time.Hour),
		Findings: []artifact.Finding{
			{Class: artifact.ClassVulnerability, ID: "CVE-2024-24790", Severity: artifact.Critical, Package: "stdlib", Installed: "1.22.3", Fixed: "1.22.4", PURL: "pkg:golang/stdlib@1.22.3"},
			{Class: artifact.ClassSecret, ID: "aws-access-key-id", Severity: artifact.Critical, Path: "/etc/key"},
		}}}})
	require.NoError(t, err)
	require.JSONEq(t, `{"invocation":{"parameters":[],"uri":"","event_id":"","builder.id":""},
		"scanner":{"uri":"https://waybill.dev/scanner/trivy","version":"v1","db":{"uri":"https://github.com/aquasecurity/trivy-db","version":"`+index.String()+`","lastUpdate":"2026-10-01T11:00:00Z"},
		"result":{"SchemaVersion":2,"ArtifactName":"shop/returns@`+image.String()+`","ArtifactType":"container_image","Counts":{"critical":1},"Results":[{"Target":"shop/returns@`+image.String()+`","Platform":"linux/amd64",
		"Vulnerabilities":[{"VulnerabilityID":"CVE-2024-24790","PkgName":"stdlib","PkgIdentifier":{"PURL":"pkg:golang/stdlib@1.22.3"},"InstalledVersion":"1.22.3","FixedVersion":"1.22.4","Severity":"CRITICAL"}]}]}},
		"metadata":{"scanStartedOn":"2026-10-01T12:00:00Z","scanFinishedOn":"2026-10-01T12:00:00Z"}}`, string(raw))

	purl := "pkg:oci/returns@sha256%3A" + image.Hex() + "?repository_url=registry.example.com%2Fshop%2Freturns"
	raw, err = p.Verification(signer.Verified{Policies: []string{"baseline@1"}, Built: true, Inputs: []signer.Input{{Manifest: image}},
		Promotion: artifact.Promotion{ID: 7, Action: "promote", Repository: repository, Environment: environment, Digest: image, Version: "v456", Actor: "user:ada", PolicyHash: index, LedgerIndex: 40, At: at}})
	require.NoError(t, err)
	require.JSONEq(t, `{"verifier":{"id":"https://waybill.dev/verifier","version":{"waybill":"v1"}},"timeVerified":"2026-10-01T12:00:00Z","resourceUri":"`+purl+`",
		"policy":{"uri":"urn:waybill:policies:baseline@1","digest":{"sha256":"`+index.Hex()+`"}},"inputAttestations":[{"name":"signature","uri":"`+purl+`","digest":{"sha256":"`+image.Hex()+`"}}],
		"verificationResult":"PASSED","verifiedLevels":["SLSA_BUILD_LEVEL_2"],"slsaVersion":"1.1","environment":"production",
		"promotion":{"id":7,"action":"promote","version":"v456","actor":"user:ada","ledgerIndex":40}}`, string(raw))

	members := []signer.Member{{Digest: image, Platform: "linux/amd64"}}
	for _, document := range []func() (json.RawMessage, error){
		func() (json.RawMessage, error) { return p.IndexCycloneDX(repository, index, members) },
		func() (json.RawMessage, error) { return p.IndexSPDX(repository, index, members, at) },
	} {
		raw, err := document()
		require.NoError(t, err)
		again, err := document()
		require.NoError(t, err)
		require.Equal(t, raw, again)
		require.Contains(t, string(raw), image.Hex())
		require.Contains(t, string(raw), "linux/amd64")
	}
}

// signsAConstant reports whether what is signed is a string that stands in the program.
func signsAConstant(call *ast.CallExpr) bool {
	if len(call.Args) != 1 {
		return false
	}
	reader, ok := call.Args[0].(*ast.CallExpr)
	if !ok || len(reader.Args) != 1 {
		return false
	}
	_, ok = reader.Args[0].(*ast.BasicLit)
	return ok
}
