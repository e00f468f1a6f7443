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

func newCVE() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "cve ID",
		Short:   "Show which digests have a vulnerability, and where they run",
		Example: "  waybill cve CVE-2024-24790",
		Args:    exactly(1, "ID"),
	}
	output := outputFlag(cmd)
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		all := server.AffectedPage{Affected: []artifact.Affected{}}
		for query := (url.Values{}); ; {
			var page server.AffectedPage
			if err := c.get(ctx, "/cves/"+url.PathEscape(args[0]), query, &page); err != nil {
				return err
			}
			all.ID, all.Database, all.Affected = page.ID, page.Database, append(all.Affected, page.Affected...)
			if page.Next == "" {
				break
			}
			query = url.Values{"after": {page.Next}}
		}
		return output.show(cmd, all, func(w io.Writer) { printAffected(w, all) })
	})
	return cmd
}

func printAffected(w io.Writer, p server.AffectedPage) {
	if !p.Database.Present {
		fmt.Fprintln(w, "no advisory database: nothing is known; import one with `waybill db import FILE`")
		return
	}
	age := ageOf(time.Duration(p.Database.AgeSeconds) * time.Second)
	if len(p.Affected) == 0 {
		fmt.Fprintf(w, "no image that you may see has %s, by advisories that were built %s ago\n", printable(p.ID), age)
		return
	}
	t := newTable(w, "image", "tags", "package", "installed", "fixed in", "found", "promoted", "runs in")
	for _, a := range p.Affected {
		var tags, running []string
		for _, tag := range a.Tags {
			tags = append(tags, tag.String())
		}
		for _, e := range a.RunsIn {
			running = append(running, fmt.Sprintf("%s since %s", e.Environment, stamp(e.Since)))
		}
		promoted := "-"
		if !a.PromotedAt.IsZero() {
			promoted = stamp(a.PromotedAt)
		}
		for i, f := range a.Findings {
			row := []any{"", "", printable(f.Package), orDash(f.Installed), orDash(f.Fixed), stamp(f.FoundAt), "", ""}
			if i == 0 {
				row[0], row[1], row[6], row[7] = a.Repository.String()+"@"+shortDigest(a.Digest), clip(strings.Join(tags, " "), 40), promoted, orDash(strings.Join(running, ", "))
			}
			t.AppendRow(row)
		}
	}
	t.Render()
	fmt.Fprintf(w, "\nby advisories that were built %s ago\n", age)
}
