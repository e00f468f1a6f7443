package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	gcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/blob"
	"waybill/postgres"
	"waybill/server"
	"waybill/signer"
)

// product is who says what is attested.
func (cfg *Config) product() signer.Product {
	p := signer.Product{Version: version}
	if u, err := url.Parse(cfg.ExternalURL); err == nil {
		p.Host = u.Host
	}
	return p
}

func attestationRow(r signer.Record) artifact.Attestation {
	return artifact.Attestation{Repository: r.Repository, Digest: r.Digest, Predicate: r.Predicate, Name: r.Name, KeyID: r.KeyID, PolicyHash: r.PolicyHash, Basis: r.Basis}
}

func attestationRows(made []signer.Attested) []artifact.Attestation {
	all := make([]artifact.Attestation, len(made))
	for i, m := range made {
		all[i] = attestationRow(m.Record)
		all[i].Manifest, all[i].Envelope = m.Referrer, m.Envelope
	}
	return all
}

// LockAttestations takes no connection where no other process signs: signer.Service has a lock of its own.
func (s signerStore) LockAttestations(ctx context.Context, r artifact.Repository, d artifact.Digest) (func(), error) {
	if !s.replicas {
		return func() {}, nil
	}
	return s.db.LockAttestations(ctx, r, d)
}

func (s signerStore) IntendAttestation(ctx context.Context, r signer.Record) (bool, error) {
	return s.db.IntendAttestation(ctx, attestationRow(r), r.Keep)
}

func (s signerStore) PutAttestations(ctx context.Context, r artifact.Repository, t artifact.Tag, image gcr.Image, drops []artifact.Digest) error {
	return s.registry.PutAttached(ctx, artifact.System, r, t, image, drops)
}

func (s signerStore) RemoveSuperseded(ctx context.Context, r artifact.Repository, d artifact.Digest, t artifact.Tag, made []signer.Attested) error {
	return s.db.RemoveSuperseded(ctx, r, d, t, attestationRows(made), signer.PredicateAnnotation, signer.NameAnnotation)
}

func (s signerStore) Attested(ctx context.Context, made []signer.Attested) error {
	return s.db.RecordAttestations(ctx, attestationRows(made))
}

// attestations finds what is attached to digests.
type attestations struct {
	db    *postgres.DB
	files *blob.File
	keys  *signer.Keys // of the service
}

// Where manifests and layers say what a statement is about, and the types of layers that are envelopes.
var (
	predicateAnnotations = []string{signer.PredicateAnnotation, "predicateType", "dev.sigstore.bundle.predicateType"}
	envelopeTypes        = []string{"application/vnd.dsse.envelope.v1+json", inTotoType, "application/vnd.dev.sigstore.bundle.v0.3+json"}
)

const maxEnvelope = 64 << 20 // bytes

func (a attestations) Attached(ctx context.Context, r artifact.Repository, d artifact.Digest) ([]artifact.Attached, error) {
	own, err := a.db.Attestations(ctx, r, d)
	if err != nil {
		return nil, err
	}
	referrers, err := a.db.Referrers(ctx, r, d)
	if err != nil {
		return nil, err
	}
	var manifests []artifact.Digest
	for _, d := range referrers {
		manifests = append(manifests, d.Digest)
	}
	if tag, err := artifact.ParseTag(d.Algorithm() + "-" + d.Hex() + ".att"); err == nil {
		switch at, err := a.db.ResolveTag(ctx, r, tag); {
		case err == nil:
			manifests = append(manifests, at)
		case artifact.KindOf(err) != artifact.NotFound:
			return nil, err
		}
	}
	var all []artifact.Attached
	for _, digest := range manifests {
		m, err := a.db.Manifest(ctx, r, digest)
		if artifact.KindOf(err) == artifact.NotFound {
			continue
		} else if err != nil {
			return nil, err
		}
		for _, layer := range m.Manifest.Layers {
			if slices.Contains(envelopeTypes, layer.MediaType) {
				all = addAttached(all, m, layer, own)
			}
		}
	}
	slices.SortStableFunc(all, func(x, y artifact.Attached) int {
		return strings.Compare(x.PredicateType+" "+x.Name, y.PredicateType+" "+y.Name)
	})
	return all, nil
}

// addAttached adds an envelope, or that another manifest holds it too.
func addAttached(all []artifact.Attached, m artifact.StoredManifest, layer artifact.Descriptor, own []artifact.Attestation) []artifact.Attached {
	if i := slices.IndexFunc(all, func(a artifact.Attached) bool { return a.Envelope == layer.Digest }); i >= 0 {
		all[i].Manifests = append(all[i].Manifests, m.Digest)
		return all
	}
	one := artifact.Attached{Envelope: layer.Digest, Size: layer.Size, Manifests: []artifact.Digest{m.Digest}}
	for _, name := range predicateAnnotations {
		for _, said := range []string{layer.Annotations[name], m.Manifest.Annotations[name]} {
			if one.PredicateType == "" {
				one.PredicateType = said
			}
		}
	}
	if i := slices.IndexFunc(own, func(a artifact.Attestation) bool { return a.Envelope == layer.Digest }); i >= 0 {
		one.PredicateType, one.Name, one.KeyID, one.SignedAt = own[i].Predicate, own[i].Name, own[i].KeyID, own[i].SignedAt
	}
	return append(all, one)
}

func (a attestations) Envelope(_ context.Context, _ artifact.Repository, envelope artifact.Digest) ([]byte, error) {
	file, size, err := a.files.Open(envelope)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if size > maxEnvelope {
		return nil, artifact.Errorf(artifact.TooLarge, "the attestation %s has %d bytes; at most %d are read", envelope, size, maxEnvelope)
	}
	return io.ReadAll(file)
}

func (a attestations) Provenance(ctx context.Context, r artifact.Repository, d artifact.Digest) (json.RawMessage, artifact.Attached, error) {
	all, err := a.Attached(ctx, r, d)
	if err != nil {
		return nil, artifact.Attached{}, err
	}
	i := slices.IndexFunc(all, func(one artifact.Attached) bool {
		return one.PredicateType == signer.ProvenancePredicate && one.KeyID != ""
	})
	if i < 0 {
		if _, built, err := a.db.Provenance(ctx, r, d); err != nil {
			return nil, artifact.Attached{}, err
		} else if built {
			return nil, artifact.Attached{}, artifact.Errorf(artifact.Conflict, "the provenance of %s@%s is not signed yet; it is within moments, where policy allows the image", r, d)
		}
		return nil, artifact.Attached{}, artifact.Errorf(artifact.NotFound, "%s@%s was not built here, and nothing that Waybill signed says how it was; `waybill attestations` lists what others attached", r, d)
	}
	envelope, err := a.Envelope(ctx, r, all[i].Envelope)
	if err != nil {
		return nil, all[i], err
	}
	own, err := a.keys.Verifiers(ctx)
	if err != nil {
		return nil, all[i], err
	}
	for _, verifier := range own {
		if statement, err := verifier.Open(envelope); err == nil {
			return statement, all[i], nil
		}
	}
	return nil, all[i], artifact.Errorf(artifact.Conflict, "the provenance of %s@%s is signed by a key that was revoked; it is signed again within moments", r, d)
}

func newAttestations() *cobra.Command {
	cmd := reader("attestations", "List what is signed about a digest: SBOMs, scans, provenance, promotions", func(w io.Writer, out server.AttestationList) {
		if none(w, len(out.Attestations), "nothing is signed about it yet") {
			return
		}
		t := newTable(w, "type", "for", "signed by", "at", "size", "envelope")
		for _, a := range out.Attestations {
			by := "somebody else"
			if a.KeyID != "" {
				by = "waybill " + clip(a.KeyID, 13)
			}
			t.AppendRow([]any{clip(a.PredicateType, 80), printable(a.Name), by, stamp(a.SignedAt), bytesOf(a.Size), shortDigest(a.Envelope)})
		}
		t.Render()
	}, nil)
	cmd.Long = `List what is signed about a digest: SBOMs, scans, provenance, and the promotions of it. What Waybill signed, it names its
key for; whether somebody else's holds, cosign says with their key:

  cosign verify-attestation --key waybill.pub --insecure-ignore-tlog=true --type cyclonedx HOST/REPO@DIGEST`
	return cmd
}

// slsaProvenance is what is read of SLSA provenance, version 1.
type slsaProvenance struct {
	Definition struct {
		Parameters struct {
			Dockerfile string            `json:"dockerfile"`
			Target     string            `json:"target"`
			Platform   string            `json:"platform"`
			Args       map[string]string `json:"args"`
			Source     struct {
				URI     string `json:"uri"`
				Commit  string `json:"commit"`
				Tree    string `json:"tree"`
				Fetched bool   `json:"fetched"`
			} `json:"source"`
		} `json:"externalParameters"`
		Dependencies []struct {
			Name   string            `json:"name"`
			URI    string            `json:"uri"`
			Digest map[string]string `json:"digest"`
		} `json:"resolvedDependencies"`
	} `json:"buildDefinition"`
	Run struct {
		Builder struct {
			ID      string            `json:"id"`
			Version map[string]string `json:"version"`
		} `json:"builder"`
		Metadata struct {
			Started  time.Time `json:"startedOn"`
			Finished time.Time `json:"finishedOn"`
		} `json:"metadata"`
	} `json:"runDetails"`
}

// sentence says it for people.
func (p slsaProvenance) sentence(image string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s was built by %s (waybill %s)", image, p.Run.Builder.ID, p.Run.Builder.Version["waybill"])
	if p.Definition.Parameters.Platform != "" {
		fmt.Fprintf(&b, " for %s", p.Definition.Parameters.Platform)
	}
	source := p.Definition.Parameters.Source
	if source.URI != "" {
		fmt.Fprintf(&b, " from %s", source.URI)
	}
	if source.Commit != "" {
		fmt.Fprintf(&b, " at commit %s", source.Commit)
	}
	if source.Tree != "" {
		fmt.Fprintf(&b, " (tree %s)", source.Tree)
	}
	switch {
	case source.Fetched:
		b.WriteString(", which it fetched,")
	case source.URI != "" || source.Commit != "" || source.Tree != "":
		b.WriteString(", as who asked for it says,")
	}
	var bases, rest []string
	for _, d := range p.Definition.Dependencies {
		switch {
		case strings.HasPrefix(d.URI, "pkg:oci/"):
			bases = append(bases, fmt.Sprintf("%s (sha256:%s)", d.Name, d.Digest["sha256"]))
		case d.Digest["sha256"] != "":
			rest = append(rest, fmt.Sprintf("%s sha256:%s", d.Name, d.Digest["sha256"]))
		}
	}
	if len(bases) > 0 {
		fmt.Fprintf(&b, " on %s", strings.Join(bases, ", "))
	}
	if len(rest) > 0 {
		fmt.Fprintf(&b, ", of %s", strings.Join(rest, " and "))
	}
	for _, name := range sortedKeys(p.Definition.Parameters.Args) {
		fmt.Fprintf(&b, ", with %s=%s", name, p.Definition.Parameters.Args[name])
	}
	fmt.Fprintf(&b, ", from %s to %s.", stamp(p.Run.Metadata.Started), stamp(p.Run.Metadata.Finished))
	return b.String()
}

func newProvenance() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "provenance" + refUse,
		Short: "Say how an image was built: source, bases, builder, when",
		Long: `Say in one sentence how an image was built, as Waybill signed it when it did: SLSA provenance v1. With
--output json, print the signed in-toto statement too. What was built elsewhere has none of Waybill's; "waybill attestations" lists what others attached.`,
		Example: "  waybill provenance shop/returns:v456\n  waybill provenance shop/returns:v456 -o json | jq .statement.predicate.buildDefinition.resolvedDependencies",
		Args:    exactly(1, "REPO:TAG or REPO@DIGEST"),
	}
	statement := cmd.Flags().Bool("json", false, "print the in-toto statement alone")
	_ = cmd.Flags().MarkHidden("json") // as it was before --output json
	output := outputFlag(cmd)
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		args, err := c.localAll(args)
		if err != nil {
			return err
		}
		if _, err := artifact.ParseShortReference(args[0]); err != nil {
			return usageError{err}
		}
		var out server.Provenance
		if err := c.do(ctx, http.MethodGet, "/provenance", url.Values{"ref": {args[0]}}, "", nil, &out); err != nil {
			return err
		}
		if *statement {
			asJSON := format("json")
			return asJSON.show(cmd, out.Statement, nil)
		}
		var said struct {
			Predicate slsaProvenance `json:"predicate"`
		}
		encoded, err := json.Marshal(out.Statement)
		if err == nil {
			err = json.Unmarshal(encoded, &said)
		}
		if err != nil {
			return fmt.Errorf("the provenance of %s is not what this client understands: %w", args[0], err)
		}
		return output.show(cmd, out, func(w io.Writer) {
			fmt.Fprintf(w, "%s\nSigned by waybill's key %s.\n", printable(said.Predicate.sentence(out.Repository.String()+"@"+out.Digest.String())), clip(out.KeyID, 13))
		})
	})
	return cmd
}
