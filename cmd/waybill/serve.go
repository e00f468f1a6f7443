package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// newServe is the verb that runs the server until a signal ends it.
func newServe() *cobra.Command {
	var configFile, data, listen string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the registry",
		Long: `Run the registry. Without a configuration it needs nothing: it keeps everything in one folder, with a private
PostgreSQL, makes its keys and the first admin token, and listens on 127.0.0.1:8080. It ends on SIGTERM, and takes up
the same folder again however it ended.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(configFile, os.Environ())
			if err != nil {
				return err
			}
			if data != "" {
				cfg.Data = data
			}
			if listen != "" {
				cfg.Listen = listen
			}
			return serve(cmd.Context(), cfg, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&configFile, "config", "", "configuration `file` (YAML)")
	cmd.Flags().StringVar(&data, "data", "", "data `folder` (default waybill-data)")
	cmd.Flags().StringVar(&listen, "listen", "", "`address` to listen on (default 127.0.0.1:8080)")
	return cmd
}

func newLogger(cfg LogConfig, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.Level)) // checked with the configuration
	options := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// memoryLimit is when the garbage collector begins to work harder, in bytes.
const memoryLimit = 128 << 20

// serve runs everything until ctx is done, then stops it in order: intake, workers, scanner, database.
func serve(ctx context.Context, cfg Config, stdout, stderr io.Writer) error {
	// A soft limit keeps peaks, such as the facts of a large layer, from staying; GOMEMLIMIT overrides it.
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	logger := newLogger(cfg.Log, stderr)
	slog.SetDefault(logger)
	var err error
	if cfg.Data, err = filepath.Abs(cfg.Data); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	unlock, err := lockFolder(cfg.Data)
	if err != nil {
		return err
	}
	defer unlock()
	// Listening first tells a taken port at once, rather than after the database has started.
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w; choose another address with --listen", err)
	}
	defer listener.Close()
	app, err := wire(ctx, cfg, logger)
	if err != nil {
		return err
	}
	defer app.close()
	if app.newAdminToken != "" {
		fmt.Fprintf(stdout, "admin token (shown once; also in %s):\n%s\n", filepath.Join(cfg.Data, adminTokenFile), app.newAdminToken)
	}
	telling := app.tell(ctx)
	defer telling()
	if err := app.jobs.Start(ctx); err != nil {
		return fmt.Errorf("start workers: %w", err)
	}
	debug.FreeOSMemory() // a start needs some that nothing needs after it
	fmt.Fprintf(stdout, "listening on http://%s\n", listener.Addr())
	return app.run(ctx, listener)
}

// lockFolder makes the data folder and takes it, so that two servers never share one. The kernel lets go of the lock
// however the process ends.
func lockFolder(dir string) (unlock func(), err error) {
	// The folder is passed through, not read, by the other user that the database runs as.
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another waybill serve runs on the data folder %s; stop it, or name another folder with --data", dir)
		}
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	return func() { f.Close() }, nil
}
