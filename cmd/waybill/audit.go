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
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/ledger"
	"waybill/server"
)

// Bounds of what one fetch from a log may be, in bytes.
const (
	maxNote = 64 << 10
	maxTile = ledger.TileWidth * (2 + ledger.MaxEntry)
)

// auditOptions are the flags of audit.
type auditOptions struct {
	tiles, keyFile, since, save, keep string
	witnesses                         []string
}

func newAudit() *cobra.Command {
	var o auditOptions
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Recompute the ledger and name every row that does not fit",
		Long: `Recompute the ledger. Without flags the server does it, from the rows of its database, and compares the records beside
the ledger too. With --tiles nothing that the server says is believed: the tree is recomputed here, from the published
tiles (C2SP tlog-tiles) of the server, of another log, or in a folder, and held against the signed checkpoint. With --since
the ledger must also extend the checkpoint that a file has, from an earlier --save. With --witness it must be one that somebody
else has cosigned a checkpoint of.

Give the key that you trust with --ledger-key (from "waybill key ledger"); without it the server's own is used, which
proves that the ledger fits together and not whose it is.`,
		Example: "  waybill audit\n  waybill audit --tiles server --ledger-key ledger.pub --since last.checkpoint --save last.checkpoint\n" +
			"  waybill audit --tiles https://registry.example/ledger --ledger-key ledger.pub --keep copy\n  waybill audit --tiles copy --ledger-key ledger.pub",
		Args: exactly(0),
	}
	output := outputFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&o.tiles, "tiles", "", "recompute the tree here from the tiles of `server|URL|DIR`")
	flags.StringVar(&o.keyFile, "ledger-key", "", "`file` of the ledger's verifier key")
	flags.StringVar(&o.since, "since", "", "`file` of an older checkpoint, which the ledger must extend")
	flags.StringArrayVar(&o.witnesses, "witness", nil, "`file` of a witness's key, who must have cosigned what the ledger extends; repeat for more")
	flags.StringVar(&o.save, "save", "", "write the checkpoint to this `file` if all holds")
	flags.StringVar(&o.keep, "keep", "", "write the tiles that are read to this `folder`, itself a log for --tiles")
	cmd.RunE = withClient(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		if o.keep != "" && o.tiles == "" {
			return usagef("--keep writes what --tiles reads; give --tiles server")
		}
		r, note, err := o.audit(ctx, c)
		if err != nil {
			return err
		}
		if r.OK && o.save != "" {
			if err := os.WriteFile(o.save, []byte(note), 0o644); err != nil { //nolint:gosec // a checkpoint is public
				return err
			}
		}
		if err := output.show(cmd, r, func(w io.Writer) { printAudit(w, r) }); err != nil || r.OK {
			return err
		}
		lines := []string{fmt.Sprintf("the ledger does not hold, for %s", artifact.Count(len(r.Problems), "reason"))}
		for _, p := range r.Problems {
			lines = append(lines, "  "+printable(p))
		}
		return errors.New(strings.Join(lines, "\n"))
	})
	return cmd
}

func printAudit(w io.Writer, r auditReport) {
	fields(w, "size", fmt.Sprint(r.Size), "root", r.Root, "checkpoints", fmt.Sprint(r.Checkpoints))
	r.printWitnesses(w)
	if r.OK {
		fmt.Fprintln(w, "ok")
	}
}

// audit returns what was found and the newest checkpoint.
func (o auditOptions) audit(ctx context.Context, c *client) (r auditReport, note string, err error) {
	older := ""
	if o.since != "" {
		if older, err = readNote(o.since); err != nil {
			return r, "", err
		}
	}
	if o.tiles == "" && older == "" && o.save == "" && o.keyFile == "" && len(o.witnesses) == 0 {
		err = c.get(ctx, "/audit", nil, &r)
		r.OK = r.OK && len(r.Problems) == 0
		return r, "", err
	}
	key, err := o.key(ctx, c)
	if err != nil {
		return r, "", err
	}
	if o.tiles != "" {
		return o.fromTiles(ctx, c, key, older)
	}
	return o.fromRows(ctx, c, key, older)
}

// key is the one that was given. Only the server that is asked may say its own.
func (o auditOptions) key(ctx context.Context, c *client) (string, error) {
	if o.keyFile != "" {
		b, err := os.ReadFile(o.keyFile)
		if err != nil {
			return "", usageError{err}
		}
		key := strings.TrimSpace(string(b))
		if err := ledger.CheckVerifier(key); err != nil {
			return "", usageError{fmt.Errorf("%s: %w", o.keyFile, err)}
		}
		return key, nil
	}
	if o.tiles != "" && o.tiles != "server" {
		return "", usagef("--tiles %.200q: whose log it is, --ledger-key must say; `waybill key ledger` prints a server's", o.tiles)
	}
	var keys server.PublicKeys
	err := c.get(ctx, "/keys", nil, &keys)
	return strings.TrimSpace(keys.LedgerVerifier), err
}

// fromRows has the server audit its rows, and then proves here that its checkpoint is the key's and extends an older one.
func (o auditOptions) fromRows(ctx context.Context, c *client, key, older string) (r auditReport, note string, err error) {
	if err := c.get(ctx, "/audit", nil, &r); err != nil {
		return r, "", err
	}
	found, notes, problems, err := o.cosigned(ctx, key, c.tiles("server"), older) // before the newest, which has to extend it
	if err != nil {
		return r, "", err
	}
	var head server.LedgerCheckpoint
	if err := c.get(ctx, "/ledger/checkpoint", nil, &head); err != nil {
		return r, "", err
	}
	r.Cosigned, r.Problems = found, append(r.Problems, problems...)
	for _, known := range append([]string{older}, notes...) {
		if err := proveSince(ctx, c, key, known, head.Note); err != nil {
			r.Problems = append(r.Problems, err.Error())
		}
	}
	r.OK = r.OK && len(r.Problems) == 0
	return r, head.Note, nil
}

func proveSince(ctx context.Context, c *client, key, older, head string) error {
	newest, err := ledger.OpenCheckpoint(head, key)
	if err != nil {
		return fmt.Errorf("the ledger's checkpoint is not signed by the key: %w", err)
	}
	if older == "" {
		return nil
	}
	known, err := ledger.OpenCheckpoint(older, key)
	switch {
	case err != nil:
		return fmt.Errorf("the older checkpoint is not signed by the key: %w", err)
	case known.Size > newest.Size:
		return fmt.Errorf("the ledger was of %s once, and is of %d now: the last were removed", artifact.Count(known.Size, "entry"), newest.Size)
	case known.Size == 0:
		return nil
	}
	var p server.ConsistencyProof
	query := url.Values{"older": {strconv.FormatInt(known.Size, 10)}, "newer": {strconv.FormatInt(newest.Size, 10)}}
	if err := c.get(ctx, "/ledger/consistency", query, &p); err != nil {
		return fmt.Errorf("the proof that the ledger extends the older checkpoint: %w", err)
	}
	proof, err := hashes(p.Proof)
	if err == nil {
		err = ledger.CheckConsistency(newest, known, proof)
	}
	if err != nil {
		return fmt.Errorf("the ledger of %s does not extend the older checkpoint of %d: something before entry %d was changed: %w", artifact.Count(newest.Size, "entry"), known.Size, known.Size, err)
	}
	return nil
}

func (o auditOptions) fromTiles(ctx context.Context, c *client, key, older string) (r auditReport, note string, err error) {
	fetch := c.tiles(o.tiles)
	keep := func(ctx context.Context, path string) ([]byte, error) {
		b, err := fetch(ctx, path)
		if path == "checkpoint" {
			note = string(b)
		}
		if err == nil && o.keep != "" {
			err = writeTile(o.keep, path, b)
		}
		return b, err
	}
	var known []string
	if older != "" {
		known = append(known, older)
	}
	found, notes, problems, err := o.cosigned(ctx, key, keep, known...)
	if err != nil {
		return r, "", err
	}
	report, err := ledger.AuditTiles(ctx, keep, []string{key}, append(known, notes...)...)
	problems = append(report.Problems, problems...)
	r.LedgerReport = server.LedgerReport{OK: len(problems) == 0, Size: report.Entries, Root: report.Root, Checkpoints: report.Checkpoints, Problems: problems}
	r.Cosigned = found
	return r, note, err
}

// tiles returns how a log is read: over HTTP, or from a folder.
func (c *client) tiles(from string) ledger.Fetch {
	switch {
	case from == "server":
		from = c.base + "/ledger"
	case !strings.HasPrefix(from, "http://") && !strings.HasPrefix(from, "https://"):
		return func(_ context.Context, path string) ([]byte, error) {
			f, err := os.Open(filepath.Join(from, filepath.FromSlash(path)))
			if err != nil {
				return nil, err
			}
			defer f.Close()
			return readBounded(f, path)
		}
	}
	from = strings.TrimRight(from, "/")
	return func(ctx context.Context, path string) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, from+"/"+path, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("User-Agent", "waybill/"+version)
		// The token is for the server that it is of, and for no other log.
		if c.token != "" && strings.HasPrefix(from, c.base+"/") {
			req.Header.Set("Authorization", "Bearer "+c.token)
		}
		res, err := c.http.Do(req)
		if err != nil {
			return nil, c.unreachable(ctx, err)
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return nil, c.refusal(res)
		}
		return readBounded(res.Body, path)
	}
}

func readBounded(r io.Reader, path string) ([]byte, error) {
	limit := int64(maxTile)
	if path == "checkpoint" || path == "witnessed" {
		limit = maxNote
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	return b, err
}

// writeTile writes a file of a log; the paths are ours.
func writeTile(folder, path string, b []byte) error {
	file := filepath.Join(folder, filepath.FromSlash(path))
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o644) //nolint:gosec // for whoever audits
}

func readNote(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", usageError{err}
	}
	defer f.Close()
	b, err := readBounded(f, "checkpoint")
	return string(b), err
}

// hashes are those of a proof.
func hashes(all [][]byte) ([]ledger.Hash, error) {
	proof := make([]ledger.Hash, len(all))
	for i, h := range all {
		if len(h) != len(proof[i]) {
			return nil, errors.New("the proof is not made of hashes")
		}
		proof[i] = ledger.Hash(h)
	}
	return proof, nil
}
