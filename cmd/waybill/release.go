package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/server"
)

func newRelease() *cobra.Command {
	cmd := &cobra.Command{Use: "release", Short: "Promote many services together, or none"}
	cmd.AddCommand(newReleaseCreate(), newReleaseList(), newReleaseShow(), newReleasePromote())
	return cmd
}

func newReleaseCreate() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:     "create NAME SERVICE@VERSION…",
		Short:   "Put versions of services together under a name; it never changes",
		Example: "  waybill release create shop-2026.47 returns@v456 cart@v81",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef("%s: %s is missing\nUsage: %s", cmd.CommandPath(), []string{"NAME", "SERVICE@VERSION"}[len(args)], cmd.UseLine())
			}
			return nil
		},
	}
	output := outputFlag(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "`text` for the record")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		in := server.ReleaseRequest{Name: args[0], Reason: reason}
		for _, arg := range args[1:] {
			ref, err := c.local(arg)
			if err != nil {
				return err
			}
			service, version, ok := strings.Cut(ref, "@")
			if !ok || service == "" || version == "" {
				return usagef("%.200q: want SERVICE@VERSION, such as returns@v456", arg)
			}
			in.Services = append(in.Services, server.ServiceVersion{Service: service, Version: version})
		}
		var out artifact.Release
		if err := c.post(ctx, "/releases", in, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) { printRelease(w, out) })
	})
	return cmd
}

func printRelease(w io.Writer, r artifact.Release) {
	fmt.Fprintf(w, "release %s by %s at %s\n", printable(r.Name), printable(r.Actor), stamp(r.At))
	t := newTable(w, "repository", "version", "digest")
	for _, s := range r.Services {
		t.AppendRow([]any{s.Repository, orDash(s.Version), s.Digest})
	}
	t.Render()
}

func newReleaseList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List releases, newest first", Args: exactly(0)}
	output := outputFlag(cmd)
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		out := server.ReleaseList{Releases: []artifact.Release{}}
		for query := (url.Values{}); ; {
			var page server.ReleaseList
			if err := c.get(ctx, "/releases", query, &page); err != nil {
				return err
			}
			if out.Releases = append(out.Releases, page.Releases...); page.Next == "" {
				break
			}
			query.Set("after", page.Next)
		}
		return output.show(cmd, out, func(w io.Writer) {
			if none(w, len(out.Releases), "there is no release; make one with `waybill release create NAME SERVICE@VERSION…`") {
				return
			}
			t := newTable(w, "name", "at", "by", "services", "reason")
			for _, r := range out.Releases {
				t.AppendRow([]any{printable(r.Name), stamp(r.At), printable(r.Actor), len(r.Services), clip(r.Reason, 60)})
			}
			t.Render()
		})
	})
	return cmd
}

func newReleaseShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME", Short: "Show what is in a release", Args: exactly(1, "NAME")}
	output := outputFlag(cmd)
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		var out artifact.Release
		if err := c.get(ctx, "/releases/"+url.PathEscape(args[0]), nil, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) { printRelease(w, out) })
	})
	return cmd
}

func newReleasePromote() *cobra.Command {
	var (
		in      server.ReleasePromotion
		wait    bool
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "promote NAME ENVIRONMENT",
		Short: "Promote all of a release in one transaction, or nothing; every gate of every service that is not met is listed",
		Args:  exactly(2, "NAME", "ENVIRONMENT"),
	}
	output := outputFlag(cmd)
	cmd.Flags().StringVar(&in.Reason, "reason", "", "`text` for the record")
	cmd.Flags().BoolVar(&in.DryRun, "dry-run", false, "evaluate every gate, change nothing")
	cmd.Flags().BoolVar(&in.Override, "override", false, "promote it though gates are not met; takes role admin and --reason")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait for gates that time, people or the server will meet")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Hour, "how long to --wait, a `time` such as 90s, 30m or 4h")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		in.Environment = args[1]
		var out server.PromotedRelease
		try := func() error { return c.post(ctx, "/releases/"+url.PathEscape(args[0])+"/promotions", in, &out) }
		if !wait {
			timeout = 0
		}
		if err := waitFor(ctx, cmd.ErrOrStderr(), timeout, try); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) {
			t := newTable(w, "repository", "version", "digest", "environment", "entry")
			for _, p := range out.Promoted {
				entry := fmt.Sprint(p.LedgerIndex)
				if p.Unchanged || p.DryRun {
					entry = "-"
				}
				t.AppendRow([]any{p.Repository, orDash(p.Version), p.Digest, p.Environment, entry})
			}
			t.Render()
		})
	})
	return cmd
}
