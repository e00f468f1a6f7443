package main

import (
	"context"
	"time"

	"waybill/artifact"
	"waybill/ledger"
	"waybill/postgres"
	"waybill/server"
)

// records fits stored signatures to the API's.
type records struct{ *postgres.DB }

func (r records) Signatures(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]server.SignatureRecord, error) {
	rows, err := r.DB.Signatures(ctx, repository, digest)
	all := make([]server.SignatureRecord, len(rows))
	for i, row := range rows {
		all[i] = server.SignatureRecord(row)
	}
	return all, err
}

// ledgerAPI fits the ledger to the API's.
type ledgerAPI struct {
	db     *postgres.DB
	signer *ledger.Signer
}

func (l ledgerAPI) Entries(ctx context.Context, from int64, limit int) ([]server.LedgerEntry, error) {
	rows, err := l.db.Entries(ctx, from, limit)
	all := make([]server.LedgerEntry, len(rows))
	for i, row := range rows {
		body, err := row.Canonical()
		if err != nil {
			return nil, err
		}
		all[i] = server.LedgerEntry{Index: row.Index, Body: body}
	}
	return all, err
}

func (l ledgerAPI) FindEntries(ctx context.Context, f artifact.LedgerFilter) ([]artifact.LedgerLine, error) {
	return l.db.FindEntries(ctx, f)
}

func (l ledgerAPI) Checkpoint(ctx context.Context) (server.LedgerCheckpoint, error) {
	note, err := l.db.Checkpoint(ctx, l.signer)
	if err != nil {
		return server.LedgerCheckpoint{}, err
	}
	return l.cosigned(ctx, note)
}

// Witnessed returns the newest checkpoint that witnesses have cosigned.
func (l ledgerAPI) Witnessed(ctx context.Context) (server.LedgerCheckpoint, error) {
	_, note, err := l.db.CosignedCheckpoint(ctx)
	if err != nil {
		return server.LedgerCheckpoint{}, err
	}
	return l.cosigned(ctx, note)
}

// cosigned adds to a checkpoint what witnesses signed it with.
func (l ledgerAPI) cosigned(ctx context.Context, note string) (server.LedgerCheckpoint, error) {
	c, err := ledger.OpenCheckpoint(note, l.signer.PublicKey())
	if err != nil {
		return server.LedgerCheckpoint{}, err
	}
	lines, err := l.db.Cosignatures(ctx, c.Size)
	return server.LedgerCheckpoint{Size: c.Size, Root: c.Root.String(), Note: ledger.WithCosignatures(note, lines)}, err
}

// witnessStore is what witnesses are asked about.
type witnessStore struct {
	*postgres.DB
	signer *ledger.Signer
}

func (s witnessStore) Checkpoint(ctx context.Context) (ledger.Checkpoint, string, error) {
	note, err := s.DB.Checkpoint(ctx, s.signer)
	if err != nil {
		return ledger.Checkpoint{}, "", err
	}
	c, err := ledger.OpenCheckpoint(note, s.signer.PublicKey())
	return c, note, err
}

func (l ledgerAPI) Proof(ctx context.Context, index, size int64) ([][]byte, error) {
	hashes, err := l.db.Prove(ctx, size, index)
	return plainHashes(hashes), err
}

func (l ledgerAPI) Consistency(ctx context.Context, older, newer int64) ([][]byte, error) {
	hashes, err := l.db.ProveConsistency(ctx, newer, older)
	return plainHashes(hashes), err
}

func plainHashes(hashes []ledger.Hash) [][]byte {
	all := make([][]byte, len(hashes))
	for i, h := range hashes {
		all[i] = h[:]
	}
	return all
}

func (l ledgerAPI) Tile(ctx context.Context, path string) ([]byte, error) {
	t, err := ledger.ParseTile(path)
	if err != nil {
		return nil, err
	}
	return l.db.LedgerTile(ctx, t)
}

func (l ledgerAPI) EntriesAbout(ctx context.Context, r artifact.Repository, d artifact.Digest, limit int) ([]int64, error) {
	return l.db.EntriesAbout(ctx, r, d, limit)
}

func (l ledgerAPI) EntriesWithin(ctx context.Context, from, to time.Time, limit int) ([]int64, error) {
	return l.db.EntriesWithin(ctx, from, to, limit)
}

// SignListing signs an export's files with the key of the checkpoints.
func (l ledgerAPI) SignListing(files []server.ExportedFile) (string, error) {
	all := make([]ledger.ExportedFile, len(files))
	for i, f := range files {
		all[i] = ledger.ExportedFile(f)
	}
	return l.signer.SignListing(all)
}

func (l ledgerAPI) Audit(ctx context.Context) (server.LedgerReport, error) {
	if _, err := l.db.Checkpoint(ctx, l.signer); err != nil && artifact.KindOf(err) != "" {
		return server.LedgerReport{}, err
	}
	r, err := l.db.Audit(ctx, l.signer.PublicKey())
	return server.LedgerReport{OK: len(r.Problems) == 0, Size: r.Entries, Root: r.Root, Checkpoints: r.Checkpoints, Problems: r.Problems}, err
}
