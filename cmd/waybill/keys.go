package main

import (
	"context"
	"log/slog"
	"time"

	"waybill/artifact"
	"waybill/kms"
	"waybill/ledger"
	"waybill/postgres"
	"waybill/signer"
)

// openSigner opens the keys of signatures: which one signs is in the database, once that is there.
func openSigner(ctx context.Context, cfg SignerConfig, folder string, remote *kms.Client, db *postgres.DB, logger *slog.Logger) (*signer.Keys, error) {
	return signer.OpenKeys(ctx, signer.KeysConfig{Folder: folder, Reference: cfg.Key, Password: cfg.password, KMS: remote, Store: db, Logger: logger})
}

// openKMS returns what reaches keys in a KMS. Its program need not be there until such a key is asked for, but where one is named.
func openKMS(cfg SignerConfig, logger *slog.Logger) (*kms.Client, error) {
	if cfg.Program != "" {
		if _, err := kms.Find(cfg.Program); err != nil {
			return nil, err
		}
	}
	return kms.New(kms.Config{Program: cfg.Program, Version: version, Logger: logger}), nil
}

// keysAPI fits the keys to the API's.
type keysAPI struct {
	signing *signer.Keys
	ledger  *ledger.Signer
	db      *postgres.DB
}

func (k keysAPI) SigningKeys(ctx context.Context) ([]artifact.SigningKey, error) {
	return k.signing.SigningKeys(ctx)
}

func (k keysAPI) Rotate(ctx context.Context, p artifact.Principal, reference, replaces, reason string) (artifact.SigningKey, error) {
	if reference != "" { // a client names no file of the server's
		if err := signer.CheckKMS(reference); err != nil {
			return artifact.SigningKey{}, err
		}
	}
	return k.signing.Rotate(ctx, signer.Rotation{Actor: p.Name, Reason: reason, Replaces: replaces, Reference: reference})
}

func (k keysAPI) Revoke(ctx context.Context, p artifact.Principal, id, reason string, before time.Time) (artifact.SigningKey, error) {
	return k.signing.Revoke(ctx, p.Name, id, reason, before)
}

func (k keysAPI) SignedEntries(ctx context.Context, r artifact.Repository, d artifact.Digest, keyID string, before time.Time) ([]int64, error) {
	return k.db.SignedEntries(ctx, r, d, keyID, before)
}

func (k keysAPI) LedgerVerifier() string { return k.ledger.PublicKey() }
