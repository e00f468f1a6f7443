package postgres

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"waybill/internal/child"
)

// Embedded is a private PostgreSQL server in a folder of its own: a child process on a Unix socket, with fsync on.
// It ends with this process, however that ends, and its folder is taken up again by the next start. When it ends by
// itself, it is started again (supervise.go).
type Embedded struct {
	dir    string
	bin    string
	url    string              // of the superuser, who owns the tables
	role   string              // password of the role that the service uses
	owner  *syscall.Credential // nil unless this is root
	hidden bool                // the owner cannot reach dir, so children run in a user namespace instead
	logger *slog.Logger

	wait    time.Duration   // before it is started again, at first
	running context.Context //nolint:containedctx // until Stop
	stop    context.CancelFunc
	done    chan struct{} // closed when it has ended for good
	failure error         // why, unless it was asked; to be read after done
}

// embeddedUser is the superuser and the database; serviceUser is the role that the service uses, which owns no table that
// a migration made.
const (
	embeddedUser = "waybill"
	serviceUser  = "waybill_service"
)

// StartEmbedded makes the cluster in dir if there is none, starts it and waits until it answers. As root it drops to
// the user postgres, or else nobody, since PostgreSQL refuses to run as root.
func StartEmbedded(ctx context.Context, dir string, logger *slog.Logger) (*Embedded, error) {
	bin, err := findPostgres()
	if err != nil {
		return nil, err
	}
	// Children run elsewhere, so the folder is named from the root.
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	e := &Embedded{dir: dir, bin: bin, wait: restartMin, done: make(chan struct{}), logger: logger}
	if e.owner, err = databaseOwner(); err != nil {
		return nil, err
	}
	e.hidden = e.owner != nil && !Reachable(filepath.Dir(dir))
	if err := e.prepare(ctx, bin); err != nil {
		if e.hidden {
			err = fmt.Errorf("%w (only root may enter a folder above it, and no user namespace could be made; choose another folder, such as --data /var/lib/waybill)", err)
		}
		return nil, fmt.Errorf("prepare PostgreSQL in %s: %w", dir, err)
	}
	s, err := e.start(ctx)
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL in %s: %w", dir, err)
	}
	e.running, e.stop = context.WithCancel(context.Background())
	go e.supervise(s)
	return e, nil
}

// URL is the connection string of the superuser; it holds the password.
func (e *Embedded) URL() string { return e.url }

// ServiceURL is that of the role that the service uses.
func (e *Embedded) ServiceURL() string {
	return fmt.Sprintf("%s user=%s password=%s", e.url, serviceUser, e.role)
}

// Done is closed when the server has ended for good: it was asked to, or does not start any more.
func (e *Embedded) Done() <-chan struct{} { return e.done }

// Err is why it ended, once Done is closed; nil when it was asked to.
func (e *Embedded) Err() error { return e.failure }

// Stop ends the server and waits. Safe to call twice.
func (e *Embedded) Stop() {
	e.stop()
	<-e.done
}

// findPostgres returns the folder that has initdb and postgres: a version folder of Debian's or another
// distribution's, newest first, else what PATH has.
func findPostgres() (string, error) {
	var folders []string
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql*/bin"} {
		found, _ := filepath.Glob(pattern)
		folders = append(folders, found...)
	}
	sort.Slice(folders, func(i, j int) bool { return versionIn(folders[i]) > versionIn(folders[j]) })
	if p, err := exec.LookPath("initdb"); err == nil {
		folders = append(folders, filepath.Dir(p))
	}
	for _, f := range folders {
		if executable(filepath.Join(f, "initdb")) && executable(filepath.Join(f, "postgres")) {
			return f, nil
		}
	}
	return "", errors.New("no PostgreSQL found: install it (Debian: apt-get install postgresql) or set database.url in the configuration")
}

func versionIn(path string) int {
	n, _ := strconv.Atoi(strings.Trim(strings.TrimPrefix(filepath.Base(filepath.Dir(path)), "pgsql-"), "abcdefghijklmnopqrstuvwxyz@-"))
	return n
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// databaseOwner is nil unless this process is root.
func databaseOwner() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
			gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
			if err1 == nil && err2 == nil {
				return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
			}
		}
	}
	return nil, errors.New("running as root, and there is neither a user postgres nor nobody to run PostgreSQL as")
}

// prepare makes folders and, once, the cluster. initdb fills a side folder that is renamed when it is whole, so that
// a kill in the middle leaves nothing that looks like a cluster.
func (e *Embedded) prepare(ctx context.Context, bin string) error {
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return err
	}
	if err := e.chown(e.dir); err != nil {
		return err
	}
	password, err := e.password("password")
	if err != nil {
		return err
	}
	if e.role, err = e.password("service-password"); err != nil {
		return err
	}
	run, err := e.runDir()
	if err != nil {
		return err
	}
	e.url = fmt.Sprintf("host='%s' user=%s password=%s dbname=%s sslmode=disable", strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(run),
		embeddedUser, url.QueryEscape(password), embeddedUser)
	data := filepath.Join(e.dir, "data")
	if _, err := os.Stat(filepath.Join(data, "PG_VERSION")); err == nil {
		return nil
	}
	fresh := filepath.Join(e.dir, "data.new")
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", fresh, "-U", embeddedUser, "--pwfile", filepath.Join(e.dir, "password"),
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums", "--no-instructions")
	e.dress(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, bytes.TrimSpace(out))
	}
	return os.Rename(fresh, data)
}

// password returns the password in a file, made once.
func (e *Embedded) password(file string) (string, error) {
	path := filepath.Join(e.dir, file)
	if b, err := os.ReadFile(path); err == nil && len(b) == 64 {
		return string(b), nil
	}
	var secret [32]byte
	if _, err := rand.Read(secret[:]); err != nil {
		return "", err
	}
	text := hex.EncodeToString(secret[:])
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return "", err
	}
	return text, e.chown(path)
}

// runDir is where the socket lies: in the folder itself, or in a short one under the temporary folder when that
// path would pass the 107 bytes of sockaddr_un.
func (e *Embedded) runDir() (string, error) {
	run := filepath.Join(e.dir, "run")
	if len(run)+len("/.s.PGSQL.5432.lock") > 100 {
		short, err := os.MkdirTemp("", "waybill-pg-")
		if err != nil {
			return "", err
		}
		run = short
	} else if err := os.MkdirAll(run, 0o700); err != nil {
		return "", err
	}
	return run, e.chown(run)
}

func (e *Embedded) chown(path string) error {
	if e.owner == nil || e.hidden {
		return nil
	}
	return os.Chown(path, int(e.owner.Uid), int(e.owner.Gid))
}

// dress gives a child its user, a clean environment and an end with ours.
func (e *Embedded) dress(cmd *exec.Cmd) {
	cmd.Env = []string{"LC_ALL=C.UTF-8", "PATH=/usr/bin:/bin", "TZ=UTC"}
	cmd.Dir = e.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: e.owner, Setpgid: true, Pdeathsig: syscall.SIGINT}
	if e.hidden {
		// Below a folder such as /root that only root may enter. PostgreSQL refuses to be root, so in a namespace of its
		// own it is the other user there, with root's files and none of root's powers.
		cmd.SysProcAttr.Credential = nil
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: int(e.owner.Uid), HostID: 0, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: int(e.owner.Gid), HostID: 0, Size: 1}}
	}
}

// Reachable reports whether users other than this one may pass through a folder and all that lead to it.
func Reachable(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode()&0o001 == 0 {
			return false
		}
		if dir == "/" || dir == "." {
			return true
		}
	}
}

// start starts a server process and waits until it answers.
func (e *Embedded) start(ctx context.Context) (*child.Process, error) {
	config, err := pgx.ParseConfig(e.url)
	if err != nil {
		return nil, err
	}
	if err := e.awaitPredecessor(ctx); err != nil {
		return nil, err
	}
	// Tables that begin empty grow fast: the planner is to know of it within seconds, not a minute.
	cmd := exec.Command(filepath.Join(e.bin, "postgres"), "-D", filepath.Join(e.dir, "data"), "-k", config.Host,
		"-c", "listen_addresses=", "-c", "unix_socket_permissions=0700", "-c", "fsync=on", "-c", "max_connections=64",
		"-c", "shared_buffers=64MB", "-c", "jit=off", "-c", "autovacuum_naptime=10s", "-c", "wal_level=minimal", "-c", "max_wal_senders=0", "-c", "log_min_messages=warning", "-c", "timezone=UTC")
	e.dress(cmd)
	p, err := child.Start(cmd, outputKept)
	if err != nil {
		return nil, err
	}
	if err := awaitReady(ctx, p, config, e.role); err != nil {
		stop(p)
		return nil, err
	}
	return p, nil
}

// awaitPredecessor waits for a server that a killed Waybill left: it was told to stop when its parent died, and
// holds its lock file until it has.
func (e *Embedded) awaitPredecessor(ctx context.Context) error {
	lock := filepath.Join(e.dir, "data", "postmaster.pid")
	for deadline := time.Now().Add(30 * time.Second); ; {
		b, err := os.ReadFile(lock)
		if err != nil {
			return nil
		}
		first, _, _ := strings.Cut(string(b), "\n")
		pid, err := strconv.Atoi(strings.TrimSpace(first))
		if err != nil || !isPostgres(pid) {
			return nil // stale: postgres removes it by itself
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("another PostgreSQL (process %d) still uses this folder; is another waybill serve running on it?", pid)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

func isPostgres(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return err == nil && strings.HasPrefix(string(b), "postgres")
}

// awaitReady waits for a minute, or as long as the server says that it is starting: it makes good what a crash left.
func awaitReady(ctx context.Context, p *child.Process, config *pgx.ConnConfig, role string) error {
	admin := config.Copy()
	admin.Database = "postgres"
	for deadline := time.Now().Add(60 * time.Second); ; {
		conn, err := pgx.ConnectConfig(ctx, admin)
		if err == nil {
			defer conn.Close(ctx)
			return ensureDatabase(ctx, conn, role)
		}
		select {
		case <-p.Ended:
			return fmt.Errorf("it ended at once: %s", p.Output)
		default:
		}
		var pg *pgconn.PgError
		if starting := errors.As(err, &pg) && pg.Code == "57P03"; !starting && time.Now().After(deadline) {
			return fmt.Errorf("it does not answer: %w: %s", err, p.Output)
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// ensureDatabase makes the database and the service's role where they are not there; the role's password is set each
// time, since its file may have been lost.
func ensureDatabase(ctx context.Context, conn *pgx.Conn, password string) error {
	var database, role bool
	if err := conn.QueryRow(ctx, `select exists (select from pg_database where datname = $1), exists (select from pg_roles where rolname = $2)`, embeddedUser, serviceUser).Scan(&database, &role); err != nil {
		return err
	}
	verb := "alter"
	if !role {
		verb = "create"
	}
	if _, err := conn.Exec(ctx, verb+` role `+serviceUser+` with login nosuperuser nocreatedb nocreaterole password '`+password+`'`); err != nil { // hexadecimal
		return err
	}
	if database {
		return nil
	}
	_, err := conn.Exec(ctx, `create database `+embeddedUser)
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
