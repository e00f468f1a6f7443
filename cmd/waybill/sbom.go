package main

import (
	"context"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"waybill/artifact"
)

func newSBOM() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:     "sbom" + refUse,
		Short:   "Print an image's SBOM, CycloneDX or SPDX",
		Example: "  waybill sbom shop/returns:v456 --format spdx > returns.spdx.json",
		Args:    exactly(1, "REPO:TAG or REPO@DIGEST"),
	}
	cmd.Flags().StringVar(&format, "format", "cyclonedx", "`format`: cyclonedx or spdx")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		if _, err := artifact.ParseShortReference(args[0]); err != nil {
			return usageError{err}
		}
		if format != "cyclonedx" && format != "spdx" {
			return usagef("--format is %.40q; want cyclonedx or spdx", format)
		}
		// Byte by byte what is attached, so that its digest is that of the referrer's layer.
		res, err := c.send(ctx, http.MethodGet, "/sbom", url.Values{"ref": {args[0]}, "format": {format}}, "", nil)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		_, err = io.Copy(cmd.OutOrStdout(), io.LimitReader(res.Body, maxAnswer))
		return err
	})
	return cmd
}
