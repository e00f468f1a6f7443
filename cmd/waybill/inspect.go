package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/server"
)

const refUse = " REPO:TAG|REPO@DIGEST"

// reader is a command that asks one question about a reference and prints the answer.
func reader[T any](use, short string, text func(io.Writer, T), after func(*cobra.Command, T) error) *cobra.Command {
	cmd := &cobra.Command{Use: use + refUse, Short: short, Args: exactly(1, "REPO:TAG or REPO@DIGEST")}
	output := outputFlag(cmd)
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		args, err := c.localAll(args)
		if err != nil {
			return err
		}
		if _, err := artifact.ParseShortReference(args[0]); err != nil {
			return usageError{err}
		}
		var out T
		if err := c.get(ctx, "/"+use, url.Values{"ref": {args[0]}}, &out); err != nil {
			return err
		}
		if err := output.show(cmd, out, func(w io.Writer) { text(w, out) }); err != nil || after == nil {
			return err
		}
		return after(cmd, out)
	})
	return cmd
}

func newInspect() *cobra.Command {
	cmd := &cobra.Command{Use: "inspect" + refUse, Short: "Show what an image's bytes say: layers, user, files, packages", Args: exactly(1, "REPO:TAG or REPO@DIGEST"),
		Long: "Show what an image's bytes say: layers, user, files, packages. With --tree, what each layer adds, overwrites, removes\nand wastes, folder by folder, the heaviest first."}
	output := outputFlag(cmd)
	tree := cmd.Flags().Int("tree", 0, "`levels` of folders to show of each layer, 1 to 8")
	cmd.Flags().Lookup("tree").NoOptDefVal = "2"
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		args, err := c.localAll(args)
		if err != nil {
			return err
		}
		if _, err := artifact.ParseShortReference(args[0]); err != nil {
			return usageError{err}
		}
		if *tree < 0 || *tree > 8 {
			return usagef("--tree %d: want 1 to 8 levels", *tree)
		}
		var out server.Inspection
		if err := c.get(ctx, "/inspect", url.Values{"ref": {args[0]}, "tree": {strconv.Itoa(*tree)}}, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) {
			if *tree == 0 || out.Image == nil {
				printInspection(w, out)
				return
			}
			printOutline(w, out)
			printTrees(w, out.Image.Trees)
		})
	})
	return cmd
}

// printTrees draws what each layer does, folder by folder.
func printTrees(w io.Writer, trees []artifact.LayerTree) {
	for n, l := range trees {
		fmt.Fprintf(w, "\nlayer %d  %s  %s compressed  %s\n", n+1, shortDigest(l.Digest), bytesOf(l.Compressed), clip(l.CreatedBy, 60))
		fmt.Fprintf(w, "  %s\n", treeLine("", l.Added, l.Overwritten, l.Removed, l.Hidden))
		printBranches(w, l.Tree, 0, "  ")
	}
}

func printBranches(w io.Writer, nodes []artifact.TreeNode, more int, indent string) {
	for i, n := range nodes {
		branch, below := "├── ", "│   "
		if i == len(nodes)-1 && more == 0 {
			branch, below = "└── ", "    "
		}
		fmt.Fprintf(w, "%s%s%s\n", indent, branch, treeLine(printable(n.Name), n.Added, n.Overwritten, n.Removed, n.Hidden))
		printBranches(w, n.Children, n.More, indent+below)
	}
	if more > 0 {
		fmt.Fprintf(w, "%s└── and %d lighter\n", indent, more)
	}
}

// treeLine says what happens at a name, in a few words.
func treeLine(name string, added, overwritten, removed, hidden artifact.Sum) string {
	var parts []string
	for _, part := range []struct {
		verb string
		sum  artifact.Sum
	}{{"adds", added}, {"overwrites", overwritten}, {"removes", removed}, {"wastes", hidden}} {
		switch {
		case part.sum.Files == 1:
			parts = append(parts, part.verb+" "+bytesOf(part.sum.Bytes))
		case part.sum.Files > 1:
			parts = append(parts, fmt.Sprintf("%s %s in %s", part.verb, bytesOf(part.sum.Bytes), artifact.Count(part.sum.Files, "file")))
		}
	}
	if len(parts) == 0 {
		parts = append(parts, "adds nothing")
	}
	return strings.TrimSpace(name + "  " + strings.Join(parts, ", "))
}

func printInspection(w io.Writer, i server.Inspection) {
	printOutline(w, i)
	if i.Image == nil {
		return
	}
	m := i.Image
	user := m.User
	if user == "" {
		user = "(none: root)"
	}
	fields(w, "user", user, "entrypoint", strings.Join(m.Entrypoint, " "), "command", strings.Join(m.Cmd, " "), "folder", m.WorkingDir,
		"ports", strings.Join(m.ExposedPorts, " "), "variables", strings.Join(m.Environment, " "),
		"files", fmt.Sprintf("%d (%d hidden by later layers)", m.Files, m.Hidden),
		"size", fmt.Sprintf("%s compressed, %s uncompressed, %s wasted", bytesOf(m.Compressed), bytesOf(m.Uncompressed), bytesOf(m.Wasted)))
	labels := make([]string, 0, len(m.Labels))
	for k, v := range m.Labels {
		labels = append(labels, k+"="+v)
	}
	slices.Sort(labels)
	for _, l := range labels {
		fields(w, "label", l)
	}
	fmt.Fprintf(w, "\n%s\n", artifact.Count(len(m.Layers), "layer"))
	t := newTable(w, "#", "digest", "size", "uncompressed", "entries", "wasted", "created by")
	for n, l := range m.Layers {
		t.AppendRow([]any{n + 1, shortDigest(l.Digest), bytesOf(l.Compressed), bytesOf(l.Uncompressed), l.Entries, bytesOf(l.Wasted), clip(l.CreatedBy, 60)})
	}
	t.Render()
	fmt.Fprintf(w, "\n%s", artifact.Count(len(m.Packages), "package"))
	if m.Unscanned != "" {
		fmt.Fprintf(w, " of the operating system; those of programs are known when it is scanned: %s", printable(m.Unscanned))
	}
	fmt.Fprintln(w)
	if len(m.Packages) > 0 {
		t := newTable(w, "package", "version", "type")
		for _, p := range m.Packages {
			t.AppendRow([]any{printable(p.Name), printable(p.Version), printable(p.Type)})
		}
		t.Render()
	}
}

func printOutline(w io.Writer, i server.Inspection) {
	fmt.Fprintf(w, "%s@%s\n", i.Repository, i.Digest)
	tags := make([]string, len(i.Tags))
	for n, t := range i.Tags {
		tags[n] = t.String()
	}
	fields(w, "type", i.Type, "platform", i.Platform, "media type", i.MediaType, "tags", strings.Join(tags, " "),
		"pushed", stamp(i.PushedAt)+" by "+i.PushedBy)
	printDenied(w, i.Denied)
	for _, c := range i.Children {
		fields(w, "manifest", c.Digest.String()+" "+c.Platform)
	}
}

// printDenied says of what was denied that it is not here.
func printDenied(w io.Writer, d *server.Denial) {
	if d == nil {
		return
	}
	fields(w, "denied", fmt.Sprintf("as %s (ledger entry %d): it is not stored, and nobody can pull it", d.Reference, d.LedgerIndex))
	if !d.Kept {
		fields(w, "kept", "nothing but the verdict")
	}
}

// fields prints pairs of a name and a value on a line each, without those that are empty.
func fields(w io.Writer, pairs ...string) {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(w, "%-12s %s\n", pairs[i], printable(pairs[i+1]))
		}
	}
}

func clip(s string, n int) string {
	runes := []rune(strings.Join(strings.Fields(printable(s)), " "))
	if len(runes) > n {
		return string(runes[:n-1]) + "…"
	}
	return string(runes)
}

func newVerdict() *cobra.Command {
	cmd := reader("verdict", "Show whether a digest is allowed, and every reason", printVerdict, func(cmd *cobra.Command, v artifact.VerdictRecord) error {
		if v.Outcome == artifact.Allow {
			return nil
		}
		lines := []string{fmt.Sprintf("%s: %s@%s", v.Outcome, v.Repository, v.Digest)}
		for _, r := range v.Denials() {
			lines = append(lines, "  "+printable(reasonLine(r)))
			for _, e := range r.Evidence {
				lines = append(lines, "    "+clip(e, 200))
			}
		}
		return errors.New(strings.Join(lines, "\n"))
	})
	cmd.Long = "Show whether a digest is allowed by the policies in force, and every reason. Exit status 1 when it is not."
	return cmd
}

func printVerdict(w io.Writer, v artifact.VerdictRecord) {
	printOutcome(w, v)
	// What denies goes to standard error, and so is read once.
	printReasons(w, slices.DeleteFunc(slices.Clone(v.Reasons), func(r artifact.Reason) bool { return !r.Warning }))
}

func printOutcome(w io.Writer, v artifact.VerdictRecord) {
	fmt.Fprintf(w, "%s@%s\n", v.Repository, v.Digest)
	fmt.Fprintf(w, "%-12s %s\n", "verdict", outcomeColour(w, v.Outcome))
	fields(w, "policies", strings.Join(v.Policies, " "))
}

func printReasons(w io.Writer, all []artifact.Reason) {
	for _, r := range all {
		word := "denied"
		if r.Warning {
			word = "warning"
		}
		fmt.Fprintf(w, "%-12s %s\n", word, printable(reasonLine(r)))
		for _, e := range r.Evidence {
			fmt.Fprintf(w, "%-12s   %s\n", "", clip(e, 200))
		}
	}
}

func newScan() *cobra.Command {
	licenses := false
	cmd := reader("scan", "Show findings by severity, and the age of the advisories", func(w io.Writer, s server.ScanReport) { printScan(w, s, licenses) }, nil)
	cmd.Flags().BoolVar(&licenses, "licenses", false, "list the licenses of packages too")
	return cmd
}

// printScan prints licenses on request only: there are hundreds in an image, and most are no news.
func printScan(w io.Writer, s server.ScanReport, licenses bool) {
	fmt.Fprintf(w, "%s@%s\n", s.Repository, s.Digest)
	printDenied(w, s.Denied)
	printScanSummary(w, s)
	findings := slices.Clone(s.Findings)
	if !licenses {
		counts := map[artifact.Severity]int{}
		findings = slices.DeleteFunc(findings, func(f artifact.Finding) bool {
			if f.Class == artifact.ClassLicense {
				counts[f.Severity]++
			}
			return f.Class == artifact.ClassLicense
		})
		if len(counts) > 0 {
			fields(w, "licenses", countsOf(counts)+" (--licenses lists them)")
		}
	}
	if len(findings) == 0 {
		return
	}
	slices.SortStableFunc(findings, func(x, y artifact.Finding) int {
		if d := y.Severity.Rank() - x.Severity.Rank(); d != 0 {
			return d
		}
		return strings.Compare(x.Package+" "+x.ID, y.Package+" "+y.ID)
	})
	fmt.Fprintln(w)
	t := newTable(w, "severity", "id", "package", "installed", "fixed in", "title")
	for _, f := range findings {
		where := f.Package
		if where == "" {
			where = f.Path
		}
		t.AppendRow([]any{severityColour(w, f.Severity, string(f.Severity)), printable(f.ID), printable(where), orDash(f.Installed), orDash(f.Fixed), clip(assessed(f), 70)})
	}
	t.Render()
}

// assessed is a finding's title, after what is said of it.
func assessed(f artifact.Finding) string {
	switch v := f.VEX; {
	case v != nil:
		return fmt.Sprintf("[%s, says %s] %s", v.Status, v.Author, f.Title)
	case f.LockFile:
		return "[named by a lock file] " + f.Title
	}
	return f.Title
}

func printScanSummary(w io.Writer, s server.ScanReport) {
	state := string(s.State)
	if s.Reason != "" {
		state += ": " + s.Reason
	}
	fields(w, "scan", state)
	if s.State != artifact.Scanned {
		return
	}
	fields(w, "findings", countsOf(s.Counts), "scanned", stamp(s.ScannedAt),
		"advisories", fmt.Sprintf("built %s (%s ago)", stamp(s.DatabaseUpdatedAt), ageOf(time.Duration(s.DatabaseAge)*time.Second)))
	if s.UnnamedJars && s.JavaDatabaseDigest.IsZero() {
		fields(w, "jars", "some do not say what they are, and only a Java database tells: import one with `waybill db import FILE`")
	}
}

func newShow() *cobra.Command {
	return reader("show", "Show the whole story of a digest", printStory, nil)
}

func printStory(w io.Writer, s server.Story) {
	printOutline(w, s.Manifest)
	for _, d := range s.RunsIn {
		fields(w, "runs in", fmt.Sprintf("%s since %s", d.Environment, stamp(d.Since)))
	}
	fmt.Fprintln(w)
	fmt.Fprintf(w, "%-12s %s\n", "verdict", outcomeColour(w, s.Verdict.Outcome))
	fields(w, "policies", strings.Join(s.Verdict.Policies, " "))
	printReasons(w, s.Verdict.Reasons)
	if b := s.TurnedBad; b != nil {
		fields(w, "turned bad", fmt.Sprintf("%s, while promoted: %s (ledger entry %d)", stamp(b.Since), consequence(b.Response), b.LedgerIndex))
	}
	if s.Scan != nil {
		fmt.Fprintln(w)
		printScanSummary(w, *s.Scan)
	}
	if s.Manifest.Denied != nil {
		return // it is not signed, and went nowhere
	}
	fmt.Fprintln(w)
	if len(s.Signatures) == 0 {
		fields(w, "signed", "not yet")
	}
	for _, sig := range s.Signatures {
		what := "cosign signature"
		if sig.Predicate != "" {
			what = sig.Predicate
		}
		if sig.Name != "" {
			what += " for " + sig.Name
		}
		fields(w, "signed", fmt.Sprintf("%s  %s  key %s", stamp(sig.SignedAt), what, sig.KeyID))
	}
	if len(s.Promotions) > 0 {
		fmt.Fprintln(w)
		printPromotions(w, s.Promotions)
	}
}
