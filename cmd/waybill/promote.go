package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/server"
)

func newPromote() *cobra.Command {
	var (
		reason           string
		dryRun, override bool
		wait             bool
		timeout          time.Duration
	)
	cmd := &cobra.Command{
		Use:     "promote SERVICE VERSION ENVIRONMENT",
		Aliases: []string{"deploy"},
		Short:   "Promote a version to an environment; every gate that is not met is listed",
		Long: `Promote a version to an environment. SERVICE is a repository, or its last part where that is unique; VERSION is a tag
or a digest. The digest goes to standard output. Where a gate is not met nothing changes, every unmet gate is listed on
standard error, and the exit status is 1.

With --wait it is tried again while all that is not met is what time, people or the server will meet: a soak, a freeze, an
approval, a signature. It ends at once when something else is not met. With --override an admin promotes it though gates are
not met; the ledger keeps which these were and the reason. Policy, a recall and a missing signature cannot be overridden.`,
		Example: "  waybill promote returns v456 production --reason 'release 456'\n  waybill deploy returns v456 production",
		Args:    exactly(3, "SERVICE", "VERSION", "ENVIRONMENT"),
	}
	output := outputFlag(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "`text` for the record")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "evaluate every gate, change nothing")
	cmd.Flags().BoolVar(&override, "override", false, "promote it though gates are not met; takes role admin and --reason")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait for gates that time, people or the server will meet")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Hour, "how long to --wait, a `time` such as 90s, 30m or 4h")
	cmd.MarkFlagsMutuallyExclusive("wait", "dry-run")
	cmd.MarkFlagsMutuallyExclusive("wait", "override")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		args, err := c.localAll(args)
		if err != nil {
			return err
		}
		in := server.PromotionRequest{Service: args[0], Version: args[1], Environment: args[2], Reason: reason, DryRun: dryRun, Override: override}
		if override && reason == "" {
			return usagef("--override wants --reason: it stands in the ledger")
		}
		var out server.Promoted
		try := func() error { return c.post(ctx, "/promotions", in, &out) }
		if !wait {
			timeout = 0
		}
		if err := waitFor(ctx, cmd.ErrOrStderr(), timeout, try); err != nil {
			return err
		}
		return printPromoted(cmd, output, out, "Promoted")
	})
	return cmd
}

func newRollback() *cobra.Command {
	var reason, to string
	cmd := &cobra.Command{
		Use:   "rollback SERVICE ENVIRONMENT",
		Short: "Make an environment's previous digest its current one again, or another that it ran",
		Args:  exactly(2, "SERVICE", "ENVIRONMENT"),
	}
	output := outputFlag(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "`text` for the record")
	cmd.Flags().StringVar(&to, "to", "", "`VERSION`, a tag or a digest that the environment ran before")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		args, err := c.localAll(args)
		if err != nil {
			return err
		}
		var out server.Promoted
		if err := c.post(ctx, "/rollbacks", server.RollbackRequest{Service: args[0], Environment: args[1], Version: to, Reason: reason}, &out); err != nil {
			return err
		}
		return printPromoted(cmd, output, out, "Rolled back")
	})
	return cmd
}

// printPromoted prints the digest alone on standard output, and the rest for people on standard error.
func printPromoted(cmd *cobra.Command, output *format, p server.Promoted, verb string) error {
	note := fmt.Sprintf("%s %s %s to %s, ledger entry %d", verb, p.Repository, p.Version, p.Environment, p.LedgerIndex)
	switch {
	case p.DryRun:
		note = fmt.Sprintf("Every gate is met: %s %s can go to %s; nothing was changed", p.Repository, p.Version, p.Environment)
	case p.Unchanged:
		note = fmt.Sprintf("%s %s is what %s runs already; nothing was changed", p.Repository, p.Version, p.Environment)
	}
	if len(p.Overridden) > 0 {
		note += "; overridden:\n  " + strings.Join(p.Overridden, "\n  ")
	}
	if *output == "text" {
		fmt.Fprintln(cmd.ErrOrStderr(), printable(note))
	}
	return output.show(cmd, p, func(w io.Writer) { fmt.Fprintln(w, p.Digest) })
}

func newRecall() *cobra.Command {
	var reason, advisory string
	cmd := &cobra.Command{
		Use:   "recall" + refUse + " --reason TEXT",
		Short: "Take a digest out of every environment at once, wherever it was copied to",
		Args:  exactly(1, "REPO@DIGEST"),
	}
	output := outputFlag(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "`text` for the record and for whoever is refused")
	cmd.Flags().StringVar(&advisory, "advisory", "", "`URL` of more about why")
	_ = cmd.MarkFlagRequired("reason")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		args, err := c.localAll(args)
		if err != nil {
			return err
		}
		if _, err := artifact.ParseShortReference(args[0]); err != nil {
			return usageError{err}
		}
		if reason == "" {
			return usagef("--reason is empty; whoever is refused wants to know why")
		}
		var out server.Recalled
		if err := c.post(ctx, "/recalls", server.RecallRequest{Ref: args[0], Reason: reason, Advisory: advisory}, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) {
			for _, r := range append([]artifact.Repository{out.Repository}, out.Copies...) {
				fmt.Fprintf(w, "recalled %s@%s\n", r, out.Digest)
			}
			for _, r := range out.Left {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s holds the same digest, and you may not recall it there: that takes a promoter of all its environments\n", r)
			}
		})
	})
	return cmd
}

func newHistory() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "history SERVICE|REPO:TAG|REPO@DIGEST",
		Short:   "Show promotions, rollbacks and recalls of a service, what a tag stood at, or who pulled a digest",
		Example: "  waybill history returns\n  waybill history shop/returns:latest\n  waybill history shop/returns@sha256:… -o csv",
		Args:    exactly(1, "SERVICE, REPO:TAG or REPO@DIGEST"),
	}
	output := tableFlag(cmd)
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		args, err := c.localAll(args)
		if err != nil {
			return err
		}
		if strings.Contains(args[0], "@") {
			return showPulls(ctx, cmd, c, output, url.Values{"ref": {args[0]}}, true)
		}
		if strings.Contains(args[0], ":") {
			return tagHistory(ctx, cmd, c, output, args[0])
		}
		var out server.HistoryList
		if err := c.get(ctx, "/history", url.Values{"service": {args[0]}}, &out); err != nil {
			return err
		}
		rows := make([][]string, len(out.Promotions))
		for i, p := range out.Promotions {
			rows[i] = []string{instant(p.At), p.Action, p.Repository.String(), p.Environment.String(), p.Version, p.Digest.String(), p.Previous.String(), p.Actor, strconv.FormatInt(p.LedgerIndex, 10), p.Reason}
		}
		head := []string{"at", "action", "repository", "environment", "version", "digest", "previous", "by", "entry", "reason"}
		return output.show(cmd, out, head, rows, func(w io.Writer) { printPromotions(w, out.Promotions) })
	})
	return cmd
}

func tagHistory(ctx context.Context, cmd *cobra.Command, c *client, output *tableFormat, ref string) error {
	parsed, err := artifact.ParseReference(ref)
	if err != nil {
		return usageError{err}
	}
	if parsed.Tag.IsZero() {
		return usagef("%.200q: want SERVICE or REPO:TAG; `waybill show` has the story of a digest", ref)
	}
	var out server.TagHistory
	if err := c.get(ctx, "/tags/history", url.Values{"ref": {ref}}, &out); err != nil {
		return err
	}
	rows := make([][]string, len(out.Changes))
	for i, change := range out.Changes {
		rows[i] = []string{instant(change.At), change.Digest.String(), change.Actor}
	}
	return output.show(cmd, out, []string{"at", "digest", "by"}, rows, func(w io.Writer) {
		t := newTable(w, "at", "digest", "by")
		for _, change := range out.Changes {
			stood := "deleted"
			if !change.Digest.IsZero() {
				stood = change.Digest.String()
			}
			t.AppendRow([]any{stamp(change.At), stood, printable(change.Actor)})
		}
		t.Render()
	})
}

func printPromotions(w io.Writer, all []artifact.Promotion) {
	t := newTable(w, "at", "action", "environment", "version", "digest", "previous", "by", "entry", "reason")
	for _, p := range all {
		t.AppendRow([]any{stamp(p.At), p.Action, p.Environment, orDash(p.Version), shortDigest(p.Digest), shortDigest(p.Previous), printable(p.Actor), p.LedgerIndex, clip(p.Reason, 60)})
	}
	t.Render()
}
