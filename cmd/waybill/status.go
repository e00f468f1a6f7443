package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/server"
)

func newStatus() *cobra.Command {
	var at string
	cmd := &cobra.Command{
		Use:     "status [SERVICE]",
		Short:   "Show what runs where: services by environments",
		Example: "  waybill status\n  waybill status returns --at 2026-10-01T12:00Z\n  waybill status --at 2026-10-01 -o csv",
		Args:    upTo(1),
	}
	output := tableFlag(cmd)
	cmd.Flags().StringVar(&at, "at", "", "what ran at a `time`: 2026-10-01T12:00Z, or 2026-10-01 for its midnight (UTC)")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		query := url.Values{}
		if at != "" {
			query.Set("at", at)
		}
		if len(args) == 1 {
			query.Set("service", args[0])
		}
		var out server.Board
		var refused problemError
		if err := c.get(ctx, "/status", query, &out); at != "" && errors.As(err, &refused) && refused.Status == http.StatusBadRequest {
			return usagef("--at: %w", err)
		} else if err != nil {
			return err
		}
		rows := make([][]string, 0, len(out.Cells)+len(out.Recalled))
		for _, c := range out.Cells {
			rows = append(rows, []string{c.Repository.String(), c.Environment.String(), c.Digest.String(), c.Version, instant(c.Since), c.Actor, c.Reason, string(c.Verdict), "runs"})
		}
		for _, r := range out.Recalled {
			rows = append(rows, []string{r.Repository.String(), r.Environment.String(), r.Digest.String(), r.Version, instant(r.RecalledAt), r.RecalledBy, r.Why, string(artifact.Deny), "recalled"})
		}
		head := []string{"repository", "environment", "digest", "version", "since", "by", "reason", "verdict", "state"}
		return output.show(cmd, out, head, rows, func(w io.Writer) { printBoard(w, out) })
	})
	return cmd
}

// printBoard prints a row per service and a column per environment.
func printBoard(w io.Writer, b server.Board) {
	if len(b.Cells)+len(b.Recalled) == 0 {
		fmt.Fprintln(w, "nothing is promoted; promote with `waybill promote SERVICE VERSION ENVIRONMENT`")
		return
	}
	head := []any{"service"}
	for _, e := range b.Environments {
		head = append(head, e.String())
	}
	t := newTable(w, head...)
	var (
		rows  []artifact.Repository
		cells = map[artifact.Repository]map[artifact.Environment]artifact.Status{}
	)
	for _, c := range b.Cells {
		if cells[c.Repository] == nil {
			cells[c.Repository] = map[artifact.Environment]artifact.Status{}
			rows = append(rows, c.Repository)
		}
		cells[c.Repository][c.Environment] = c
	}
	recalled := map[server.Place]artifact.Withdrawn{}
	for _, one := range b.Recalled {
		recalled[server.Place{Repository: one.Repository, Environment: one.Environment}] = one
		if !slices.Contains(rows, one.Repository) {
			rows = append(rows, one.Repository)
		}
	}
	slices.SortFunc(rows, func(x, y artifact.Repository) int { return strings.Compare(x.String(), y.String()) })
	for _, r := range rows {
		row := []any{r.String()}
		for _, e := range b.Environments {
			place := server.Place{Repository: r, Environment: e}
			c, runs := cells[r][e]
			was, is := recalled[place]
			switch {
			case runs:
				row = append(row, cellText(w, c, b.At))
			case is:
				row = append(row, paint(w, text.Colors{text.FgRed, text.Bold}, "recalled")+" "+ageOf(b.At.Sub(was.RecalledAt)))
			case slices.Contains(b.Hidden, place):
				row = append(row, "hidden")
			default:
				row = append(row, "-")
			}
		}
		t.AppendRow(row)
	}
	t.Render()
	for left := b.Recalled; len(left) > 0; {
		n := slices.IndexFunc(left, func(one artifact.Withdrawn) bool {
			return one.Repository != left[0].Repository || one.Digest != left[0].Digest
		})
		if n < 0 {
			n = len(left)
		}
		printWithdrawn(w, left[:n])
		left = left[n:]
	}
}

// printWithdrawn says what environments ran, and who took it away, when and why. All ran the same.
func printWithdrawn(w io.Writer, all []artifact.Withdrawn) {
	one, why := all[0], all[0].Why
	if one.Advisory != "" {
		why += ", see " + one.Advisory
	}
	fmt.Fprintf(w, "\n%s: %s was recalled at %s by %s: %s\n", one.Repository, strings.TrimSpace(printable(one.Version)+" "+one.Digest.String()), stamp(one.RecalledAt), printable(one.RecalledBy), printable(why))
	for _, one := range all {
		fmt.Fprintf(w, "  %s ran it since %s, and runs nothing now; `waybill rollback %s %s` brings back what ran before\n", one.Environment, stamp(one.Since), one.Repository, one.Environment)
	}
}

// cellText says what runs, since when, and what is wrong with it if something is.
func cellText(w io.Writer, c artifact.Status, now time.Time) string {
	parts := []string{}
	if c.Version != "" && !strings.Contains(c.Version, ":") {
		parts = append(parts, printable(c.Version))
	}
	parts = append(parts, shortDigest(c.Digest), ageOf(now.Sub(c.Since)))
	if c.Verdict != "" && c.Verdict != artifact.Allow {
		parts = append(parts, outcomeColour(w, c.Verdict))
	}
	if c.Bad != nil {
		parts = append(parts, "turned bad: "+string(c.Bad.Response))
	}
	switch {
	case c.Scan == "": // of the past, where no scan is told
	case c.Scan != artifact.Scanned:
		parts = append(parts, "scan "+string(c.Scan))
	default:
		for _, s := range []artifact.Severity{artifact.Critical, artifact.High} {
			if n := c.Counts[s]; n > 0 {
				parts = append(parts, severityColour(w, s, fmt.Sprintf("%d %s", n, s)))
			}
		}
	}
	return strings.Join(parts, " ")
}
