package scanner

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"waybill/internal/child"
)

// process is one running scanner; one request at a time.
type process struct {
	cmd        *exec.Cmd
	in         io.WriteCloser
	out        *bufio.Reader
	closeOut   func() error
	files      *net.UnixConn // layer files go down here
	folder     string
	databases  Databases
	unconfined string // what its Hello said
	stderr     *child.Tail
	ended      chan struct{}
	expiry     *time.Timer // while idle
	spared     bool        // that timer ran out once
	once       sync.Once
}

// nice makes a scanner's share of a busy processor about a third of the server's.
const nice = 5

// nobody is the user that a root server runs its scanners as.
const nobody = 65534

// start runs the program: an environment of its own, a folder of its own, nobody's rights when this is root, and an end
// with this process. It hands over the folders of databases: the child may not be able to reach them by their
// paths.
func start(ctx context.Context, cfg Config, databases Databases) (_ *process, err error) {
	program, err := os.Open(cfg.Program)
	if err != nil {
		return nil, err
	}
	defer program.Close()
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	p := &process{files: ours, databases: databases, stderr: child.NewTail(8192), ended: make(chan struct{})}
	defer func() {
		if err != nil {
			p.files.Close()
			os.RemoveAll(p.folder)
		}
	}()
	if p.folder, err = os.MkdirTemp(cfg.Folder, "waybill-scanner-"); err != nil {
		return nil, err
	}
	p.cmd = command(cfg, p.folder, p.stderr, theirs, program)
	for _, d := range []struct{ variable, path string }{{Database, databases.Advisories}, {Java, databases.Java}} {
		if d.path == "" {
			continue
		}
		folder, err := os.Open(d.path)
		if err != nil {
			return nil, err
		}
		defer folder.Close()
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, folder)
		p.cmd.Env = append(p.cmd.Env, fmt.Sprintf("%s=/proc/self/fd/%d", d.variable, 2+len(p.cmd.ExtraFiles)))
	}
	if os.Getuid() == 0 {
		if err := os.Chown(p.folder, nobody, nobody); err != nil {
			return nil, err
		}
	}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out, p.closeOut = bufio.NewReaderSize(out, 256<<10), out.Close
	if err := p.run(); err != nil {
		return nil, err
	}
	return p, p.greet(ctx, cfg.Version)
}

// command is the child with nothing of this process but what it is given: files begin at descriptor 3.
func command(cfg Config, folder string, stderr io.Writer, files ...*os.File) *exec.Cmd {
	cmd := exec.Command(cfg.Program)
	cmd.ExtraFiles = files
	cmd.Stderr = stderr
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + folder, "TMPDIR=" + folder, "TZ=UTC", "GOMEMLIMIT=" + strconv.FormatInt(cfg.Memory, 10),
		"GOGC=200", "GOMAXPROCS=" + strconv.Itoa(runtime.NumCPU())}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		// By its descriptor, which is 4 there: nobody may not pass through the folders that lead to it.
		cmd.Path = "/proc/self/fd/4"
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	return cmd
}

// run starts the child from a thread that lives as long as it: Pdeathsig fires when the thread that forked ends.
func (p *process) run() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := p.cmd.Start()
		if err == nil {
			// Uploads and pulls go first. The group is the child with all its threads: it leads one of its own.
			_ = unix.Setpriority(unix.PRIO_PGRP, p.cmd.Process.Pid, nice)
		}
		started <- err
		if err == nil {
			_, _ = p.cmd.Process.Wait()
			close(p.ended)
		}
	}()
	return <-started
}

// greet checks that the two programs belong together.
func (p *process) greet(ctx context.Context, version string) error {
	timed, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var hello Hello
	if err := p.within(timed, func() error { return Read(p.out, &hello) }); err != nil {
		return fmt.Errorf("start scanner: %w: %s", err, p.kill())
	}
	if hello.Protocol != Protocol || hello.Version != version {
		p.kill()
		return fmt.Errorf("waybill-scanner is of version %.100q, waybill of %q; build both from one source (make build)", hello.Version, version)
	}
	p.unconfined = hello.Unconfined
	return nil
}

func (p *process) ask(ctx context.Context, request Request, file *os.File) (Response, error) {
	var response Response
	err := p.within(ctx, func() error {
		if file != nil {
			// The child may not be able to reach a layer's file by its path.
			if _, _, err := p.files.WriteMsgUnix([]byte{1}, unix.UnixRights(int(file.Fd())), nil); err != nil {
				return err
			}
		}
		if err := Write(p.in, request); err != nil {
			return err
		}
		return Read(p.out, &response)
	})
	return response, err
}

// within runs an exchange until ctx is done; then the process is killed, which ends the exchange.
func (p *process) within(ctx context.Context, exchange func() error) error {
	stop := context.AfterFunc(ctx, func() { p.kill() })
	defer stop()
	return errors.Join(exchange(), ctx.Err())
}

// dead says whether the process ended by itself.
func (p *process) dead() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// kill ends the process, waits for it, removes its folder, and returns the end of what it said. Safe to call twice.
func (p *process) kill() string {
	p.once.Do(func() {
		_ = p.cmd.Process.Kill() // it has no children: it cannot run a program
		<-p.ended
		_ = p.in.Close()
		_ = p.closeOut()
		_ = p.files.Close()
		_ = os.RemoveAll(p.folder)
	})
	return p.stderr.String()
}

func socketPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	theirs = os.NewFile(uintptr(fds[1]), "scanner files")
	mine := os.NewFile(uintptr(fds[0]), "scanner files")
	defer mine.Close()
	conn, err := net.FileConn(mine)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn.(*net.UnixConn), theirs, nil
}

// ReceiveFile is the child's end: it takes the next file from descriptor 3.
func ReceiveFile(socket *net.UnixConn) (*os.File, error) {
	one, rights := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := socket.ReadMsgUnix(one, rights)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		return nil, errors.New("no file came with the request")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.New("no file came with the request")
	}
	return os.NewFile(uintptr(fds[0]), "layer"), nil
}

// CleanFolders removes what scanners of a killed server left.
func CleanFolders(folder string) {
	left, _ := filepath.Glob(filepath.Join(folder, "waybill-scanner-*"))
	for _, dir := range left {
		_ = os.RemoveAll(dir)
	}
}
