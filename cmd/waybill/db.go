package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"waybill/server"
)

func newDatabase() *cobra.Command {
	cmd := &cobra.Command{Use: "db", Short: "Import the advisory database that scans match with, and show its age"}
	cmd.AddCommand(newDatabaseImport(), newDatabaseStatus())
	return cmd
}

func newDatabaseImport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Import a Trivy database archive (tar.gz of trivy.db and metadata.json)",
		Args:  exactly(1, "FILE"),
	}
	output := outputFlag(cmd)
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		f, err := os.Open(args[0])
		if err != nil {
			return usageError{err}
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return usagef("%s is not a file", args[0])
		}
		sent := newProgress(f, cmd.ErrOrStderr(), "Importing", info.Size())
		var out server.AdvisoryStatus
		err = c.do(ctx, http.MethodPost, "/advisories", nil, "application/octet-stream", sent, &out)
		sent.done()
		if err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) { printDatabase(w, out) })
	})
	return cmd
}

func newDatabaseStatus() *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Show the advisory database in use, and its age", Args: exactly(0)}
	output := outputFlag(cmd)
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		var out server.AdvisoryStatus
		if err := c.get(ctx, "/advisories", nil, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) { printDatabase(w, out) })
	})
	return cmd
}

func printDatabase(w io.Writer, s server.AdvisoryStatus) {
	if !s.Present || s.Database == nil {
		fmt.Fprintln(w, "no advisory database: scans are pending; import one with `waybill db import FILE`")
		return
	}
	d := s.Database
	fmt.Fprintf(w, "digest    %s\nschema    %d\nbuilt     %s (%s ago)\nimported  %s by %s\n", d.Digest, d.Schema, stamp(d.UpdatedAt),
		ageOf(time.Duration(s.AgeSeconds)*time.Second), stamp(d.ImportedAt), printable(d.ImportedBy))
}
