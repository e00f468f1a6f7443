package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"waybill/artifact"
)

// maxExport bounds an archive, in bytes: it comes from anybody.
const maxExport = 8 << 30

func newExport() *cobra.Command {
	var from, to, file string
	cmd := &cobra.Command{
		Use:   "export [REF] -o FILE",
		Short: "Write everything about a digest or a period as one signed archive",
		Long: `Write everything about a digest (REPO:TAG or REPO@DIGEST), or about a period, as one archive for auditors: manifests,
verdicts, scans, signatures and attestations, promotions, pulls, documents in force, and the ledger's entries with proofs to
a signed checkpoint. Its last file lists the others with their hashes and is signed by the ledger's key. "waybill verify
--export FILE" checks all of it without a server. For a token of role auditor or admin.`,
		Example: "  waybill export shop/returns:v456 -o returns.tar.gz\n  waybill export --from 2026-10-01 --to 2026-10-31 -o october.tar.gz\n" +
			"  waybill verify --export october.tar.gz --ledger-key ledger.pub --key waybill.pub",
		Args: upTo(1),
	}
	cmd.Flags().StringVar(&from, "from", "", "the first `day` (UTC), 2026-10-01, or an instant, 2026-10-01T12:00Z")
	cmd.Flags().StringVar(&to, "to", "", "the last `day` (UTC), which is in it, or the instant at which it ends")
	cmd.Flags().StringVarP(&file, "output", "o", "", "the `file` to write")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		if (len(args) == 1) == (from != "" || to != "") || (from == "") != (to == "") {
			return usagef("an export is of a digest or of a period: name REF, or --from and --to")
		}
		if file == "" {
			return usagef("name the file to write with --output")
		}
		args, err := c.localAll(args)
		if err != nil {
			return err
		}
		query := url.Values{"from": {from}, "to": {to}}
		if len(args) == 1 {
			if _, err := artifact.ParseShortReference(args[0]); err != nil {
				return usageError{err}
			}
			query = url.Values{"ref": {args[0]}}
		}
		n, err := c.download(ctx, "/export", query, file)
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "wrote %s (%s); check it with `waybill verify --export %s`\n", file, bytesOf(n), file)
		return nil
	})
	return cmd
}

// download writes an answer to a file that appears when it is whole.
func (c *client) download(ctx context.Context, path string, query url.Values, file string) (n int64, err error) {
	res, err := c.send(ctx, http.MethodGet, path, query, "", nil)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	f, err := os.CreateTemp(filepath.Dir(file), ".waybill-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	n, err = io.Copy(f, io.LimitReader(res.Body, maxExport))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return n, fmt.Errorf("the answer of %s broke off, and %s was not written: %w", c.base, file, err)
	}
	return n, os.Rename(f.Name(), file)
}
