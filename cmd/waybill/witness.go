package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/ledger"
)

// newWitness is the verb that cosigns the checkpoints of others' ledgers until a signal ends it.
func newWitness() *cobra.Command {
	var data, listen, name string
	var logs []string
	cmd := &cobra.Command{
		Use:   "witness --log FILE",
		Short: "Cosign the checkpoints of somebody else's ledger",
		Long: `Cosign the checkpoints of a ledger that somebody else runs (C2SP tlog-witness), each only if it is proven to extend the one
that was cosigned before: so that whoever runs the ledger cannot show another one to others. Run it on a machine, and by people,
that they have no say over. Give the ledger's key with --log (from "waybill key ledger"), and the key that this prints to
whoever runs the ledger (ledger.witnesses in the configuration) and to whoever audits (waybill audit --witness).

The folder holds the key and what was cosigned last. Without it, or with an older copy of it, a witness would cosign what
it must not: back up the key alone.`,
		Example: "  waybill witness --data /var/lib/witness --log ledger.pub --name witness.example.org/waybill --listen :8090",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(logs) == 0 {
				return usagef("name the key of the ledger with --log; `waybill key ledger` prints it")
			}
			return runWitness(cmd.Context(), data, listen, name, logs, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&logs, "log", nil, "`file` of a ledger's verifier key; repeat for more")
	flags.StringVar(&data, "data", "waybill-witness", "`folder` of the key and of what was cosigned")
	flags.StringVar(&listen, "listen", "127.0.0.1:8090", "`address` to listen on")
	flags.StringVar(&name, "name", "", "what a new key is called: a `name` such as witness.example.org/waybill (default the machine's name)")
	return cmd
}

func runWitness(ctx context.Context, data, listen, name string, logs []string, stdout, stderr io.Writer) error {
	unlock, err := lockFolder(data)
	if err != nil {
		return err
	}
	defer unlock()
	logger := newLogger(LogConfig{Level: "info", Format: "text"}, stderr)
	w, err := openWitness(data, name, logs, logger)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("listen: %w; choose another address with --listen", err)
	}
	fmt.Fprintf(stdout, "key %s\nlistening on http://%s\n", w.key.PublicKey(), listener.Addr())
	server := &http.Server{Handler: w, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug)}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return server.Shutdown(stopping)
}

// witness cosigns checkpoints.
type witness struct {
	key    *ledger.Cosigner
	logs   map[string]string // verifier keys, by the name in them
	folder string
	logger *slog.Logger

	mu sync.Mutex // from the reading of what was cosigned last until the next is durable
}

// cosigned is what was cosigned last of a log, as its file has it.
type cosigned struct {
	Origin     string `json:"origin"`
	Size       int64  `json:"size"`
	Root       []byte `json:"root"`
	Checkpoint string `json:"checkpoint"` // the log's own note, which it cannot take back
}

func openWitness(folder, name string, files []string, logger *slog.Logger) (*witness, error) {
	w := &witness{logs: map[string]string{}, folder: folder, logger: logger}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, usageError{err}
		}
		key := strings.TrimSpace(string(b))
		if err := ledger.CheckVerifier(key); err != nil {
			return nil, usageError{fmt.Errorf("%s: %w", file, err)}
		}
		origin, _, _ := strings.Cut(key, "+")
		w.logs[origin] = key
	}
	path := filepath.Join(folder, "witness.key")
	private, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		private, err = newWitnessKey(path, name)
	}
	if err != nil {
		return nil, fmt.Errorf("witness key: %w", err)
	}
	w.key, err = ledger.NewCosigner(strings.TrimSpace(string(private)))
	return w, err
}

func newWitnessKey(path, name string) ([]byte, error) {
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, err
		}
		name = host + "/waybill-witness"
	}
	if strings.ContainsAny(name, "+ \t\r\n") {
		return nil, usagef("a name has neither spaces nor +: %.100q", name)
	}
	private, err := ledger.GenerateCosigner(name)
	if err != nil {
		return nil, err
	}
	return []byte(private), durably(path, []byte(private+"\n"))
}

// ServeHTTP is C2SP tlog-witness, "add-checkpoint".
func (w *witness) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	out.Header().Set("Content-Type", "text/plain; charset=utf-8")
	out.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Path != "/add-checkpoint" || r.Method != http.MethodPost {
		http.Error(out, "POST /add-checkpoint", http.StatusNotFound)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(out, r.Body, ledger.MaxAddCheckpoint))
	if err != nil {
		http.Error(out, "the body broke off, or is too long", http.StatusBadRequest)
		return
	}
	line, err := w.add(body)
	var conflict *ledger.Conflict
	switch {
	case err == nil:
		_, _ = io.WriteString(out, line)
	case errors.As(err, &conflict):
		out.Header().Set("Content-Type", "text/x.tlog.size")
		out.WriteHeader(http.StatusConflict)
		fmt.Fprintf(out, "%d\n", conflict.Size)
	case errors.Is(err, ledger.ErrFork):
		http.Error(out, err.Error(), http.StatusUnprocessableEntity)
	case artifact.KindOf(err) == artifact.Invalid:
		http.Error(out, err.Error(), http.StatusBadRequest)
	case artifact.KindOf(err) == artifact.Denied:
		http.Error(out, err.Error(), http.StatusForbidden)
	case artifact.KindOf(err) == artifact.NotFound:
		http.Error(out, err.Error(), http.StatusNotFound)
	default:
		w.logger.Error("not cosigned", "error", err)
		http.Error(out, "what was cosigned could not be stored; see the log of the witness", http.StatusInternalServerError)
	}
}

// add cosigns a checkpoint. What was cosigned is durable before anybody sees the signature.
func (w *witness) add(body []byte) (line string, err error) {
	request, err := ledger.ParseAddCheckpoint(body)
	if err != nil {
		return "", err
	}
	origin, _, _ := strings.Cut(request.Checkpoint, "\n")
	log, ok := w.logs[origin]
	if !ok {
		return "", artifact.Errorf(artifact.NotFound, "this witness does not follow the log %.200q", origin)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	last, was, err := w.last(origin)
	if err != nil {
		return "", err
	}
	line, now, err := w.key.Cosign(request, log, last)
	if err != nil {
		shown, opened := ledger.OpenCheckpoint(request.Checkpoint, log)
		if opened == nil && (errors.Is(err, ledger.ErrFork) || shown.Size == last.Size && shown.Root != last.Root) {
			// Two notes of the log's own key that cannot both be: whoever has them can show it.
			w.logger.Error("the log shows a tree that is not proven to extend the one that was cosigned", "cosigned", was.Checkpoint, "shown", request.Checkpoint)
		}
		return "", err
	}
	if now == last {
		return line, nil
	}
	b, err := json.Marshal(cosigned{origin, now.Size, now.Root[:], request.Checkpoint})
	if err != nil {
		return "", err
	}
	return line, durably(w.file(origin), b)
}

// file is where what was cosigned last of a log is.
func (w *witness) file(origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return filepath.Join(w.folder, "log-"+hex.EncodeToString(sum[:])+".json")
}

func (w *witness) last(origin string) (last ledger.Checkpoint, c cosigned, err error) {
	b, err := os.ReadFile(w.file(origin))
	if errors.Is(err, fs.ErrNotExist) {
		return last, c, nil
	} else if err != nil {
		return last, c, err
	}
	if err := json.Unmarshal(b, &c); err != nil || c.Origin != origin || len(c.Root) != len(last.Root) || c.Size < 0 {
		return last, c, fmt.Errorf("%s: it is not what a witness keeps; nothing is cosigned until it is", w.file(origin))
	}
	return ledger.Checkpoint{Origin: origin, Size: c.Size, Root: ledger.Hash(c.Root)}, c, nil
}

// durably writes a file, whole or not at all, and returns when a power cut cannot take it back.
func durably(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
