package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/server"
	"waybill/storage"
)

func newRetention() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "retention",
		Short: "Remove what no retention rule keeps; with --dry-run, say what and why",
		Long: `Remove tags and manifests that the retention of the documents of kind Repositories does not keep, with what refers to
them. What is promoted or signed for an environment always stays. The server does this by itself every day; garbage
collection then frees the bytes.`,
		Example: "  waybill retention --dry-run",
		Args:    exactly(0),
	}
	output := outputFlag(cmd)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "remove nothing; say what would be removed, and why the rest stays")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		var out storage.Report
		if err := c.post(ctx, "/retention", server.RetentionRequest{DryRun: dryRun}, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) { printRetention(w, out) })
	})
	return cmd
}

func printRetention(w io.Writer, r storage.Report) {
	if len(r.Repositories) == 0 {
		fmt.Fprintln(w, "no document in force has retention for a repository that is here; see docs/storage.md")
		return
	}
	t := newTable(w, "repository", "tags", "digest", "size", "what", "why")
	removed, freed := "removed", int64(0)
	if r.DryRun {
		removed = "would be removed"
	}
	for _, of := range r.Repositories {
		name, why := of.Repository.String(), "nothing in "+printable(of.Document)+" keeps it"
		for _, m := range of.Removed {
			if m.TagOnly {
				t.AppendRow([]any{name, tagList(m.Tags), shortDigest(m.Digest), "-", "tag " + removed, why})
			} else {
				t.AppendRow([]any{name, tagList(m.Tags), shortDigest(m.Digest), bytesOf(m.Bytes), removed, why})
			}
		}
		for _, s := range of.Skipped {
			t.AppendRow([]any{name, tagList(s.Tags), shortDigest(s.Digest), "-", "skipped", printable(s.Reason)})
		}
		for _, k := range of.Kept {
			t.AppendRow([]any{name, k.Tag, shortDigest(k.Digest), "-", "kept", printable(strings.Join(k.Reasons, "; "))})
		}
		freed += of.Freed
	}
	t.Render()
	fmt.Fprintf(w, "\n%s of blobs %s no longer needed; garbage collection frees them\n", bytesOf(freed), map[bool]string{true: "would be", false: "are"}[r.DryRun])
}

func tagList(tags []artifact.Tag) string {
	if len(tags) == 0 {
		return "-"
	}
	names := make([]string, len(tags))
	for i, t := range tags {
		names[i] = t.String()
	}
	return strings.Join(names, " ")
}
