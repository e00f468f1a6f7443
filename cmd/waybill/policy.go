package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
	"github.com/spf13/cobra"

	"waybill/policy"
	"waybill/server"
)

// newPolicy shows what apply stored, and what another file would do.
func newPolicy() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Show policies, what changed in them, and what a change would do"}
	list := &cobra.Command{Use: "list", Short: "List the documents in force", Args: exactly(0)}
	output := outputFlag(list)
	list.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		var out server.DocumentList
		if err := c.get(ctx, "/documents", nil, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) {
			t := newTable(w, "kind", "name", "version", "hash", "by", "applied")
			for _, d := range out.Documents {
				t.AppendRow([]any{strings.ToLower(d.Kind), printable(d.Name), d.Version, shortDigest(d.Hash), printable(d.AppliedBy), stamp(d.AppliedAt)})
			}
			t.Render()
		})
	})
	cmd.AddCommand(list, newPolicyShow(), newPolicyHistory(), newPolicyDiff(), newPolicyTest(), newPolicyImpact())
	return cmd
}

// documentKind is the --kind flag.
func documentKind(cmd *cobra.Command) func() (string, error) {
	kind := "policy"
	cmd.Flags().StringVar(&kind, "kind", kind, "`kind` of document: policy, pipeline or repositories")
	return func() (string, error) {
		if kind != "policy" && kind != "pipeline" && kind != "repositories" {
			return "", usagef("kind %.40q: want policy, pipeline or repositories", kind)
		}
		return kind, nil
	}
}

// document returns a version of a document; version 0 is the one in force.
func (c *client) document(ctx context.Context, kind, name string, version int) (d server.Document, err error) {
	query := url.Values{}
	if version > 0 {
		query.Set("version", strconv.Itoa(version))
	}
	return d, c.get(ctx, "/documents/"+kind+"/"+url.PathEscape(name), query, &d)
}

func newPolicyShow() *cobra.Command {
	var version int
	cmd := &cobra.Command{Use: "show NAME", Short: "Print a policy as it was applied", Args: exactly(1, "NAME")}
	output, kindOf := outputFlag(cmd), documentKind(cmd)
	cmd.Flags().IntVar(&version, "version", 0, "another `number` than the version in force")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		kind, err := kindOf()
		if err != nil {
			return err
		}
		out, err := c.document(ctx, kind, args[0], version)
		if err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) { fmt.Fprintln(w, strings.TrimRight(printable(out.Body), "\n")) })
	})
	return cmd
}

func newPolicyHistory() *cobra.Command {
	cmd := &cobra.Command{Use: "history NAME", Short: "Show who applied each version of a policy, when, and what it changed", Args: exactly(1, "NAME")}
	output, kindOf := outputFlag(cmd), documentKind(cmd)
	before := 0
	cmd.Flags().IntVar(&before, "before", 0, "versions before this `number` only")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		kind, err := kindOf()
		if err != nil {
			return err
		}
		query := url.Values{}
		if before > 0 {
			query.Set("before", strconv.Itoa(before))
		}
		var out server.DocumentHistory
		if err := c.get(ctx, "/documents/"+kind+"/"+url.PathEscape(args[0])+"/history", query, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) {
			for _, v := range out.Versions {
				fmt.Fprintf(w, "%s@%d  %s  by %s  %s\n", printable(out.Name), v.Version, stamp(v.AppliedAt), printable(v.AppliedBy), shortDigest(v.Hash))
				for _, change := range v.Changes {
					fmt.Fprintf(w, "  %s\n", printable(change.String()))
				}
			}
		})
	})
	return cmd
}

// policyDiff is what --output json prints of a difference.
type policyDiff struct {
	Kind    string          `json:"kind"`
	Name    string          `json:"name"`
	From    string          `json:"from"`
	To      string          `json:"to"`
	Changes []policy.Change `json:"changes"`
}

func newPolicyDiff() *cobra.Command {
	var (
		file string
		text bool
	)
	cmd := &cobra.Command{
		Use:   "diff NAME [V1] [V2] | diff -f FILE",
		Short: "Show what differs between two versions of a policy, or between a file and what is in force",
		Long: `Show what differs in meaning between two versions of a policy: rules by name, parameter by parameter. NAME alone compares
the version in force with the one before it, NAME V1 the version in force with V1. With -f, the documents of a file are
compared with those in force. --text compares the YAML as it was written, line by line.`,
		Example: "  waybill policy diff baseline\n  waybill policy diff baseline 3 5 --text\n  waybill policy diff -f policies.yaml",
		Args:    upTo(3),
	}
	output, kindOf := outputFlag(cmd), documentKind(cmd)
	cmd.Flags().StringVarP(&file, "file", "f", "", "`file` of YAML documents; - is standard input")
	cmd.Flags().BoolVar(&text, "text", false, "line by line")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		var (
			pairs []documentPair
			err   error
		)
		switch {
		case file != "" && len(args) > 0:
			return usagef("policy diff wants NAME, or -f FILE, and not both")
		case file != "":
			pairs, err = c.pairsOfFile(ctx, cmd, file)
		case len(args) == 0:
			return usagef("policy diff wants NAME, or -f FILE")
		default:
			var kind string
			if kind, err = kindOf(); err == nil {
				pairs, err = c.pairOfVersions(ctx, kind, args)
			}
		}
		if err != nil {
			return err
		}
		return showDiff(cmd, output, pairs, text)
	})
	return cmd
}

// documentPair is two versions to compare.
type documentPair struct {
	kind, name string
	from, to   server.Document
}

func (p documentPair) label(d server.Document) string {
	switch {
	case d.Version > 0:
		return fmt.Sprintf("%s@%d, %s by %s", p.name, d.Version, stamp(d.AppliedAt), d.AppliedBy)
	case d.Body == "":
		return p.name + ", nothing"
	}
	return p.name + ", the file"
}

func (c *client) pairOfVersions(ctx context.Context, kind string, args []string) ([]documentPair, error) {
	numbers := [2]int{}
	for i, arg := range args[1:] {
		n, err := strconv.Atoi(strings.TrimPrefix(arg, "v"))
		if err != nil || n < 1 {
			return nil, usagef("version %.40q: want a number, as `waybill policy history` shows them", arg)
		}
		numbers[i] = n
	}
	to, err := c.document(ctx, kind, args[0], numbers[1])
	if err != nil {
		return nil, err
	}
	pair := documentPair{kind: to.Kind, name: to.Name, to: to}
	if numbers[0] == 0 {
		numbers[0] = to.Version - 1
	}
	if numbers[0] > 0 {
		pair.from, err = c.document(ctx, kind, args[0], numbers[0])
	}
	return []documentPair{pair}, err
}

func (c *client) pairsOfFile(ctx context.Context, cmd *cobra.Command, file string) ([]documentPair, error) {
	src, err := readFile(file, cmd.InOrStdin())
	if err != nil {
		return nil, err
	}
	parsed, err := server.ParseDocuments(file, src)
	if err != nil {
		return nil, err
	}
	var list server.DocumentList
	if err := c.get(ctx, "/documents", nil, &list); err != nil {
		return nil, err
	}
	var pairs []documentPair
	for _, d := range parsed {
		pair := documentPair{kind: d.Kind, name: d.Name, to: server.Document{Kind: d.Kind, Name: d.Name, Body: string(d.Body)}}
		for _, known := range list.Documents {
			if known.Kind == d.Kind && known.Name == d.Name {
				if pair.from, err = c.document(ctx, strings.ToLower(d.Kind), d.Name, known.Version); err != nil {
					return nil, err
				}
			}
		}
		pairs = append(pairs, pair)
	}
	return pairs, nil
}

func showDiff(cmd *cobra.Command, output *format, pairs []documentPair, text bool) error {
	all := []policyDiff{}
	for _, p := range pairs {
		changes, err := policy.Diff([]byte(p.from.Body), []byte(p.to.Body))
		if err != nil {
			return err
		}
		all = append(all, policyDiff{Kind: p.kind, Name: p.name, From: p.label(p.from), To: p.label(p.to), Changes: changes})
	}
	var err error
	shown := output.show(cmd, all, func(w io.Writer) {
		for i, p := range pairs {
			if text {
				err = difflib.WriteUnifiedDiff(w, difflib.UnifiedDiff{A: lines(p.from.Body), B: lines(p.to.Body), FromFile: printable(all[i].From), ToFile: printable(all[i].To), Context: 3})
				continue
			}
			fmt.Fprintf(w, "%s %s: %s -> %s\n", strings.ToLower(p.kind), printable(p.name), printable(all[i].From), printable(all[i].To))
			for _, change := range all[i].Changes {
				fmt.Fprintf(w, "  %s\n", printable(change.String()))
			}
			if len(all[i].Changes) == 0 {
				fmt.Fprintln(w, "  nothing differs in meaning")
			}
		}
	})
	if err == nil {
		err = shown
	}
	return err
}

func lines(body string) []string {
	if body == "" {
		return nil
	}
	return strings.SplitAfter(strings.TrimRight(printable(body), "\n")+"\n", "\n")
}
