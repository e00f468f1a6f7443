// Package pgtest gives each test a fresh, migrated database of a real PostgreSQL: one server per test binary, one
// database per test, cloned from a template.
package pgtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"os"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"waybill/postgres"
)

// template is the database that every test's is cloned from.
const template = "waybill_template"

var server struct {
	sync.Once
	embedded *postgres.Embedded
	err      error
	clone    sync.Mutex // PostgreSQL clones a template for one at a time
}

// New returns a database of its own for t; it is dropped when t ends.
func New(t testing.TB) *postgres.DB {
	t.Helper()
	ctx := context.Background()
	server.Do(start)
	if server.err != nil {
		t.Fatalf("test database: %v", server.err)
	}
	admin, err := pgx.Connect(ctx, server.embedded.URL())
	if err != nil {
		t.Fatalf("test database: %v", err)
	}
	defer admin.Close(ctx)
	var random [8]byte
	_, _ = rand.Read(random[:])
	name := "test_" + hex.EncodeToString(random[:])
	server.clone.Lock()
	_, err = admin.Exec(ctx, "create database "+name+" template "+template)
	server.clone.Unlock()
	if err != nil {
		t.Fatalf("test database: %v", err)
	}
	db, err := postgres.Open(ctx, postgres.Config{URL: server.embedded.URL() + " dbname=" + name, MaxConnections: 6})
	if err != nil {
		t.Fatalf("test database: %v", err)
	}
	t.Cleanup(func() {
		db.Close()
		if admin, err := pgx.Connect(ctx, server.embedded.URL()); err == nil {
			_, _ = admin.Exec(ctx, "drop database "+name+" with (force)")
			_ = admin.Close(ctx)
		}
	})
	return db
}

// start runs one server for the test binary. It ends with the process (Pdeathsig); its folder is removed by Main, or,
// for a binary without one, by the operating system's cleaning of its temporary folder.
func start() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "waybill-pgtest-")
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		server.err = err
		return
	}
	if server.embedded, server.err = postgres.StartEmbedded(ctx, dir+"/pg", slog.New(slog.DiscardHandler)); server.err != nil {
		return
	}
	folder = dir
	admin, err := pgx.Connect(ctx, server.embedded.URL())
	if err != nil {
		server.err = err
		return
	}
	defer admin.Close(ctx)
	if _, server.err = admin.Exec(ctx, "create database "+template); server.err != nil {
		return
	}
	db, err := postgres.Open(ctx, postgres.Config{URL: server.embedded.URL() + " dbname=" + template})
	if err != nil {
		server.err = err
		return
	}
	db.Close()
}

var folder string

// Main is for a package's TestMain: it runs the tests, stops the server and removes its folder.
func Main(m *testing.M) {
	code := m.Run()
	if server.embedded != nil {
		server.embedded.Stop()
	}
	if folder != "" {
		_ = os.RemoveAll(folder)
	}
	os.Exit(code)
}
