package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"waybill/artifact"
	"waybill/registry"
	"waybill/server"
)

// checkReport is what --output json prints of a check.
type checkReport struct {
	registry.Checked
	Found []registry.Finding `json:"found"`
}

func newFsck() *cobra.Command {
	var quarantine bool
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Read every blob, and compare bytes, digests and rows",
		Long: `Read every blob, compare its bytes with its digest, and files with rows, while pushes and pulls go on. The exit status
is 1 when something is not as it should be. With --quarantine, nobody is served what is damaged any more: its file goes
to blobs/quarantine in the data folder, a pull gets an error instead of wrong bytes, and the next push of that digest
repairs it. docker pushes every blob that the registry lacks; crane and ko leave out an image whose tag stands already, so
give it another tag.`,
		Args: exactly(0),
	}
	output := outputFlag(cmd)
	cmd.Flags().BoolVar(&quarantine, "quarantine", false, "put what is damaged into quarantine")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		report := checkReport{Found: []registry.Finding{}}
		err := c.check(ctx, quarantine, newCheckProgress(cmd.ErrOrStderr()), func(f registry.Finding) {
			report.Found = append(report.Found, f)
			if *output == "text" {
				printFinding(cmd.OutOrStdout(), f)
			}
		}, &report.Checked)
		if err != nil {
			return err
		}
		err = output.show(cmd, report, func(w io.Writer) {
			fmt.Fprintf(w, "read %s, %s\n", artifact.Count(report.Blobs, "blob"), bytesOf(report.Bytes))
		})
		if err == nil && !report.OK {
			err = fmt.Errorf("something is wrong with %s", artifact.Count(report.Findings, "blob"))
		}
		return err
	})
	return cmd
}

func printFinding(w io.Writer, f registry.Finding) {
	line := fmt.Sprintf("%-11s  %s  %s: %s", f.Damage, f.Digest, bytesOf(f.Size), f.Detail)
	if len(f.Repositories) > 0 {
		names := make([]string, len(f.Repositories))
		for i, r := range f.Repositories {
			names[i] = r.String()
		}
		line += "; in " + strings.Join(names, ", ")
	}
	if f.Quarantined {
		line += "; in quarantine until it is pushed again"
	}
	fmt.Fprintln(w, printable(line))
}

// newCheckProgress tells progress on a terminal; elsewhere it is silent.
func newCheckProgress(w io.Writer) func(registry.CheckProgress) {
	if f, ok := w.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return func(registry.CheckProgress) {}
	}
	return func(p registry.CheckProgress) {
		fmt.Fprintf(w, "\rReading %d of %s, %s of %s\033[K\r", p.Blobs, artifact.Count(p.OfBlobs, "blob"), bytesOf(p.Bytes), bytesOf(p.OfBytes))
	}
}

// check asks for a check and hands over what it tells as it comes.
func (c *client) check(ctx context.Context, quarantine bool, progress func(registry.CheckProgress), found func(registry.Finding), result *registry.Checked) error {
	body, err := json.Marshal(server.CheckRequest{Quarantine: quarantine})
	if err != nil {
		return err
	}
	res, err := c.send(ctx, http.MethodPost, "/fsck", nil, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(io.LimitReader(res.Body, maxAnswer))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e server.CheckEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("the answer of %s is not that of a check: %w", c.base, err)
		}
		switch {
		case e.Problem != nil:
			return problemError(*e.Problem)
		case e.Result != nil:
			*result = *e.Result
			return nil
		case e.Found != nil:
			found(*e.Found)
		case e.Progress != nil:
			progress(*e.Progress)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the check's answer broke off: %w; ask again", err)
	}
	return errors.New("the check's answer broke off; ask again")
}
