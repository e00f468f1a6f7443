package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/server"
)

func newDatabase() *cobra.Command {
	cmd := &cobra.Command{Use: "db", Short: "Import the advisory database that scans match with, and show its age"}
	cmd.AddCommand(newDatabaseImport(), newDatabasePull(), newDatabaseStatus(), newDatabaseHistory())
	return cmd
}

func newDatabaseImport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Import an archive of Trivy's advisory database, or of its Java database",
		Long: `Import an archive as Trivy publishes it: tar.gz of trivy.db and metadata.json, the advisories that packages are matched
with, or of trivy-java.db and metadata.json, what jars are called that do not say it themselves.`,
		Args: exactly(1, "FILE"),
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

func newDatabasePull() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pull [HOST/REPO:TAG|REPO:TAG]",
		Short: "Pull the advisory or the Java database from a registry, this one or another, as the server reaches it",
		Example: `  waybill db pull ghcr.io/aquasecurity/trivy-db:2
  waybill db pull ghcr.io/aquasecurity/trivy-java-db:1
  waybill db pull security/trivy-db:2   # of this registry: oras push it there where there is no way out`,
		Args: upTo(1),
	}
	output := outputFlag(cmd)
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		request := map[string]string{}
		if len(args) == 1 {
			request["source"] = args[0]
		}
		var out server.AdvisoryStatus
		if err := c.post(ctx, "/advisories/pulls", request, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) { printDatabase(w, out) })
	})
	return cmd
}

func newDatabaseStatus() *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Show the advisory and the Java database in use, and their ages", Args: exactly(0)}
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

func newDatabaseHistory() *cobra.Command {
	cmd := &cobra.Command{Use: "history", Short: "Show the advisory and Java databases that were in use, newest first", Args: exactly(0)}
	output := outputFlag(cmd)
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		var out server.AdvisoryHistory
		if err := c.get(ctx, "/advisories/history", nil, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) {
			t := newTable(w, "kind", "built", "imported", "by", "schema", "digest")
			for _, kind := range []struct {
				name string
				all  []artifact.AdvisoryDatabase
			}{{"advisories", out.Databases}, {"java", out.Java}} {
				for _, d := range kind.all {
					t.AppendRow([]any{kind.name, stamp(d.UpdatedAt), stamp(d.ImportedAt), printable(d.ImportedBy), d.Schema, shortDigest(d.Digest)})
				}
			}
			t.Render()
		})
	})
	return cmd
}

func printDatabase(w io.Writer, s server.AdvisoryStatus) {
	if d := s.Database; !s.Present || d == nil {
		fmt.Fprintln(w, "no advisory database: scans are pending; import one with `waybill db import FILE`, or pull one")
	} else {
		printOneDatabase(w, *d, s.AgeSeconds)
	}
	printSource(w, s.Source, s.LastPull)
	if s.Key != "" {
		fmt.Fprintf(w, "key       %s must have signed it\n", printable(s.Key))
	}
	if !s.NextPullBy.IsZero() {
		fmt.Fprintf(w, "next      by %s\n", stamp(s.NextPullBy))
	}
	if i := s.Images; i != nil {
		fmt.Fprintf(w, "images    %d matched with it, %d with another, %d never, %d failed\n", i.Matched, i.Outdated, i.Pending, i.Failed)
	}
	if s.Stale {
		fmt.Fprintln(w, "warning   it is older than it should be: vulnerabilities that were published since are not found")
	}
	fmt.Fprintln(w)
	if d := s.Java.Database; d == nil {
		fmt.Fprintln(w, "no Java database: jars that do not say what they contain have no name, and are not matched")
	} else {
		fmt.Fprintln(w, "Java database")
		printOneDatabase(w, *d, s.Java.AgeSeconds)
	}
	printSource(w, s.Java.Source, s.Java.LastPull)
}

func printOneDatabase(w io.Writer, d artifact.AdvisoryDatabase, age int64) {
	fmt.Fprintf(w, "digest    %s\nschema    %d\nbuilt     %s (%s ago)\nimported  %s by %s\n", d.Digest, d.Schema, stamp(d.UpdatedAt),
		ageOf(time.Duration(age)*time.Second), stamp(d.ImportedAt), printable(d.ImportedBy))
}

func printSource(w io.Writer, source string, p *artifact.AdvisoryPull) {
	if source != "" {
		fmt.Fprintf(w, "source    %s\n", printable(source))
	}
	if p != nil {
		how := "went well"
		if p.Problem != "" {
			how = "failed: " + p.Problem
		}
		fmt.Fprintf(w, "pulled    %s from %s by %s: %s\n", stamp(p.At), printable(p.Source), printable(p.Actor), printable(how))
	}
}
