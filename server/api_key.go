package server

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"waybill/artifact"
)

// Keys are the service's keys.
type Keys interface {
	// SigningKeys returns the keys that ever signed, the one in force last.
	SigningKeys(ctx context.Context) ([]artifact.SigningKey, error)
	// Rotate puts another key in force: one in a KMS, or, without a reference, the configured one or a new one. It is a
	// Conflict when replaces is not the id of the one in force.
	Rotate(ctx context.Context, p artifact.Principal, reference, replaces, reason string) (artifact.SigningKey, error)
	// Revoke ends that a key's signatures count, but for those that the ledger proves to be older than before.
	Revoke(ctx context.Context, p artifact.Principal, id, reason string, before time.Time) (artifact.SigningKey, error)
	// SignedEntries returns the ledger's entries that record a signature of a digest by a key before an instant.
	SignedEntries(ctx context.Context, repository artifact.Repository, digest artifact.Digest, keyID string, before time.Time) ([]int64, error)
	LedgerVerifier() string // the ledger's note verifier key: golang.org/x/mod/sumdb/note
}

// PublicKeys are what a verifier needs, and all it needs.
type PublicKeys struct {
	KeyID          string      `json:"keyID" doc:"Of the key that signs now"`
	PublicKeyPEM   string      `json:"publicKeyPEM" doc:"That key, for cosign verify --key"`
	Keys           []PublicKey `json:"keys,omitempty" doc:"All keys that ever signed, newest first"`
	LedgerVerifier string      `json:"ledgerVerifier" doc:"Verifier key of the ledger's checkpoints (C2SP signed note)"`
}

// PublicKey is what everybody may know of a signing key.
type PublicKey struct {
	ID           string            `json:"id" doc:"SHA-256 of the public key's DER"`
	Algorithm    string            `json:"algorithm,omitempty"`
	PublicKeyPEM string            `json:"publicKeyPEM"`
	Since        time.Time         `json:"since,omitzero"`
	Until        time.Time         `json:"until,omitzero" doc:"Absent of the key that signs now"`
	Revoked      *PublicRevocation `json:"revoked,omitempty"`
}

// PublicRevocation says that a key's signatures count no longer.
type PublicRevocation struct {
	At     time.Time `json:"at"`
	Before time.Time `json:"before,omitzero" doc:"Signatures that the ledger proves to be older count still; absent: none does"`
}

// mountKeys adds the routes of signing keys.
func (a *API) mountKeys() {
	register(a, public, pemFile(get("keys-pem", "/keys.pem", "Public keys whose signatures count, the one that signs first", "Service")), a.keysPEM)
	register(a, needs(artifact.ActionLook), get("list-signing-keys", "/signing-keys", "The keys that ever signed: who put each in force, and who revoked it", "Service"), a.signingKeys)
	register(a, needs(artifact.ActionManage), post("rotate-signing-key", "/signing-keys", "Put another signing key in force", "Service"), a.rotateKey)
	register(a, needs(artifact.ActionManage), post("revoke-signing-key", "/signing-keys/{key}/revocation", "End that a key's signatures count; what it signed is signed again by the key in force", "Service"), a.revokeKey)
}

type (
	keysOutput struct{ Body PublicKeys }
	pemOutput  struct{ Body func(huma.Context) }
)

const pemType = "application/x-pem-file"

func (a *API) publicKeys(ctx context.Context) (PublicKeys, error) {
	all, err := a.cfg.Keys.SigningKeys(ctx)
	if err != nil {
		return PublicKeys{}, err
	}
	keys := PublicKeys{LedgerVerifier: a.cfg.Keys.LedgerVerifier()}
	for _, k := range slices.Backward(all) {
		public := PublicKey{ID: k.ID, Algorithm: k.Algorithm, PublicKeyPEM: k.PublicKey, Since: k.Since, Until: k.Until}
		if r := k.Revocation; r != nil {
			public.Revoked = &PublicRevocation{At: r.At, Before: r.Before}
		}
		keys.Keys = append(keys.Keys, public)
	}
	if len(keys.Keys) > 0 {
		keys.KeyID, keys.PublicKeyPEM = keys.Keys[0].ID, keys.Keys[0].PublicKeyPEM
	}
	return keys, nil
}

func (a *API) keys(ctx context.Context, _ artifact.Principal, _ *struct{}) (*keysOutput, error) {
	keys, err := a.publicKeys(ctx)
	return &keysOutput{Body: keys}, err
}

// keysPEM serves the keys whose signatures count whenever they were made, the one that signs first: what reads one key of a
// file, as cosign does, reads that.
func (a *API) keysPEM(ctx context.Context, _ artifact.Principal, _ *struct{}) (*pemOutput, error) {
	keys, err := a.publicKeys(ctx)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, k := range keys.Keys {
		block, _ := pem.Decode([]byte(k.PublicKeyPEM))
		if k.Revoked != nil || block == nil {
			continue
		}
		state := "signs since " + k.Since.Format(time.RFC3339)
		if !k.Until.IsZero() {
			state = "signed from " + k.Since.Format(time.RFC3339) + " until " + k.Until.Format(time.RFC3339)
		}
		fmt.Fprintf(&b, "# %s %s %s\n", k.ID, k.Algorithm, state)
		if err := pem.Encode(&b, &pem.Block{Type: block.Type, Bytes: block.Bytes}); err != nil {
			return nil, err
		}
	}
	return &pemOutput{Body: func(hc huma.Context) {
		hc.SetHeader("Content-Type", pemType)
		hc.SetHeader("Cache-Control", "no-cache")
		_, _ = hc.BodyWriter().Write(b.Bytes()) // a client that went away needs no answer
	}}, nil
}

// pemFile describes an operation that answers with public keys in PEM.
func pemFile(op huma.Operation) huma.Operation {
	op.Responses = map[string]*huma.Response{"200": {Description: "Public keys, PKIX in PEM", Content: map[string]*huma.MediaType{pemType: {Schema: &huma.Schema{Type: huma.TypeString}}}}}
	return op
}

// SigningKeyList is the answer to GET /signing-keys, newest first.
type SigningKeyList struct {
	Keys []artifact.SigningKey `json:"keys"`
}

type (
	signingKeysOutput struct{ Body SigningKeyList }
	rotateInput       struct {
		Body struct {
			Key      string `json:"key,omitempty" maxLength:"500" doc:"A key in a KMS; empty: what signer.key of the configuration holds by now, or a new key" example:"hashivault://waybill-2027"`
			Replaces string `json:"replaces" maxLength:"64" doc:"Id of the key that signs now: of two who rotate at once, one does"`
			Reason   string `json:"reason" minLength:"1" maxLength:"1000"`
		}
	}
	revokeKeyInput struct {
		ID   string `path:"key" maxLength:"64" pattern:"^[0-9a-f]{64}$"`
		Body struct {
			Reason string    `json:"reason" minLength:"1" maxLength:"1000"`
			Before time.Time `json:"before,omitzero" doc:"Signatures that the ledger proves to be older count still"`
		}
	}
	signingKeyOutput struct{ Body artifact.SigningKey }
)

func (a *API) signingKeys(ctx context.Context, _ artifact.Principal, _ *struct{}) (*signingKeysOutput, error) {
	all, err := a.cfg.Keys.SigningKeys(ctx)
	if err != nil {
		return nil, err
	}
	list := SigningKeyList{Keys: make([]artifact.SigningKey, 0, len(all))}
	for _, k := range slices.Backward(all) {
		list.Keys = append(list.Keys, k)
	}
	return &signingKeysOutput{Body: list}, nil
}

func (a *API) rotateKey(ctx context.Context, p artifact.Principal, in *rotateInput) (*signingKeyOutput, error) {
	k, err := a.cfg.Keys.Rotate(ctx, p, in.Body.Key, in.Body.Replaces, in.Body.Reason)
	if err != nil {
		return nil, err
	}
	return &signingKeyOutput{Body: k}, nil
}

func (a *API) revokeKey(ctx context.Context, p artifact.Principal, in *revokeKeyInput) (*signingKeyOutput, error) {
	k, err := a.cfg.Keys.Revoke(ctx, p, in.ID, in.Body.Reason, in.Body.Before)
	if err != nil {
		return nil, err
	}
	return &signingKeyOutput{Body: k}, nil
}

// proveSigned returns proofs, in the tree of a size, that revoked keys signed a digest before the instants until which that
// is trusted.
func (a *API) proveSigned(ctx context.Context, r artifact.Repository, d artifact.Digest, size int64) (proofs []InclusionProof, err error) {
	all, err := a.cfg.Keys.SigningKeys(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range all {
		if k.Revocation == nil || k.Revocation.Before.IsZero() {
			continue
		}
		indexes, err := a.cfg.Keys.SignedEntries(ctx, r, d, k.ID, k.Revocation.Before)
		if err != nil {
			return nil, err
		}
		for _, index := range indexes {
			if index >= size {
				continue // it came after the checkpoint
			}
			proof, err := a.inclusion(ctx, index, size)
			if err != nil {
				return nil, err
			}
			proofs = append(proofs, proof)
		}
	}
	return proofs, nil
}
