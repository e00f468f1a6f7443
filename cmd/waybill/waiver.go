package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/server"
)

func newWaiver() *cobra.Command {
	cmd := &cobra.Command{Use: "waiver", Short: "Except an image or repositories from a rule, for a while"}
	cmd.AddCommand(newWaiverCreate(), newWaiverList(), newWaiverRevoke())
	return cmd
}

func newWaiverCreate() *cobra.Command {
	var rule, digest, repository, expires, reason string
	cmd := &cobra.Command{
		Use:   "create --rule RULE[:FINDING] (--digest DIGEST | --repository PATTERN) --expires 72h|TIME --reason TEXT",
		Short: "Make a warning of what a rule denies, until an instant",
		Long: `Make a warning of what a rule denies, for one digest or for the repositories that a pattern matches, until an instant. It
takes a token of role approver for those repositories, and nobody waives a rule for a digest that they pushed. A digest that
was refused can be named: push it again afterwards.`,
		Example: "  waybill waiver create --rule max-severity:CVE-2024-24790 --digest sha256:… --expires 72h --reason 'not reachable; fixed on Friday'\n" +
			"  waybill waiver create --rule max-size --repository 'ml/**' --expires 2026-12-01 --reason 'models move out of the image'",
		Args: exactly(0),
	}
	output := outputFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&rule, "rule", "", "`RULE`, as the reasons name it, or RULE:FINDING")
	flags.StringVar(&digest, "digest", "", "`DIGEST`, or REPO@DIGEST, of the image or index that it is for")
	flags.StringVar(&repository, "repository", "", "`PATTERN` of the repositories that it is for")
	flags.StringVar(&expires, "expires", "", "`72h`, 30d, or a time such as 2026-10-01T12:00Z")
	flags.StringVar(&reason, "reason", "", "`text` that stands in every verdict which rests on it")
	for _, name := range []string{"rule", "expires", "reason"} {
		_ = cmd.MarkFlagRequired(name)
	}
	cmd.MarkFlagsOneRequired("digest", "repository")
	cmd.MarkFlagsMutuallyExclusive("digest", "repository")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		in := server.WaiverRequest{Rule: rule, Repository: repository, Reason: reason}
		var err error
		if digest != "" {
			if in.Digest, err = c.wholeDigest(ctx, digest); err != nil {
				return err
			}
		}
		if in.Expires, err = parseExpiry(expires, time.Now()); err != nil {
			return err
		}
		var out artifact.Waiver
		if err := c.post(ctx, "/waivers", in, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) {
			fmt.Fprintf(w, "waiver %d: %s is waived for %s until %s\n", out.ID, printable(out.Subject()), printable(waived(out)), stamp(out.ExpiresAt))
		})
	})
	return cmd
}

// wholeDigest reads a digest, with its repository before it or without. One that is cut short, only the server can tell.
func (c *client) wholeDigest(ctx context.Context, s string) (artifact.Digest, error) {
	if ref, err := artifact.ParseShortReference(s); err == nil && ref.Short != "" {
		var v artifact.VerdictRecord
		err := c.get(ctx, "/verdict", url.Values{"ref": {s}}, &v)
		return v.Digest, err
	}
	d, err := artifact.ParseDigest(s[strings.LastIndex(s, "@")+1:])
	if err != nil {
		return d, usageError{fmt.Errorf("%w, or REPO@ and its first %d or more", err, artifact.ShortestDigest)}
	}
	return d, nil
}

// parseExpiry takes a duration from now, with days as well, or a time.
func parseExpiry(s string, now time.Time) (time.Time, error) {
	if life, err := parseLife(s); err == nil {
		return now.Add(life), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("expiry %.50q: want 72h, 30d, 2026-10-01T12:00Z or 2026-10-01", s)
}

// waived is what a waiver is for.
func waived(w artifact.Waiver) string {
	if w.Digest.IsZero() {
		return strings.Join(w.Repositories, " ")
	}
	if len(w.Repositories) > 0 {
		return w.Digest.String() + " in " + strings.Join(w.Repositories, " ")
	}
	return w.Digest.String()
}

func newWaiverList() *cobra.Command {
	var all bool
	cmd := &cobra.Command{Use: "list", Short: "List the waivers in force, newest first", Args: exactly(0)}
	output := outputFlag(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "those that ended, too")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		query := url.Values{}
		if all {
			query.Set("all", "true")
		}
		out := server.WaiverList{Waivers: []artifact.Waiver{}}
		for {
			var page server.WaiverList
			if err := c.get(ctx, "/waivers", query, &page); err != nil {
				return err
			}
			if out.Waivers = append(out.Waivers, page.Waivers...); page.Next == 0 {
				break
			}
			query.Set("before", strconv.FormatInt(page.Next, 10))
		}
		now := time.Now()
		return output.show(cmd, out, func(w io.Writer) {
			if none(w, len(out.Waivers), "no rule is waived") {
				return
			}
			t := newTable(w, "id", "rule", "for", "by", "created", "until", "state", "reason")
			for _, one := range out.Waivers {
				t.AppendRow([]any{one.ID, printable(one.Subject()), printable(waived(one)), printable(one.CreatedBy), stamp(one.CreatedAt), stamp(one.ExpiresAt), waiverState(one, now), clip(one.Reason, 60)})
			}
			t.Render()
		})
	})
	return cmd
}

func waiverState(w artifact.Waiver, now time.Time) string {
	switch {
	case !w.RevokedAt.IsZero():
		return "revoked " + stamp(w.RevokedAt) + " by " + printable(w.RevokedBy)
	case !w.InForce(now):
		return "expired"
	}
	return "in force"
}

func newWaiverRevoke() *cobra.Command {
	cmd := &cobra.Command{Use: "revoke ID", Short: "End a waiver at once", Args: exactly(1, "ID")}
	output := outputFlag(cmd)
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		id, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil || id < 1 {
			return usagef("waiver %.40q: want a number, as `waybill waiver list` shows it", args[0])
		}
		var out artifact.Waiver
		if err := c.do(ctx, http.MethodDelete, "/waivers/"+strconv.FormatInt(id, 10), nil, "", nil, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) { fmt.Fprintf(w, "waiver %d of %s is revoked\n", out.ID, printable(out.Subject())) })
	})
	return cmd
}
