package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"waybill/artifact"
	"waybill/ledger"
	"waybill/server"
)

// maxPinned bounds the keys of a file that --key names.
const maxPinned = 100

// pinned returns the keys in PEM, one after another, as --key names them.
func pinned(text string) ([]server.PublicKey, error) {
	var all []server.PublicKey
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		encoded := string(pem.EncodeToMemory(block))
		if _, err := parsePublicKey(encoded); err != nil {
			return nil, err
		}
		sum := sha256.Sum256(block.Bytes)
		if all = append(all, server.PublicKey{ID: hex.EncodeToString(sum[:]), PublicKeyPEM: encoded}); len(all) > maxPinned {
			return nil, fmt.Errorf("it holds more than %d keys", maxPinned)
		}
	}
	if len(all) == 0 {
		return nil, errors.New("the public key is not PEM")
	}
	return all, nil
}

func checkKeys(text string) error {
	_, err := pinned(text)
	return err
}

// pin replaces the server's keys by those that were given. That one was revoked, the server is believed: it can only say
// that less holds.
func pin(keys *server.PublicKeys) {
	given, _ := pinned(keys.PublicKeyPEM) // as checkKeys found
	for i := range given {
		for _, k := range keys.Keys {
			if k.ID == given[i].ID {
				given[i].Revoked = k.Revoked
			}
		}
	}
	keys.Keys = given
}

// checkSignatures asks for one signature that counts: of one of the keys, over a payload that names the digest. proven says
// whether the ledger proves that a key signed the digest before an instant.
func checkSignatures(all []server.BundleSignature, r artifact.Repository, want artifact.Digest, keys server.PublicKeys, proven func(artifact.Repository, artifact.Digest, string, time.Time) error) (string, error) {
	trusted := keys.Keys
	if len(trusted) == 0 { // of a server that knows of one key only
		var err error
		if trusted, err = pinned(keys.PublicKeyPEM); err != nil {
			return "", err
		}
	}
	if len(all) == 0 {
		return "", errors.New("the digest has no signature (yet)")
	}
	var last error
	for _, k := range trusted {
		key, err := parsePublicKey(k.PublicKeyPEM)
		if err != nil {
			return "", err
		}
		for _, s := range all {
			err := checkSignature(s, r, want, key)
			switch {
			case err != nil:
				if last == nil {
					last = err
				}
				continue
			case k.Revoked == nil:
				return "of this key over a payload that names the repository and the digest", nil
			case k.Revoked.Before.IsZero():
				last = fmt.Errorf("it is of key %.16s, which was revoked at %s", k.ID, stamp(k.Revoked.At))
				continue
			}
			if err := proven(r, want, k.ID, k.Revoked.Before); err != nil {
				last = fmt.Errorf("it is of key %.16s, which was revoked at %s but for signatures before %s: %w", k.ID, stamp(k.Revoked.At), stamp(k.Revoked.Before), err)
				continue
			}
			return fmt.Sprintf("of a key that was revoked since; the ledger proves that it is older than %s", stamp(k.Revoked.Before)), nil
		}
	}
	return "", fmt.Errorf("none of %d signatures holds: %w", len(all), last)
}

// signedBefore looks for an entry of the ledger, among those that are proven to be in the tree of a checkpoint, which
// records that a key signed a digest before an instant. unsigned is what is wrong with the checkpoint.
func signedBefore(proofs []server.InclusionProof, root ledger.Checkpoint, unsigned error) func(artifact.Repository, artifact.Digest, string, time.Time) error {
	return func(r artifact.Repository, d artifact.Digest, keyID string, before time.Time) error {
		if unsigned != nil {
			return fmt.Errorf("the checkpoint: %w", unsigned)
		}
		for _, p := range proofs {
			entry, err := ledger.Parse(p.Leaf)
			if err != nil {
				return err
			}
			if entry.Kind != "signed" || entry.Repository != r || entry.Digest != d || entry.Subject != keyID || !entry.At.Before(before) {
				continue
			}
			return checkInclusion(p, root)
		}
		return errors.New("no entry of the ledger is there that proves it to be older")
	}
}
