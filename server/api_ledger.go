package server

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"waybill/artifact"
)

// LedgerEntry is one entry. Body is its canonical JSON, to the byte: the leaf of the Merkle tree is made of it.
type LedgerEntry struct {
	Index int64  `json:"index"`
	Body  []byte `json:"body" doc:"Canonical JSON, base64"`
}

// LedgerCheckpoint is a signed tree head: Note is a C2SP checkpoint.
type LedgerCheckpoint struct {
	Size int64  `json:"size"`
	Root string `json:"root"` // base64 of the RFC 6962 tree hash
	Note string `json:"note"`
}

// LedgerReport is what recomputing the ledger showed. OK is true only when Problems is empty.
type LedgerReport struct {
	OK          bool     `json:"ok"`
	Size        int64    `json:"size"`
	Root        string   `json:"root"`
	Checkpoints int      `json:"checkpoints"` // that were checked
	Problems    []string `json:"problems"`    // each names a row that does not fit the rest
}

// EntryPage is one page of entries; Next is where the following one starts, and absent on the last.
type EntryPage struct {
	Entries []ShownEntry `json:"entries"`
	Next    int64        `json:"next,omitempty"`
}

// ShownEntry is an entry for people and scripts; Leaf is the same as LedgerEntry.Body, for those who hash it.
type ShownEntry struct {
	Index int64           `json:"index"`
	Entry json.RawMessage `json:"entry"`
	Leaf  []byte          `json:"leaf" doc:"Canonical JSON, base64: what the tree's leaf is made of"`
}

// InclusionProof proves that an entry is in the tree of a size.
type InclusionProof struct {
	Index int64    `json:"index"`
	Size  int64    `json:"size"`
	Leaf  []byte   `json:"leaf"`
	Proof [][]byte `json:"proof" doc:"Hashes from the leaf up, base64"`
}

type (
	entriesInput struct {
		From  int64 `query:"from" minimum:"0" doc:"Index of the first entry"`
		Limit int   `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	}
	entriesOutput    struct{ Body EntryPage }
	checkpointOutput struct{ Body LedgerCheckpoint }
	proofInput       struct {
		Index int64 `query:"index" required:"true" minimum:"0"`
		Size  int64 `query:"size" minimum:"1" doc:"Of the tree; without it, that of a new checkpoint"`
	}
	proofOutput struct{ Body InclusionProof }
	auditOutput struct{ Body LedgerReport }
)

func (a *API) ledgerEntries(ctx context.Context, _ artifact.Principal, in *entriesInput) (*entriesOutput, error) {
	limit := min(max(in.Limit, 1), maxPageSize)
	all, err := a.cfg.Ledger.Entries(ctx, in.From, limit)
	if err != nil {
		return nil, err
	}
	page := EntryPage{Entries: make([]ShownEntry, 0, len(all))}
	for _, e := range all {
		page.Entries = append(page.Entries, ShownEntry{Index: e.Index, Entry: json.RawMessage(e.Body), Leaf: e.Body})
	}
	if len(all) == limit {
		page.Next = all[limit-1].Index + 1
	}
	return &entriesOutput{Body: page}, nil
}

func (a *API) ledgerCheckpoint(ctx context.Context, _ artifact.Principal, _ *struct{}) (*checkpointOutput, error) {
	c, err := a.cfg.Ledger.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	return &checkpointOutput{Body: c}, nil
}

func (a *API) ledgerProof(ctx context.Context, _ artifact.Principal, in *proofInput) (*proofOutput, error) {
	size := in.Size
	if size == 0 {
		c, err := a.cfg.Ledger.Checkpoint(ctx)
		if err != nil {
			return nil, err
		}
		size = c.Size
	}
	proof, err := a.inclusion(ctx, in.Index, size)
	if err != nil {
		return nil, err
	}
	return &proofOutput{Body: proof}, nil
}

func (a *API) inclusion(ctx context.Context, index, size int64) (InclusionProof, error) {
	if index >= size {
		return InclusionProof{}, artifact.Errorf(artifact.Invalid, "entry %d is not in a tree of size %d; indexes count from 0", index, size)
	}
	entries, err := a.cfg.Ledger.Entries(ctx, index, 1)
	if err != nil {
		return InclusionProof{}, err
	}
	if len(entries) == 0 || entries[0].Index != index {
		return InclusionProof{}, artifact.Errorf(artifact.NotFound, "the ledger has no entry %d yet", index)
	}
	proof, err := a.cfg.Ledger.Proof(ctx, index, size)
	if err != nil {
		return InclusionProof{}, err
	}
	return InclusionProof{Index: index, Size: size, Leaf: entries[0].Body, Proof: orEmpty(proof)}, nil
}

func (a *API) audit(ctx context.Context, _ artifact.Principal, _ *struct{}) (*auditOutput, error) {
	report, err := a.cfg.Ledger.Audit(ctx)
	if err != nil {
		return nil, err
	}
	report.Problems = orEmpty(report.Problems)
	report.OK = len(report.Problems) == 0
	return &auditOutput{Body: report}, nil
}

// Bundle is what proves a digest's signature and promotion to somebody who trusts two public keys and not the
// server: nothing in it needs to be believed, PublicKeys least of all.
type Bundle struct {
	Repository  artifact.Repository  `json:"repository"`
	Digest      artifact.Digest      `json:"digest"`
	Environment artifact.Environment `json:"environment,omitzero"`
	MediaType   string               `json:"mediaType"`
	Manifest    []byte               `json:"manifest" doc:"The manifest's bytes, base64; their hash is the digest"`
	Signatures  []BundleSignature    `json:"signatures"`
	Promotion   *InclusionProof      `json:"promotion,omitempty"` // of the newest promotion to Environment
	Signed      []InclusionProof     `json:"signed,omitempty" doc:"Of entries which prove that a key, revoked since, signed the digest when that counted"`
	Checkpoint  string               `json:"checkpoint,omitempty"`
	Runs        *Running             `json:"runs,omitempty" doc:"What Environment ran when this was asked for, as the server says: that nothing came after it, no proof says"`
	Keys        PublicKeys           `json:"keys" doc:"As this server says; compare them with those you were given"`
}

// Running is what an environment runs: nothing when Digest is none.
type Running struct {
	At      time.Time       `json:"at" doc:"When it was asked for"`
	Digest  artifact.Digest `json:"digest,omitzero"`
	Version string          `json:"version,omitempty"`
	Since   time.Time       `json:"since,omitzero"`
	Actor   string          `json:"actor,omitempty"`
	Reason  string          `json:"reason,omitempty"`
}

// BundleSignature is a cosign signature: ECDSA over the payload, which names the digest (simple signing).
type BundleSignature struct {
	Payload   []byte `json:"payload"`
	Signature []byte `json:"signature"` // ASN.1
}

type (
	verifyInput struct {
		Ref         string `query:"ref" required:"true" doc:"REPOSITORY@DIGEST or REPOSITORY:TAG"`
		Environment string `query:"environment" maxLength:"63" doc:"Prove the promotion to it too"`
	}
	verifyOutput struct{ Body Bundle }
)

// maxSignatures bounds a bundle: no digest has more that anybody would check.
const maxSignatures = 64

// signatureAnnotation is on each layer of a signature image and holds the signature, base64: cosign's SIGNATURE_SPEC.md.
const signatureAnnotation = "dev.cosignproject.cosign/signature"

func (a *API) verify(ctx context.Context, p artifact.Principal, in *verifyInput) (*verifyOutput, error) {
	var e artifact.Environment
	if in.Environment != "" {
		var err error
		if e, err = artifact.ParseEnvironment(in.Environment); err != nil {
			return nil, err
		}
	}
	s, err := a.look(ctx, p, in.Ref)
	if err != nil {
		return nil, err
	}
	if actor, reason, recalled, err := a.cfg.Records.Recalled(ctx, s.Repository, s.Digest); err != nil || recalled {
		if err == nil {
			err = artifact.Errorf(artifact.Denied, "%s@%s was recalled by %s: %s", s.Repository, s.Digest, actor, reason)
		}
		return nil, err
	}
	b := Bundle{Repository: s.Repository, Digest: s.Digest, Environment: e, MediaType: s.Manifest.MediaType, Manifest: s.Body}
	if b.Keys, err = a.publicKeys(ctx); err != nil {
		return nil, err
	}
	if b.Signatures, err = a.signatures(ctx, s.Repository, s.Digest); err != nil {
		return nil, err
	}
	if !e.IsZero() {
		if err := a.provePromotion(ctx, p, &b); err != nil {
			return nil, err
		}
	}
	if !slices.ContainsFunc(b.Keys.Keys, func(k PublicKey) bool { return k.Revoked != nil && !k.Revoked.Before.IsZero() }) {
		return &verifyOutput{Body: b}, nil
	}
	c, err := a.cfg.Ledger.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	if b.Signed, err = a.proveSigned(ctx, b.Repository, b.Digest, c.Size); err != nil {
		return nil, err
	}
	if b.Promotion != nil { // all proofs are for one checkpoint
		if *b.Promotion, err = a.inclusion(ctx, b.Promotion.Index, c.Size); err != nil {
			return nil, err
		}
	}
	b.Checkpoint = c.Note
	return &verifyOutput{Body: b}, nil
}

// provePromotion adds the newest entry that made the digest current in the environment. A digest that was recalled
// there, or never promoted, has none to show.
func (a *API) provePromotion(ctx context.Context, p artifact.Principal, b *Bundle) error {
	history, err := a.promotions(ctx, p, b.Repository)
	if err != nil {
		return err
	}
	for _, h := range slices.Backward(history) {
		if h.Digest != b.Digest || h.Environment != b.Environment {
			continue
		}
		if h.Action == "retire" {
			return artifact.Errorf(artifact.Denied, "%s let go of %s@%s when %s retired it: %s", b.Environment, b.Repository, b.Digest, h.Actor, h.Reason)
		}
		if h.Action == "recall" {
			return artifact.Errorf(artifact.Denied, "%s@%s was recalled from %s by %s: %s", b.Repository, b.Digest, b.Environment, h.Actor, h.Reason)
		}
		c, err := a.cfg.Ledger.Checkpoint(ctx)
		if err != nil {
			return err
		}
		proof, err := a.inclusion(ctx, h.LedgerIndex, c.Size)
		if err != nil {
			return err
		}
		b.Promotion, b.Checkpoint = &proof, c.Note
		b.Runs, err = a.running(ctx, p, b.Repository, b.Environment)
		return err
	}
	return artifact.Errorf(artifact.NotFound, "%s@%s was never promoted to %s", b.Repository, b.Digest, b.Environment)
}

// running says what an environment of a repository runs. A deployer of it always sees that.
func (a *API) running(ctx context.Context, p artifact.Principal, r artifact.Repository, e artifact.Environment) (*Running, error) {
	now := &Running{At: a.cfg.Now().UTC()}
	cells, err := a.cells(ctx, p)
	if err != nil {
		return nil, err
	}
	for _, c := range cells {
		if c.Repository == r && c.Environment == e {
			now.Digest, now.Version, now.Since, now.Actor, now.Reason = c.Digest, c.Version, c.Since, c.Actor, c.Reason
		}
	}
	return now, nil
}

// signatures reads the signature image that stands at cosign's tag; none is an empty list.
func (a *API) signatures(ctx context.Context, r artifact.Repository, d artifact.Digest) ([]BundleSignature, error) {
	all := []BundleSignature{}
	tag, err := artifact.ParseTag(d.Algorithm() + "-" + d.Hex() + ".sig")
	if err != nil {
		return all, nil // cosign's scheme has no tag for a sha512 digest: it would be too long
	}
	at, err := a.cfg.Content.ResolveTag(ctx, r, tag)
	if artifact.KindOf(err) == artifact.NotFound {
		return all, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := a.cfg.Content.Manifest(ctx, r, at)
	if err != nil {
		return nil, err
	}
	for _, layer := range m.Manifest.Layers[:min(len(m.Manifest.Layers), maxSignatures)] {
		signature, err := decodeBase64(layer.Annotations[signatureAnnotation])
		if err != nil || len(signature) == 0 || layer.Size > maxJSON {
			continue // not a signature of cosign's: it cannot verify, and it hides none that can
		}
		payload, err := a.cfg.Content.Blob(ctx, r, layer.Digest)
		if err != nil {
			return nil, err
		}
		all = append(all, BundleSignature{Payload: payload, Signature: signature})
	}
	return all, nil
}
