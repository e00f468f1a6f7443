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
