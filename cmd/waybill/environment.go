package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/server"
)

func newEnvironment() *cobra.Command {
	cmd := &cobra.Command{Use: "environment", Short: "Let go of environments"}
	cmd.AddCommand(newEnvironmentRetire())
	return cmd
}

func newEnvironmentRetire() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "retire ENVIRONMENT --reason TEXT",
		Short: "Let go of an environment that no pipeline names",
		Long: `Let go of an environment that no pipeline names any more: its deployers pull nothing from then on, in any repository. Should
it ever come back, what was promoted to it counts as not promoted there.`,
		Args: exactly(1, "ENVIRONMENT"),
	}
	output := outputFlag(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "`text` for the record")
	_ = cmd.MarkFlagRequired("reason")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		var out server.Retired
		if err := c.post(ctx, "/environments/retire", server.RetireRequest{Environment: args[0], Reason: reason}, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) {
			fmt.Fprintf(w, "retired %s, from which %s could be pulled\n", out.Environment, artifact.Count(out.Digests, "digest"))
		})
	})
	return cmd
}
