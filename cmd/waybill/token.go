package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/server"
)

func newToken() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Make, list and revoke tokens"}
	cmd.AddCommand(newTokenCreate(), newTokenList(), newTokenRevoke())
	return cmd
}

func newTokenCreate() *cobra.Command {
	var (
		role, name, expires        string
		repositories, environments []string
	)
	cmd := &cobra.Command{
		Use:   "create --role ROLE",
		Short: "Make a token and print it, alone and this once",
		Example: `  waybill token create --role pusher --repository 'shop/**'
  waybill token create --role deployer --environment production --expires 30d`,
		Args: exactly(0),
	}
	output := outputFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&role, "role", "", "`role`: "+roleNames())
	flags.StringVar(&name, "name", "", "`name` for people and the ledger (default the role)")
	flags.StringArrayVar(&repositories, "repository", nil, "`glob` of repositories; may be repeated; none means every one")
	flags.StringArrayVar(&environments, "environment", nil, "`name` of an environment, for deployers and promoters; may be repeated")
	flags.StringVar(&expires, "expires", "90d", "how long it is valid: `time` such as 12h or 90d")
	_ = cmd.MarkFlagRequired("role")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		if !slices.Contains(artifact.Roles, artifact.Role(role)) {
			return usagef("role %.40q: want one of %s", role, roleNames())
		}
		life, err := parseLife(expires)
		if err != nil {
			return err
		}
		in := server.TokenRequest{Name: name, Role: artifact.Role(role), Repositories: repositories, Environments: environments, Expires: time.Now().Add(life).UTC()}
		var out server.TokenCreated
		if err := c.post(ctx, "/tokens", in, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) { fmt.Fprintln(w, out.Secret) })
	})
	return cmd
}

func roleNames() string {
	names := make([]string, len(artifact.Roles))
	for i, r := range artifact.Roles {
		names[i] = string(r)
	}
	return strings.Join(names, ", ")
}

// parseLife reads a duration as time.ParseDuration does, and days besides: 90d.
func parseLife(s string) (time.Duration, error) {
	days, isDays := strings.CutSuffix(s, "d")
	if n, err := strconv.Atoi(days); isDays && err == nil && n > 0 && n <= 36500 {
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, usagef("duration %.40q: want such as 30m, 12h or 90d", s)
	}
	return d, nil
}

func newTokenList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List tokens, without their secrets", Args: exactly(0)}
	output := outputFlag(cmd)
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		var out server.TokenList
		if err := c.get(ctx, "/tokens", nil, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) {
			t := newTable(w, "id", "name", "role", "repositories", "environments", "by", "expires", "state")
			for _, k := range out.Tokens {
				state := "valid"
				if !k.RevokedAt.IsZero() {
					state = "revoked"
				} else if time.Now().After(k.ExpiresAt) {
					state = "expired"
				}
				environments := make([]string, len(k.Environments))
				for i, e := range k.Environments {
					environments[i] = e.String()
				}
				t.AppendRow([]any{k.ID, printable(k.Name), (artifact.Principal{Role: k.Role, More: k.More}).Roles(), orDash(strings.Join(k.Repositories, " ")), orDash(strings.Join(environments, " ")), printable(k.CreatedBy), stamp(k.ExpiresAt), state})
			}
			t.Render()
		})
	})
	return cmd
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return printable(s)
}

func newTokenRevoke() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID",
		Short: "Revoke a token at once",
		Args:  exactly(1, "ID"),
		RunE: withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
			if err := c.do(ctx, http.MethodDelete, "/tokens/"+url.PathEscape(args[0]), nil, "", nil, nil); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "Revoked %s\n", args[0])
			return nil
		}),
	}
}
