package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/server"
)

func newApprove() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "approve SERVICE VERSION ENVIRONMENT",
		Short: "Approve that a version goes to an environment",
		Long: `Approve that a version goes to an environment: the digest that it means now, and no other. It takes a token of the role
that the environment's pipeline names, which is approver where it names none. Nobody's approval counts for what they
promote themselves, nor, unless the pipeline says notPusher: false, for what they pushed.`,
		Example: "  waybill approve returns v456 production --reason 'load test 88 is fine'",
		Args:    exactly(3, "SERVICE", "VERSION", "ENVIRONMENT"),
	}
	output := outputFlag(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "`text` for the record")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		args, err := c.localAll(args)
		if err != nil {
			return err
		}
		var out artifact.Approval
		if err := c.post(ctx, "/approvals", server.ApprovalRequest{Service: args[0], Version: args[1], Environment: args[2], Reason: reason}, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) {
			fmt.Fprintf(w, "approval %d: %s@%s may go to %s, says %s\n", out.ID, out.Repository, out.Digest, out.Environment, printable(out.Actor))
		})
	})
	return cmd
}

func newApprovals() *cobra.Command {
	cmd := &cobra.Command{Use: "approvals", Short: "See what waits for approvals, or revoke one", Args: exactly(0)}
	output := outputFlag(cmd)
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		var out server.WaitingApprovals
		if err := c.get(ctx, "/approvals", nil, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) { printWaiting(w, out.Waiting) })
	})
	cmd.AddCommand(newApprovalsRevoke())
	return cmd
}

func printWaiting(w io.Writer, all []server.WaitingApproval) {
	if len(all) == 0 {
		fmt.Fprintln(w, "nothing waits for an approval")
		return
	}
	t := newTable(w, "repository", "environment", "version", "digest", "approvals", "role", "by")
	for _, one := range all {
		by := make([]string, len(one.Approvals))
		for i, a := range one.Approvals {
			by[i] = fmt.Sprintf("%s (%d)", printable(a.Actor), a.ID)
		}
		t.AppendRow([]any{one.Repository, one.Environment, orDash(one.Version), one.Digest, fmt.Sprintf("%d of %d", len(one.Approvals), one.Count), one.Role, orDash(strings.Join(by, ", "))})
	}
	t.Render()
}

func newApprovalsRevoke() *cobra.Command {
	cmd := &cobra.Command{Use: "revoke ID", Short: "Revoke an approval; what was promoted stays so", Args: exactly(1, "ID")}
	output := outputFlag(cmd)
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		id, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil || id < 1 {
			return usagef("approval %.40q: want a number, as `waybill approve` and `waybill approvals` show it", args[0])
		}
		var out artifact.Approval
		if err := c.do(ctx, http.MethodDelete, "/approvals/"+strconv.FormatInt(id, 10), nil, "", nil, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) {
			fmt.Fprintf(w, "approval %d of %s@%s for %s is revoked\n", out.ID, out.Repository, out.Digest, out.Environment)
		})
	})
	return cmd
}
