package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"waybill/server"
)

func newApply() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Apply policies, pipelines and rules for repositories: one or many YAML documents",
		Long: `Apply policies, pipelines and rules for repositories from a file, or from standard input with -f -. All documents are checked before any is
applied. A document that means what is in force already makes no new version.`,
		Args: exactly(0),
	}
	output := outputFlag(cmd)
	cmd.Flags().StringVarP(&file, "file", "f", "", "`file` of YAML documents; - is standard input")
	_ = cmd.MarkFlagRequired("file")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		src, err := readFile(file, cmd.InOrStdin())
		if err != nil {
			return err
		}
		var out server.AppliedList
		if err := c.do(ctx, http.MethodPost, "/documents", url.Values{"file": {file}}, "application/yaml", bytes.NewReader(src), &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) {
			for _, d := range out.Documents {
				what := "applied"
				if !d.Changed {
					what = "unchanged"
				}
				fmt.Fprintf(w, "%s %s@%d %s\n", strings.ToLower(d.Kind), printable(d.Name), d.Version, what)
			}
		})
	})
	return cmd
}

func readFile(name string, stdin io.Reader) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(stdin, 2<<20))
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, usageError{err}
	}
	return b, nil
}

// newPolicy shows what apply stored.
func newPolicy() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "List and print the policies, pipelines and rules for repositories in force"}
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
	cmd.AddCommand(list, newPolicyShow())
	return cmd
}

func newPolicyShow() *cobra.Command {
	kind := "policy"
	cmd := &cobra.Command{Use: "show NAME", Short: "Print a policy as it was applied", Args: exactly(1, "NAME")}
	output := outputFlag(cmd)
	cmd.Flags().StringVar(&kind, "kind", kind, "policy, pipeline or repositories")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		if kind != "policy" && kind != "pipeline" && kind != "repositories" {
			return usagef("kind %.40q: want policy, pipeline or repositories", kind)
		}
		var out server.Document
		if err := c.get(ctx, "/documents/"+kind+"/"+url.PathEscape(args[0]), nil, &out); err != nil {
			return err
		}
		return output.show(cmd, out, func(w io.Writer) { fmt.Fprintln(w, strings.TrimRight(printable(out.Body), "\n")) })
	})
	return cmd
}
