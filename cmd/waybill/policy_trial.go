package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/policy"
	"waybill/server"
)

func newPolicyTest() *cobra.Command {
	var (
		with                 bool
		repository, database string
	)
	cmd := &cobra.Command{
		Use:   "test FILE IMAGE...",
		Short: "Judge images by the policies of a file, and change nothing",
		Long: `Judge images by the policies of a file instead of those in force, and change nothing. The exit status is 1 when an image is
not allowed. IMAGE is

  REPO:TAG or REPO@DIGEST          stored on the server; waivers count, and with --with the policies in force of other names
                                   apply too, as they would if the file were applied
  oci:DIR[:TAG]                    in an OCI image layout
  docker-archive:FILE[:NAME:TAG]   in an archive of docker save
  docker://HOST/REPO:TAG           in any registry, as docker login knows it

The last three need no server: waybill-scanner, beside this program, reads the image here. Policies match it as --repository says.
Findings are known with --database, an archive as waybill db import takes it; without one, rules on findings deny.`,
		Example: `  waybill policy test stricter.yaml shop/returns:v456 shop/returns:production --with
  waybill policy test baseline.yaml oci:build/image --repository shop/returns --database db.tar.gz`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef("%s: %s is missing\nUsage: %s", cmd.CommandPath(), []string{"FILE", "IMAGE"}[len(args)], cmd.UseLine())
			}
			return nil
		},
	}
	output := outputFlag(cmd)
	cmd.Flags().BoolVar(&with, "with", false, "with the policies in force of other names")
	cmd.Flags().StringVar(&repository, "repository", "", "the `repository` that an image which is not stored would be pushed to")
	cmd.Flags().StringVar(&database, "database", "", "`file` of an archive of the advisory database, for images that are not stored")
	show := func(cmd *cobra.Command, out server.PolicyTest) error {
		denied := 0
		for _, v := range out.Verdicts {
			if v.Outcome != artifact.Allow {
				denied++
			}
		}
		if err := output.show(cmd, out, func(w io.Writer) {
			for _, v := range out.Verdicts {
				printOutcome(w, v)
				printReasons(w, v.Reasons)
			}
		}); err != nil || denied == 0 {
			return err
		}
		return fmt.Errorf("%d of %s would not be allowed", denied, artifact.Count(int64(len(out.Verdicts)), "image"))
	}
	stored := withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		src, err := readFile(args[0], cmd.InOrStdin())
		if err != nil {
			return err
		}
		for _, ref := range args[1:] {
			if _, err := artifact.ParseShortReference(ref); err != nil {
				return usageError{err}
			}
		}
		query := url.Values{"file": {args[0]}, "ref": args[1:]}
		if with {
			query.Set("with", "true")
		}
		var out server.PolicyTest
		if err := c.do(ctx, http.MethodPost, "/policies/test", query, "application/yaml", bytes.NewReader(src), &out); err != nil {
			return err
		}
		return show(cmd, out)
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		local := 0
		for _, ref := range args[1:] {
			if elsewhere(ref) {
				local++
			}
		}
		switch {
		case local == 0 && repository+database != "":
			return usagef("--repository and --database are for images that are not stored: oci:DIR, docker-archive:FILE, docker://HOST/REPO:TAG")
		case local == 0:
			return stored(cmd, args)
		case local < len(args)-1 || with:
			return usagef("images that are stored, and --with, are the server's to judge; test those that are not by a command of their own")
		}
		out, err := testAnywhere(cmd, args, repository, database)
		if err != nil {
			return err
		}
		return show(cmd, out)
	}
	return cmd
}

func testAnywhere(cmd *cobra.Command, args []string, repository, database string) (out server.PolicyTest, err error) {
	src, err := readFile(args[0], cmd.InOrStdin())
	if err != nil {
		return out, err
	}
	policies, err := policiesOf(args[0], src)
	if err != nil {
		return out, err
	}
	a, err := newAnywhere(cmd.Context(), policies, repository, database)
	if err != nil {
		return out, err
	}
	defer a.close()
	for _, ref := range args[1:] {
		verdict, err := a.judge(cmd.Context(), ref)
		if err != nil {
			return out, err
		}
		out.Verdicts = append(out.Verdicts, verdict)
	}
	return out, nil
}

// impactReport is what --output json prints of an impact.
type impactReport struct {
	policy.Impact
	Changes []policy.ImpactChange `json:"changes"`
}

func newPolicyImpact() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "impact FILE",
		Short: "Show which images and environments the policies of a file would change the verdict of, and why",
		Long: `Judge every stored image and index under the policies in force, and under those with the file's in place of the ones of
the same names, from what is known of them; nothing is changed, and no layer is read. Each one whose verdict would differ is
told with its tags, the environments that run it or may pull it, the reasons, and what would happen to it there.`,
		Example: "  waybill policy impact stricter.yaml",
		Args:    exactly(1, "FILE"),
	}
	output := outputFlag(cmd)
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		src, err := readFile(args[0], cmd.InOrStdin())
		if err != nil {
			return err
		}
		report := impactReport{Changes: []policy.ImpactChange{}}
		if err := c.impact(ctx, args[0], src, func(change policy.ImpactChange) {
			if *output == "text" {
				printImpactChange(cmd.OutOrStdout(), change)
			} else {
				report.Changes = append(report.Changes, change)
			}
		}, &report.Impact); err != nil {
			return err
		}
		return output.show(cmd, report, func(w io.Writer) { printImpact(w, report.Impact) })
	})
	return cmd
}

// impact asks what policies would change and hands over what it is told as it comes.
func (c *client) impact(ctx context.Context, file string, src []byte, tell func(policy.ImpactChange), result *policy.Impact) error {
	res, err := c.send(ctx, http.MethodPost, "/policies/impact", url.Values{"file": {file}}, "application/yaml", bytes.NewReader(src))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	events := bufio.NewScanner(io.LimitReader(res.Body, maxAnswer))
	events.Buffer(nil, 4<<20)
	for events.Scan() {
		var e server.ImpactEvent
		if err := json.Unmarshal(events.Bytes(), &e); err != nil {
			return fmt.Errorf("the answer of %s is not that of an impact: %w", c.base, err)
		}
		switch {
		case e.Problem != nil:
			return problemError(*e.Problem)
		case e.Result != nil:
			*result = *e.Result
			return nil
		case e.Change != nil:
			tell(*e.Change)
		}
	}
	if err := events.Err(); err != nil {
		return fmt.Errorf("the impact's answer broke off: %w; ask again", err)
	}
	return errors.New("the impact's answer broke off; ask again")
}

func printImpactChange(w io.Writer, c policy.ImpactChange) {
	fmt.Fprintf(w, "%s@%s  %s -> %s\n", c.Repository, c.Digest, outcomeColour(w, c.Was), outcomeColour(w, c.Becomes))
	var promoted []artifact.Environment
	for _, e := range c.Promoted {
		if !slices.Contains(c.Current, e) {
			promoted = append(promoted, e)
		}
	}
	fields(w, "  tags", words(c.Tags), "  runs in", words(c.Current), "  pullable in", words(promoted))
	if c.Response != "" {
		fields(w, "  then", consequence(c.Response))
	}
	for _, r := range c.Reasons {
		mark := "+"
		if c.Becomes == artifact.Allow {
			mark = "-"
		}
		fmt.Fprintf(w, "  %s %s\n", mark, printable(reasonLine(r)))
	}
}

// consequence says in words what happens to a promoted digest that turns bad.
func consequence(r artifact.Response) string {
	return map[artifact.Response]string{
		artifact.RespondAlert:  "alert: it stays where it is promoted, and is told",
		artifact.RespondBlock:  "block-promotion: it stays where it is promoted, and goes no further",
		artifact.RespondRecall: "recall: it is taken out of every environment",
	}[r]
}

func words[T fmt.Stringer](all []T) string {
	texts := make([]string, len(all))
	for i, v := range all {
		texts[i] = v.String()
	}
	return strings.Join(texts, " ")
}

func printImpact(w io.Writer, i policy.Impact) {
	fmt.Fprintf(w, "%s judged: %d would be denied, %d would be allowed", artifact.Count(int64(i.Images), "manifest"), i.Denied, i.Allowed)
	if i.Other > 0 {
		fmt.Fprintf(w, ", %d would change otherwise", i.Other)
	}
	if i.Unknown > 0 {
		fmt.Fprintf(w, ", %d cannot be told", i.Unknown)
	}
	fmt.Fprintln(w)
	for _, e := range slices.Sorted(maps.Keys(i.Environments)) {
		fmt.Fprintf(w, "  of what %s runs, %d would be denied\n", printable(e), i.Environments[e])
	}
	if i.Recalled > 0 {
		fmt.Fprintf(w, "  %d would be recalled\n", i.Recalled)
	}
}
