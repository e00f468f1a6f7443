// Package rows opens the database of a data folder, for programs that fill it with as many rows as large companies have.
package rows

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"waybill/postgres"
)

// Open starts the database of a data folder, as waybill serve has it. stop ends both.
func Open(ctx context.Context, data string) (db *postgres.DB, stop func(), err error) {
	server, err := postgres.StartEmbedded(ctx, filepath.Join(data, "postgres"), slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, nil, err
	}
	db, err = postgres.Open(ctx, postgres.Config{URL: server.URL(), MaxConnections: 2})
	if err != nil {
		server.Stop()
		return nil, nil, err
	}
	return db, func() { db.Close(); server.Stop() }, nil
}

// Unchecked is for a connection that makes rows: foreign keys hold by how they are made, and triggers have nobody to tell.
const Unchecked = `set session_replication_role = replica;
set synchronous_commit = off;
set maintenance_work_mem = '512MB'`

// Run runs statements, of which each but the last ends a line with its semicolon, and says how long each takes.
func Run(statements string, exec func(sql string) (result string, err error)) error {
	for _, sql := range strings.Split(statements, ";\n") {
		begun := time.Now()
		result, err := exec(sql)
		if err != nil {
			return fmt.Errorf("%.60s: %w", strings.TrimSpace(sql), err)
		}
		fmt.Printf("%8.1f s  %s  %.60s\n", time.Since(begun).Seconds(), result, strings.TrimSpace(sql))
	}
	return nil
}
