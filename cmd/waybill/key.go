package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"waybill/server"
)

func newKey() *cobra.Command {
	cmd := &cobra.Command{Use: "key", Short: "Print the service's public keys"}
	cmd.AddCommand(
		newKeyPrinter("public", "Print the public key of signatures, for cosign verify --key", func(k server.PublicKeys) string { return k.PublicKeyPEM }),
		newKeyPrinter("ledger", "Print the verifier key of the ledger's checkpoints", func(k server.PublicKeys) string { return k.LedgerVerifier }),
	)
	return cmd
}

func newKeyPrinter(use, short string, pick func(server.PublicKeys) string) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: exactly(0)}
	output := outputFlag(cmd)
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		var out server.PublicKeys
		if err := c.get(ctx, "/keys", nil, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) { fmt.Fprintln(w, strings.TrimRight(printable(pick(out)), "\n")) })
	})
	return cmd
}
