package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/server"
)

func newPulls() *cobra.Command {
	var principal, from, to string
	var all bool
	cmd := &cobra.Command{
		Use:   "pulls [REPO|REPO:TAG|REPO@DIGEST]",
		Short: "Show who pulled what on which day",
		Long: `Show who pulled what, how often, and when first and last, by token, digest and day (of UTC). Pulls are kept when the
image is removed. What verifies an image also pulls its signatures and attestations, which are manifests of their own: they
are told with --all. For a token of role auditor or admin.`,
		Example: "  waybill pulls shop/returns:v456\n  waybill pulls --principal token:cluster-7/k3v9 --from 2026-10-01 --to 2026-10-31 -o csv",
		Args:    upTo(1),
	}
	output := tableFlag(cmd)
	cmd.Flags().StringVar(&principal, "principal", "", "only what this `name` pulled, as the ledger names it: token:NAME/ID")
	cmd.Flags().StringVar(&from, "from", "", "the first `day` (UTC): 2026-10-01")
	cmd.Flags().StringVar(&to, "to", "", "the last `day` (UTC), which is in it: 2026-10-31")
	cmd.Flags().BoolVar(&all, "all", false, "pulls of signatures, attestations and SBOMs too")
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
		return showPulls(ctx, cmd, c, output, query, all)
	})
	return cmd
}

// pullList is all pages of the answer.
type pullList struct {
	Pulls []artifact.PullDay `json:"pulls"`
}

// showPulls leaves out what is attached to images unless all is asked for.
func showPulls(ctx context.Context, cmd *cobra.Command, c *client, output *tableFormat, query url.Values, all bool) error {
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
	attached := len(out.Pulls)
	if !all {
		out.Pulls = slices.DeleteFunc(out.Pulls, func(p artifact.PullDay) bool { return p.Type == artifact.PulledAttached })
	}
	attached -= len(out.Pulls)
	rows := make([][]string, len(out.Pulls))
	for i, p := range out.Pulls {
		rows[i] = []string{p.Day.Format(time.DateOnly), p.Repository.String(), p.Digest.String(), p.Principal, strconv.FormatInt(p.Pulls, 10), instant(p.First), instant(p.Last), string(p.Type)}
	}
	head := []string{"day", "repository", "digest", "by", "pulls", "first", "last", "type"}
	return output.show(cmd, out, head, rows, func(w io.Writer) {
		if attached > 0 {
			fmt.Fprintf(cmd.ErrOrStderr(), "%d rows of signatures and attestations are left out; --all shows them\n", attached)
		}
		if len(out.Pulls) == 0 {
			fmt.Fprintln(w, "no pull is recorded; one is after at most ten seconds")
			return
		}
		t := newTable(w, "day", "repository", "digest", "by", "pulls", "last", "type")
		for _, p := range out.Pulls {
			t.AppendRow([]any{p.Day.Format(time.DateOnly), p.Repository, shortDigest(p.Digest), printable(p.Principal), p.Pulls, stamp(p.Last), orDash(string(p.Type))})
		}
		t.Render()
	})
}
