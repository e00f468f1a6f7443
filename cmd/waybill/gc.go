package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/registry"
	"waybill/server"
)

func newGC() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove blobs that no manifest needs, uploads that were given up, and what crashes left",
		Long: `Remove blobs that no manifest needs, uploads that were given up, and files that crashes left, once they are older
than the server's registry.gcGrace. Pushes and pulls go on meanwhile. The server does this by itself every hour.`,
		Args: exactly(0),
	}
	output := outputFlag(cmd)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "remove nothing; say what and how much would be removed")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		var out registry.Collected
		if err := c.post(ctx, "/gc", server.CollectRequest{DryRun: dryRun}, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) { printCollected(w, out) })
	})
	return cmd
}

func printCollected(w io.Writer, c registry.Collected) {
	if c.DryRun && len(c.Items) > 0 {
		t := newTable(w, "kind", "what", "where", "size")
		for _, i := range c.Items {
			t.AppendRow([]any{i.Kind, printable(i.Name), printable(i.Repository.String()), bytesOf(i.Bytes)})
		}
		t.Render()
		if more := c.Uploads.Count + c.Links.Count + c.Blobs.Count + c.Files.Count - int64(len(c.Items)); more > 0 {
			fmt.Fprintf(w, "and %d more\n", more)
		}
		fmt.Fprintln(w)
	}
	verb, freed := "removed", "freed"
	if c.DryRun {
		verb, freed = "would remove", "would free"
	}
	fmt.Fprintf(w, "%s %s (%s), %s (%s), %s (%s)\n", verb, artifact.Count(c.Blobs.Count, "blob"), bytesOf(c.Blobs.Bytes),
		artifact.Count(c.Uploads.Count, "upload"), bytesOf(c.Uploads.Bytes), artifact.Count(c.Files.Count, "leftover file"), bytesOf(c.Files.Bytes))
	fmt.Fprintf(w, "%s %s from repositories whose manifests do not need them\n", verb, artifact.Count(c.Links.Count, "blob"))
	fmt.Fprintf(w, "%s %s\n", freed, bytesOf(c.Freed))
}
