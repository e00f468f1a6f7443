package main

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

// TestEveryCommandHasAnExample: and each is one that the command takes, flags and all.
func TestEveryCommandHasAnExample(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		path := strings.TrimPrefix(cmd.CommandPath(), "waybill ")
		known[path] = true
		if cmd.HasParent() && cmd.Name() != "help" {
			require.NotEmpty(t, cmd.Example, "%s: add one to examples.go", path)
		}
		for line := range strings.Lines(cmd.Example) {
			requireGood(t, line)
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			require.NotContains(t, []string{"int", "duration", "string"}, unitOf(f), "%s --%s: say of what, such as `days`", path, f.Name)
			require.NotEmpty(t, f.Usage, "%s --%s", path, f.Name)
		})
		for _, child := range cmd.Commands() {
			walk(child)
		}
	}
	walk(newRoot(newServe()))
	for path := range examples {
		require.True(t, known[path], "%s is no command", path)
	}
}

// unitOf is what help calls a flag's value.
func unitOf(f *pflag.Flag) string {
	name, _ := pflag.UnquoteUsage(f)
	return name
}

func requireGood(t *testing.T, line string) {
	t.Helper()
	for command := range strings.SplitSeq(line, "|") {
		words := wordsOf(command)
		if len(words) == 0 || words[0] != "waybill" {
			continue
		}
		cmd, rest, err := newRoot(newServe()).Find(words[1:])
		require.NoError(t, err, line)
		require.NoError(t, cmd.ParseFlags(rest), line)
		require.NoError(t, cmd.ValidateRequiredFlags(), line)
		require.NoError(t, cmd.ValidateFlagGroups(), line)
		if cmd.Args != nil {
			require.NoError(t, cmd.Args(cmd, cmd.Flags().Args()), line)
		}
	}
}

// wordsOf splits a line as a shell does, as far as examples go.
func wordsOf(line string) (words []string) {
	quoted, word := false, ""
	for _, r := range strings.TrimSpace(line) + " " {
		switch {
		case r == '\'':
			quoted = !quoted
		case r != ' ' || quoted:
			word += string(r)
		case word == "#" || word == ">" || word == "<":
			return words
		case word != "":
			words, word = append(words, word), ""
		}
	}
	return words
}

// TestWrongUsageSaysWhatToDo: what is missing or wrong is said in the same words, whoever finds it.
func TestWrongUsageSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"recall shop/returns:v1":    "waybill recall: --reason is missing\nUsage: waybill recall REPO:TAG|REPO@DIGEST --reason TEXT",
		"waiver create --digest x":  "waybill waiver create: --expires, --reason, --rule are missing",
		"scam shop/returns:v1":      "See `waybill --help`",
		"key":                       "See `waybill key --help`",
		"status --on 2026-10-01":    "See `waybill status --help`",
		"verify":                    "REPO@DIGEST is missing",
		"verify --export f --ever":  "See `waybill verify --help`",
		"token create --role chief": "want one of reader, pusher",
	} {
		root := newRoot(&cobra.Command{Use: "serve", RunE: func(*cobra.Command, []string) error { return nil }})
		root.SetArgs(strings.Fields(line))
		err := execute(t.Context(), root)
		require.ErrorContains(t, err, want, line)
		require.Equal(t, 2, exitCode(err), line)
	}
}

// TestReadmeNamesEveryCommandOnce: in its tables, and none that there is not.
func TestReadmeNamesEveryCommandOnce(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(readme), "\n## The commands\n")
	require.True(t, ok)
	section, _, _ = strings.Cut(section, "\n## ")
	root := newRoot(newServe())
	seen := map[string]int{}
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		for i, span := range strings.Split(cells[1], "`") {
			if i%2 == 0 {
				continue
			}
			cmd, rest, err := root.Find(strings.Fields(span))
			require.NoError(t, err, span)
			require.NoError(t, cmd.ParseFlags(rest), span)
			seen[cmd.CommandPath()]++
		}
	}
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		require.LessOrEqual(t, seen[cmd.CommandPath()], 1, cmd.CommandPath())
		if !cmd.HasSubCommands() && cmd.Name() != "help" { // one that has some may do no more than to group them
			require.Equal(t, 1, seen[cmd.CommandPath()], cmd.CommandPath())
		}
		for _, child := range cmd.Commands() {
			walk(child)
		}
	}
	walk(root)
}
