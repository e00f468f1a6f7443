//go:build goexperiment.jsonv2

package trivy

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	javametadata "github.com/aquasecurity/trivy-java-db/pkg/db"
	"github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/javadb"
)

// initJava gives the analyser of jars a database of Maven Central that is empty: it fails every layer without one. A jar
// is then known by its pom.properties, as Maven writes it into all that it builds; one that has none is not told by its
// checksum, which only the whole database, of a gigabyte, could do. Nothing is downloaded.
func initJava() error {
	cache := filepath.Join(os.TempDir(), "java")
	folder := filepath.Join(cache, "java-db") // as package javadb names it
	if err := os.RemoveAll(folder); err != nil {
		return fmt.Errorf("database of jars: %w", err)
	}
	db, err := javametadata.New(folder)
	if err != nil {
		return fmt.Errorf("database of jars: %w", err)
	}
	if err := db.Init(); err != nil {
		return fmt.Errorf("database of jars: %w", err)
	}
	if err := db.Close(); err != nil {
		return fmt.Errorf("database of jars: %w", err)
	}
	now := time.Now().UTC()
	metadata := javametadata.NewMetadata(folder)
	if err := metadata.Update(javametadata.Metadata{Version: javadb.SchemaVersion, NextUpdate: now.AddDate(100, 0, 0), UpdatedAt: now, DownloadedAt: now}); err != nil {
		return fmt.Errorf("database of jars: %w", err)
	}
	const skipUpdate, quiet = true, true
	javadb.Init(cache, nil, skipUpdate, quiet, types.RegistryOptions{})
	return nil
}
