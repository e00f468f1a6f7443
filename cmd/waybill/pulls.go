package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/server"
)

func newPulls() *cobra.Command {
	var principal, from, to string
	cmd := &cobra.Command{
		Use:   "pulls [REPO|REPO:TAG|REPO@DIGEST]",
		Short: "Show who pulled what on which day",
		Long: `Show who pulled what, how often, and when first and last, by token, digest and day (of UTC). Pulls are kept when the
image is removed. For a token of role auditor or admin.`,
		Example: "  waybill pulls shop/returns:v456\n  waybill pulls --principal token:cluster-7/k3v9 --from 2026-10-01 --to 2026-10-31 -o csv",
		Args:    upTo(1),
	}
	output := tableFlag(cmd)
	cmd.Flags().StringVar(&principal, "principal", "", "only what this `name` pulled, as the ledger names it: token:NAME/ID")
	cmd.Flags().StringVar(&from, "from", "", "the first `day`: 2026-10-01")
	cmd.Flags().StringVar(&to, "to", "", "the last `day`: 2026-10-31")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		args, err := c.localAll(args)
		if err != nil {
			return err
		}
		query := url.Values{}
		for name, value := range map[string]string{"principal": principal, "from": from, "to": to} {
			if value != "" {
				query.Set(name, value)
			}
		}
		if len(args) == 1 {
			query.Set("ref", args[0])
		}
		return showPulls(ctx, cmd, c, output, query)
	})
	return cmd
}

// pullList is all pages of the answer.
type pullList struct {
	Pulls []artifact.PullDay `json:"pulls"`
}

func showPulls(ctx context.Context, cmd *cobra.Command, c *client, output *tableFormat, query url.Values) error {
	out := pullList{Pulls: []artifact.PullDay{}}
	query.Set("limit", "1000")
	for {
		var page server.PullPage
		if err := c.get(ctx, "/pulls", query, &page); err != nil {
			var refused problemError
			if errors.As(err, &refused) && refused.Status == http.StatusBadRequest {
				return usageError{err}
			}
			return err
		}
		out.Pulls = append(out.Pulls, page.Pulls...)
		if page.Next == "" || page.Next == query.Get("after") {
			break
		}
		query.Set("after", page.Next)
	}
	rows := make([][]string, len(out.Pulls))
	for i, p := range out.Pulls {
		rows[i] = []string{p.Day.Format(time.DateOnly), p.Repository.String(), p.Digest.String(), p.Principal, strconv.FormatInt(p.Pulls, 10), instant(p.First), instant(p.Last)}
	}
	head := []string{"day", "repository", "digest", "by", "pulls", "first", "last"}
	return output.show(cmd, out, head, rows, func(w io.Writer) {
		t := newTable(w, "day", "repository", "digest", "by", "pulls", "last")
		for _, p := range out.Pulls {
			t.AppendRow([]any{p.Day.Format(time.DateOnly), p.Repository, shortDigest(p.Digest), printable(p.Principal), p.Pulls, stamp(p.Last)})
		}
		t.Render()
	})
}
