package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/server"
	"waybill/storage"
)

func newStorage() *cobra.Command {
	var (
		sort  string
		limit int
	)
	cmd := &cobra.Command{
		Use:   "storage [NAME]",
		Short: "Show what repositories hold, alone and together with others, and their quotas",
		Long: `Show what repositories hold, the largest first; with NAME, those whose name holds it. "own" is the size of the blobs that no
other repository has: what would go with this one. It and the total are told to who may look at every repository.`,
		Example: "  waybill storage\n  waybill storage shop/ --sort own",
		Args:    upTo(1),
	}
	output := outputFlag(cmd)
	cmd.Flags().StringVar(&sort, "sort", "size", "`order`: size, own or name")
	cmd.Flags().IntVar(&limit, "limit", 100, "so many `repositories` at most")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		query := url.Values{"sort": {sort}, "limit": {strconv.Itoa(limit)}}
		if len(args) == 1 {
			query.Set("match", args[0])
		}
		var out server.StorageUsage
		if err := c.get(ctx, "/storage", query, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) { printStorage(w, out) })
	})
	cmd.AddCommand(newStorageRuns())
	return cmd
}

func printStorage(w io.Writer, u server.StorageUsage) {
	t := newTable(w, "repository", "blobs", "size", "own", "shared", "quota", "used")
	for _, r := range u.Repositories {
		own, shared, quota, used := "-", "-", "-", "-"
		if r.Own != nil {
			own, shared = bytesOf(*r.Own), bytesOf(r.Bytes-*r.Own)
		}
		if r.Quota > 0 {
			quota, used = bytesOf(r.Quota)+" ("+printable(r.Document)+")", fmt.Sprintf("%d %%", 100*r.Bytes/r.Quota)
		}
		t.AppendRow([]any{printable(r.Repository.String()), r.Blobs, bytesOf(r.Bytes), own, shared, quota, used})
	}
	t.Render()
	if more := u.Of - len(u.Repositories); more > 0 {
		fmt.Fprintf(w, "and %d more\n", more)
	}
	if s := u.Total; s != nil {
		fmt.Fprintf(w, "\n%s in %s", bytesOf(s.Bytes), artifact.Count(s.Blobs, "blob"))
		if s.Quota > 0 {
			fmt.Fprintf(w, " of %s", bytesOf(s.Quota))
		}
		fmt.Fprintf(w, "; %s of it in several repositories, %s in none, and %s of uploads under way\n", bytesOf(s.Shared), bytesOf(s.Loose), bytesOf(s.Uploads))
	}
	fmt.Fprintf(w, "counted %s\n", stamp(u.CountedAt))
}

func newStorageRuns() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:     "runs [gc|fsck|retention]",
		Short:   "Show what garbage collections, checks of the blobs and runs of retention came to, newest first",
		Example: "  waybill storage runs fsck",
		Args:    upTo(1),
	}
	output := outputFlag(cmd)
	cmd.Flags().IntVar(&limit, "limit", 20, "so many `runs` of each kind at most")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		kinds := []string{storage.RunCollection, storage.RunCheck, storage.RunRetention}
		if len(args) == 1 {
			kinds = args
		}
		out := server.StorageRuns{Runs: []storage.Run{}}
		for _, kind := range kinds {
			var some server.StorageRuns
			if err := c.get(ctx, "/storage/runs", url.Values{"kind": {kind}, "limit": {strconv.Itoa(limit)}}, &some); err != nil {
				return err
			}
			out.Runs = append(out.Runs, some.Runs...)
		}
		return output.show(cmd, out, func(w io.Writer) { printRuns(w, out.Runs) })
	})
	return cmd
}

func printRuns(w io.Writer, runs []storage.Run) {
	t := newTable(w, "kind", "began", "took", "by", "came to")
	for _, r := range runs {
		t.AppendRow([]any{r.Kind, stamp(r.BeganAt), r.EndedAt.Sub(r.BeganAt).Round(1e6), printable(r.Actor), clip(runOutcome(r), 100)})
	}
	t.Render()
}

func runOutcome(r storage.Run) string {
	o := r.Outcome
	var text string
	switch r.Kind {
	case storage.RunCheck:
		text = fmt.Sprintf("read %s, %s; something is wrong with %d", artifact.Count(o.Blobs, "blob"), bytesOf(o.Bytes), o.Findings)
	case storage.RunRetention:
		text = fmt.Sprintf("removed %d and skipped %d in %d repositories", o.Removed, o.Skipped, o.Documents)
	default:
		text = fmt.Sprintf("removed %d and freed %s", o.Removed, bytesOf(o.Freed))
	}
	if r.Problem != "" {
		text += "; " + printable(r.Problem)
	}
	return text
}
