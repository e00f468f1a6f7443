// Package migrations holds the schema's history: numbered goose files, each with its way up and down.
package migrations

import "embed"

// FS holds every migration.
//
//go:embed *.sql
var FS embed.FS
