package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"waybill/artifact"
)

// format is the --output flag: text for people, json for scripts. JSON is what the API said, unchanged.
type format string

// String, Set and Type make a format a pflag.Value.
func (f *format) String() string { return string(*f) }

// Set takes text or json.
func (f *format) Set(s string) error {
	if s != "text" && s != "json" {
		return fmt.Errorf("want text or json")
	}
	*f = format(s)
	return nil
}

// Type names the value in help.
func (f *format) Type() string { return "format" }

// outputFlag adds --output to a command that prints data.
func outputFlag(cmd *cobra.Command) *format {
	f := format("text")
	cmd.Flags().VarP(&f, "output", "o", "text or json")
	shortJSON(cmd, &f)
	// The names are fixed, so registering a completion cannot fail.
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return &f
}

// shortJSON adds --json, unless the command has something of its own by that name.
func shortJSON(cmd *cobra.Command, f *format) {
	if cmd.Flags().Lookup("json") == nil {
		cmd.Flags().VarPF(shortly{f}, "json", "", "the same as --output json").NoOptDefVal = "true"
	}
}

// shortly is --json.
type shortly struct{ *format }

// Set makes the output JSON.
func (s shortly) Set(text string) error {
	yes, err := strconv.ParseBool(text)
	if yes {
		*s.format = "json"
	}
	return err
}

// String is the default, which is not shown.
func (shortly) String() string { return "false" }

// Type is what help shows.
func (shortly) Type() string { return "bool" }

// show prints v as JSON, or hands over to text.
func (f *format) show(cmd *cobra.Command, v any, asText func(w io.Writer)) error {
	w := cmd.OutOrStdout()
	if *f == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	}
	asText(w)
	return nil
}

// tableFormat is the --output flag of a command whose answer is one table: csv too.
type tableFormat struct{ format }

// Set takes text, json or csv.
func (f *tableFormat) Set(s string) error {
	if s != "csv" && f.format.Set(s) != nil {
		return fmt.Errorf("want text, json or csv")
	}
	f.format = format(s)
	return nil
}

func tableFlag(cmd *cobra.Command) *tableFormat {
	f := &tableFormat{"text"}
	cmd.Flags().VarP(f, "output", "o", "text, json or csv")
	shortJSON(cmd, &f.format)
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json", "csv"}, cobra.ShellCompDirectiveNoFileComp))
	return f
}

// show prints v as JSON, its rows as CSV (RFC 4180), or hands over to text.
func (f *tableFormat) show(cmd *cobra.Command, v any, head []string, rows [][]string, asText func(w io.Writer)) error {
	if f.format != "csv" {
		return f.format.show(cmd, v, asText)
	}
	w := csv.NewWriter(cmd.OutOrStdout())
	_ = w.Write(head) // errors stay with the writer
	for _, row := range rows {
		for i, cell := range row {
			row[i] = artifact.InertCell(cell)
		}
		_ = w.Write(row)
	}
	w.Flush()
	return w.Error()
}

// instant prints a time as programs read it; none is empty.
func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// printable takes control characters out of what a server or an image says, so that none of it drives a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// coloured reports whether w is a terminal that wants colour: https://no-color.org.
func coloured(w io.Writer) bool {
	if os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// newTable returns a table that is plain enough to cut and grep when w is no terminal.
func newTable(w io.Writer, head ...any) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	style := table.StyleLight
	style.Options = table.OptionsNoBordersAndSeparators
	style.Format.Header = text.FormatUpper
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	t.SetStyle(style)
	t.SuppressTrailingSpaces()
	t.AppendHeader(table.Row(head))
	return t
}

// none says that a list is empty, where it is: a head without rows looks like something went wrong.
func none(w io.Writer, n int, text string) bool {
	if n == 0 {
		fmt.Fprintln(w, text)
	}
	return n == 0
}

// severityColour and outcomeColour paint words on terminals only.
func severityColour(w io.Writer, s artifact.Severity, shown string) string {
	colours := map[artifact.Severity]text.Colors{
		artifact.Critical: {text.FgHiRed, text.Bold}, artifact.High: {text.FgRed}, artifact.Medium: {text.FgYellow},
	}
	return paint(w, colours[s], shown)
}

func outcomeColour(w io.Writer, o artifact.Outcome) string {
	colours := map[artifact.Outcome]text.Colors{
		artifact.Allow: {text.FgGreen}, artifact.Deny: {text.FgRed, text.Bold}, artifact.Pending: {text.FgYellow},
	}
	return paint(w, colours[o], string(o))
}

func paint(w io.Writer, colours text.Colors, s string) string {
	if len(colours) == 0 || !coloured(w) {
		return s
	}
	return colours.EscapeSeq() + s + text.Colors{text.Reset}.EscapeSeq()
}

// bytesOf prints a size as people read it, with binary units.
func bytesOf(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	size, unit := float64(n), 0
	for size >= 1024 && unit < len(units)-1 {
		size, unit = size/1024, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", size, units[unit])
}

// ageOf prints a duration in its largest unit.
func ageOf(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(max(d, 0).Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}

// countsOf prints severity counts from worst to least, without the empty ones.
func countsOf(counts map[artifact.Severity]int) string {
	var parts []string
	for i := len(artifact.Severities) - 1; i >= 0; i-- {
		if n := counts[artifact.Severities[i]]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, artifact.Severities[i]))
		}
	}
	if len(parts) == 0 {
		return "no vulnerabilities"
	}
	return strings.Join(parts, ", ")
}

// shortDigest prints a digest as people compare it.
func shortDigest(d artifact.Digest) string {
	if d.IsZero() {
		return "-"
	}
	return d.Short()
}

// stamp prints a time in UTC to the second.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// progress counts what is read through it and tells it on a terminal, twice a second at most; elsewhere it is silent.
type progress struct {
	r     io.Reader
	w     io.Writer
	label string
	total int64 // bytes; 0: unknown

	read  int64
	told  time.Time
	quiet bool
}

func newProgress(r io.Reader, w io.Writer, label string, total int64) *progress {
	f, ok := w.(*os.File)
	return &progress{r: r, w: w, label: label, total: total, quiet: !ok || !term.IsTerminal(int(f.Fd()))}
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.read += int64(n)
	if !p.quiet && time.Since(p.told) > 500*time.Millisecond {
		p.told = time.Now()
		p.tell("\r")
	}
	return n, err
}

func (p *progress) tell(before string) {
	of := ""
	if p.total > 0 {
		of = fmt.Sprintf(" of %s (%d %%)", bytesOf(p.total), p.read*100/p.total)
	}
	fmt.Fprintf(p.w, "%s%s %s%s\033[K", before, p.label, bytesOf(p.read), of)
}

// done ends the line.
func (p *progress) done() {
	if !p.quiet {
		p.tell("\r")
		fmt.Fprintln(p.w)
	}
}

// withClient is what most commands are: a client, one question, one answer printed.
func withClient(f func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := newClient()
		if err != nil {
			return err
		}
		err = f(cmd.Context(), cmd, c, args)
		var refused problemError
		if flag := cmd.Flags().Lookup("output"); flag != nil && errors.As(err, &refused) {
			// Who asked for JSON gets the refusal in it too, beside the text on standard error.
			if flag.Value.String() == "json" {
				f := format("json")
				_ = f.show(cmd, refused, nil)
			}
		}
		return err
	}
}
