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

func newKey() *cobra.Command {
	cmd := &cobra.Command{Use: "key", Short: "Public keys; rotate and revoke the ones that sign"}
	cmd.AddCommand(newKeyPublic(),
		newKeyPrinter("ledger", "Print the verifier key of the ledger's checkpoints", func(k server.PublicKeys) (string, error) { return k.LedgerVerifier, nil }),
		newKeyList(), newKeyRotate(), newKeyRevoke(),
	)
	return cmd
}

func newKeyPublic() *cobra.Command {
	var id string
	var all bool
	cmd := newKeyPrinter("public", "Print the public key of signatures, for cosign verify --key", func(k server.PublicKeys) (string, error) {
		if id == "" && !all {
			return k.PublicKeyPEM, nil
		}
		var found []string
		for _, key := range k.Keys {
			if all && key.Revoked == nil || id != "" && strings.HasPrefix(key.ID, id) {
				found = append(found, strings.TrimSpace(key.PublicKeyPEM))
			}
		}
		if len(found) == 0 || id != "" && len(found) > 1 {
			return "", fmt.Errorf("%d keys have an id that begins with %q; `waybill key list` shows all", len(found), id)
		}
		return strings.Join(found, "\n"), nil
	})
	cmd.Flags().StringVar(&id, "id", "", "the key whose `id` begins so, also one that signs no longer")
	cmd.Flags().BoolVar(&all, "all", false, "all keys that were not revoked, the one that signs first, for waybill verify --key")
	cmd.MarkFlagsMutuallyExclusive("id", "all")
	return cmd
}

func newKeyPrinter(use, short string, pick func(server.PublicKeys) (string, error)) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: exactly(0)}
	output := outputFlag(cmd)
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		var out server.PublicKeys
		if err := c.get(ctx, "/keys", nil, &out); err != nil {
			return err
		}
		text, err := pick(out)
		if err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) { fmt.Fprintln(w, strings.TrimRight(printable(text), "\n")) })
	})
	return cmd
}

func newKeyList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "The keys that ever signed: who put each in force, and who revoked it", Args: exactly(0)}
	output := outputFlag(cmd)
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		var out server.SigningKeyList
		if err := c.get(ctx, "/signing-keys", nil, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) {
			t := newTable(w, "key", "algorithm", "since", "until", "by", "reason", "state", "private half")
			for _, k := range out.Keys {
				t.AppendRow([]any{k.ID[:min(len(k.ID), 16)], k.Algorithm, stamp(k.Since), stamp(k.Until), printable(k.AddedBy), clip(k.Reason, 60), keyState(k), printable(k.Reference)})
			}
			t.Render()
		})
	})
	return cmd
}

func keyState(k artifact.SigningKey) string {
	switch r := k.Revocation; {
	case k.InForce():
		return "signs"
	case r == nil:
		return "its signatures count"
	case r.Before.IsZero():
		return printable(fmt.Sprintf("revoked %s by %s: %s", stamp(r.At), r.By, r.Reason))
	default:
		return printable(fmt.Sprintf("revoked %s by %s, but for signatures before %s: %s", stamp(r.At), r.By, stamp(r.Before), r.Reason))
	}
}

func newKeyRotate() *cobra.Command {
	var in struct {
		Key      string `json:"key,omitempty"`
		Replaces string `json:"replaces"`
		Reason   string `json:"reason"`
	}
	cmd := &cobra.Command{
		Use:   "rotate --reason TEXT",
		Short: "Put another signing key in force",
		Long: `Put another key in force, on every replica within a second: it signs from then on. What the keys before it signed counts
still, until they are revoked. Without --key the server makes a new key, or, where its configuration has a signer.key, takes
the one that is there by now: rotate it in the KMS first, or put another file in its place.`,
		Example: "  waybill key rotate --reason 'yearly'\n  waybill key rotate --key hashivault://waybill-2027 --reason 'yearly'",
		Args:    exactly(0),
	}
	output := outputFlag(cmd)
	cmd.Flags().StringVar(&in.Key, "key", "", "key in a KMS: `URI` such as hashivault://waybill-2027")
	cmd.Flags().StringVar(&in.Reason, "reason", "", "`text` for the ledger: why")
	_ = cmd.MarkFlagRequired("reason")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		var now server.PublicKeys
		if err := c.get(ctx, "/keys", nil, &now); err != nil {
			return err
		}
		in.Replaces = now.KeyID
		var out artifact.SigningKey
		if err := c.post(ctx, "/signing-keys", in, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) {
			fmt.Fprintf(w, "key %s signs from now on; %.16s did until now, and what it signed counts still (entry %d)\n", out.ID, now.KeyID, out.LedgerIndex)
			fmt.Fprintln(w, "give its public key, `waybill key public`, to whoever verifies with cosign")
		})
	})
	return cmd
}

func newKeyRevoke() *cobra.Command {
	var reason, before string
	cmd := &cobra.Command{
		Use:   "revoke KEY --reason TEXT",
		Short: "End that a key's signatures count; what it signed is signed again",
		Long: `End that the signatures of a key, which no longer signs, count: for promotions, for gates that ask for attestations, and for
waybill verify. What it signed is judged and signed again by the key in force. With --before, signatures count still that
the ledger proves to be older than an instant, such as the one at which the key was lost. KEY is an id, or what it begins with.`,
		Example: "  waybill key revoke 3f1c9a04be52d178 --reason 'laptop lost' --before 2026-11-01T12:00:00Z",
		Args:    exactly(1, "KEY"),
	}
	output := outputFlag(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "`text` for the ledger: why")
	cmd.Flags().StringVar(&before, "before", "", "signatures older than this `time`, 2026-11-01T12:00:00Z, count still")
	_ = cmd.MarkFlagRequired("reason")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		in := map[string]any{"reason": reason}
		if before != "" {
			t, err := time.Parse(time.RFC3339, before)
			if err != nil {
				return usagef("--before %.40q: want an instant such as 2026-11-01T12:00:00Z", before)
			}
			in["before"] = t
		}
		var known server.SigningKeyList
		if err := c.get(ctx, "/signing-keys", nil, &known); err != nil {
			return err
		}
		var ids []string
		for _, k := range known.Keys {
			if strings.HasPrefix(k.ID, args[0]) {
				ids = append(ids, k.ID)
			}
		}
		if len(ids) != 1 || len(args[0]) < 8 {
			return usagef("%.80q: want the first 8 or more characters of one key's id; `waybill key list` shows all", args[0])
		}
		var out artifact.SigningKey
		if err := c.post(ctx, "/signing-keys/"+url.PathEscape(ids[0])+"/revocation", in, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) {
			fmt.Fprintf(w, "key %s is revoked (entry %d); what it signed is being signed again\n", out.ID, out.Revocation.LedgerIndex)
		})
	})
	return cmd
}
