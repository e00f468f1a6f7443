package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/server"
)

func newCompare() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "compare" + refUse + refUse,
		Short:   "Show what two digests differ in: packages, findings, config and files",
		Long:    "Show what the second digest has that the first has not, and the other way round; of indexes, their images of a platform that\nboth have. They may be of two repositories.",
		Example: "  waybill compare shop/returns:v455 shop/returns:v456\n  waybill compare shop/returns:v455 shop/returns:v456 -o json | jq '.difference.findingsIntroduced[].id'",
		Args:    exactly(2, "REPO:TAG or REPO@DIGEST", "another REPO:TAG or REPO@DIGEST"),
	}
	output := outputFlag(cmd)
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		var found server.Comparison
		if err := c.get(ctx, "/compare", url.Values{"from": {args[0]}, "to": {args[1]}}, &found); err != nil {
			return err
		}
		return output.show(cmd, found, func(w io.Writer) { printComparison(w, found) })
	})
	return cmd
}

func printComparison(w io.Writer, c server.Comparison) {
	d := c.Difference
	for _, one := range []struct {
		name  string
		image server.ComparedImage
	}{{"from", c.From}, {"to  ", c.To}} {
		tags := make([]string, len(one.image.Tags))
		for i, t := range one.image.Tags {
			tags[i] = t.String()
		}
		fmt.Fprintf(w, "%s  %s@%s %s  %s, %d layers, %s\n", one.name, one.image.Repository, shortDigest(one.image.Image), clip(strings.Join(tags, " "), 60), orDash(one.image.Platform), one.image.Layers, bytesOf(one.image.Size))
	}
	fmt.Fprintf(w, "%s compressed, %d layers shared\n", changeOf(d.SizeChange), d.Shared)
	if d.Same {
		fmt.Fprintln(w, "nothing that was compared differs")
	}
	if !d.Scanned {
		fmt.Fprintf(w, "packages and findings are not compared: the scans are %s and %s\n", c.From.Scan, c.To.Scan)
	}
	if !d.Stacked {
		fmt.Fprintln(w, "files are not compared: the layers of one of them are not known")
	}
	section := func(title string, n int) {
		if n > 0 {
			fmt.Fprintf(w, "\n%s\n", title)
		}
	}
	section(fmt.Sprintf("findings: %d introduced, %d fixed", len(d.Introduced), len(d.Fixed)), len(d.Introduced)+len(d.Fixed))
	printFindings(w, "+", d.Introduced)
	printFindings(w, "-", d.Fixed)
	section(fmt.Sprintf("packages: %d added, %d removed, %d changed", len(d.Added), len(d.Removed), len(d.Changed)), len(d.Added)+len(d.Removed)+len(d.Changed))
	for _, p := range d.Changed {
		fmt.Fprintf(w, "  ~ %s %s -> %s (%s)\n", printable(p.Name), printable(p.From), printable(p.To), printable(p.Type))
	}
	for _, p := range d.Added {
		fmt.Fprintf(w, "  + %s %s (%s)\n", printable(p.Name), printable(p.Version), printable(p.Type))
	}
	for _, p := range d.Removed {
		fmt.Fprintf(w, "  - %s %s (%s)\n", printable(p.Name), printable(p.Version), printable(p.Type))
	}
	section("config", len(d.Config))
	for _, change := range d.Config {
		fmt.Fprintf(w, "  %s: %s -> %s\n", printable(change.Name), orDash(change.From), orDash(change.To))
	}
	section(fmt.Sprintf("files: %d added, %d removed, %d changed", d.FilesAdded, d.FilesRemoved, d.FilesChanged), len(d.Files))
	for _, f := range d.Files[:min(len(d.Files), maxComparedRows)] {
		fmt.Fprintf(w, "  %s %s %s\n", map[string]string{"added": "+", "removed": "-", "changed": "~"}[f.What], printable(f.Path), changeOf(f.Bytes))
	}
	if more := c.MoreFiles + max(len(d.Files)-maxComparedRows, 0); more > 0 {
		fmt.Fprintf(w, "  and %d more, lighter ones\n", more)
	}
}

// maxComparedRows is how many files are printed; JSON has those that the API tells.
const maxComparedRows = 100

func printFindings(w io.Writer, sign string, all []artifact.Finding) {
	for _, f := range all {
		fmt.Fprintf(w, "  %s %s %s %s\n", sign, severityColour(w, f.Severity, string(f.Severity)), printable(f.ID), printable(f.Package))
	}
}

// changeOf prints a number of bytes with its sign.
func changeOf(n int64) string {
	if n < 0 {
		return "-" + bytesOf(-n)
	}
	return "+" + bytesOf(n)
}
