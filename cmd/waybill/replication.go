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
)

func newReplication() *cobra.Command {
	cmd := &cobra.Command{Use: "replication", Short: "See how far the copies to other registries are"}
	cmd.AddCommand(newReplicationStatus())
	return cmd
}

func newReplicationStatus() *cobra.Command {
	cmd := &cobra.Command{Use: "status [SERVICE]", Short: "Show the last state of each copy of a promoted digest, newest first", Args: upTo(1)}
	output := outputFlag(cmd)
	limit := cmd.Flags().Int("limit", 1000, "at most so many `copies`")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		query := url.Values{}
		if len(args) == 1 {
			query.Set("service", args[0])
		}
		out := server.ReplicationList{Replications: []artifact.Replication{}}
		for len(out.Replications) < *limit {
			query.Set("limit", strconv.Itoa(min(*limit-len(out.Replications), 1000)))
			var page server.ReplicationList
			if err := c.get(ctx, "/replications", query, &page); err != nil {
				return err
			}
			if out.Replications = append(out.Replications, page.Replications...); page.Next == "" {
				break
			}
			query.Set("after", page.Next)
		}
		return output.show(cmd, out, func(w io.Writer) { printReplications(w, out.Replications) })
	})
	return cmd
}

func printReplications(w io.Writer, all []artifact.Replication) {
	if len(all) == 0 {
		fmt.Fprintln(w, "nothing was replicated; the server's configuration says what is, under replication")
		return
	}
	t := newTable(w, "target", "repository", "environment", "version", "digest", "state", "since", "attempts", "problem")
	for _, r := range all {
		t.AppendRow([]any{printable(r.Target), r.Repository, r.Environment, orDash(r.Version), shortDigest(r.Digest), r.State, stamp(r.Since), r.Attempts, clip(r.Problem, 100)})
	}
	t.Render()
}
