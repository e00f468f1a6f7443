package main

import (
	"context"

	"waybill/postgres"
	"waybill/web"
)

// ledgerPages fits the ledger to the pages'.
type ledgerPages struct{ ledgerAPI }

func (l ledgerPages) Entries(ctx context.Context, from int64, limit int) ([]web.LedgerEntry, error) {
	rows, err := l.ledgerAPI.Entries(ctx, from, limit)
	all := make([]web.LedgerEntry, len(rows))
	for i, row := range rows {
		all[i] = web.LedgerEntry{Index: row.Index, Body: row.Body}
	}
	return all, err
}

func (l ledgerPages) Checkpoint(ctx context.Context) (web.LedgerCheckpoint, error) {
	c, err := l.ledgerAPI.Checkpoint(ctx)
	return web.LedgerCheckpoint{Size: c.Size, Root: c.Root, Note: c.Note}, err
}

// Verifier is the public key of the checkpoints.
func (l ledgerPages) Verifier() string { return l.signer.PublicKey() }

// upkeepPages is what looks after what is stored, with what that came to.
type upkeepPages struct {
	*upkeep
	*postgres.DB
}
