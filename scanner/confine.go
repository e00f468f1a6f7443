package scanner

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Confine is for the child: before it reads a byte of others' it gives up, for good and for all its threads, what it does
// not need. What is left to it is its folder, the databases' folders for reading, and the descriptors that it was given:
// no other file (Landlock), no new socket and no other program (seccomp), no rights that a program file could bring, no
// core dump of what it read, and a bounded memory. Each holds by itself; the error names those that the kernel lacks.
func Confine(temp string, databases ...string) error {
	return errors.Join(
		wrap("resource limits", limitResources()),
		wrap("no_new_privs", onAllThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)),
		wrap("Landlock", restrictFiles(temp, databases)),
		wrap("seccomp", restrictCalls()),
	)
}

func wrap(what string, err error) error {
	if err != nil {
		err = fmt.Errorf("%s: %w", what, err)
	}
	return err
}

// hardMemory times the soft limit is where the kernel says no: a parser that takes so much was led astray.
const hardMemory = 5

// maxFile bounds each file that it writes, in bytes: an archive within a jar unpacks to whatever it claims. Who parses it
// may pass over that the write failed, so that the process ends: what is in such a layer cannot be told.
const maxFile = 4 << 30

func limitResources() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: maxFile, Max: maxFile}); err != nil {
		return err
	}
	beyond := make(chan os.Signal, 1)
	signal.Notify(beyond, unix.SIGXFSZ)
	go func() {
		<-beyond
		fmt.Fprintln(os.Stderr, "a file grew beyond what the scanner may write")
		os.Exit(1)
	}()
	soft := debug.SetMemoryLimit(-1)
	if soft > 1<<40 {
		return nil // nobody set one
	}
	hard := uint64(max(soft*hardMemory, 2<<30))
	return unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: hard, Max: hard})
}

// onAllThreads makes a system call that binds only the thread that makes it.
func onAllThreads(call, a, b uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall6(call, a, b, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// The access rights of landlock(7), by what a process may do with what.
const (
	landlockRead  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	landlockWrite = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SYM
	landlockNever = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK
)

// restrictFiles lets the process reach its own folder and those of databases, with what this kernel's version of Landlock can forbid.
func restrictFiles(temp string, databases []string) error {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return errno
	}
	rules, size := landlockRules(int(abi))
	set, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&rules)), size, 0)
	if errno != 0 {
		return errno
	}
	defer func() { _ = unix.Close(int(set)) }()
	if err := allow(int(set), temp, rules.Access_fs&^landlockNever); err != nil {
		return err
	}
	for _, folder := range databases {
		if folder == "" {
			continue
		}
		if err := allow(int(set), folder, landlockRead); err != nil {
			return err
		}
	}
	return onAllThreads(unix.SYS_LANDLOCK_RESTRICT_SELF, set, 0)
}

// landlockRules returns all that a version of Landlock can handle, and the size of the struct that the version knows.
func landlockRules(abi int) (unix.LandlockRulesetAttr, uintptr) {
	rules, size := unix.LandlockRulesetAttr{Access_fs: landlockRead | landlockWrite | landlockNever}, uintptr(8)
	if abi >= 2 {
		rules.Access_fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		rules.Access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 4 {
		rules.Access_net, size = unix.LANDLOCK_ACCESS_NET_BIND_TCP|unix.LANDLOCK_ACCESS_NET_CONNECT_TCP, 16
	}
	if abi >= 5 {
		rules.Access_fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if abi >= 6 {
		rules.Scoped, size = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET|unix.LANDLOCK_SCOPE_SIGNAL, unsafe.Sizeof(rules)
	}
	return rules, size
}

func allow(set int, folder string, access uint64) error {
	fd, err := unix.Open(folder, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: folder, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access, Parent_fd: int32(fd)}
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(set), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// forbidden calls open a way out: to the network, to another program, to another process, or into rarely used code of
// the kernel.
var forbidden = []uint32{
	unix.SYS_SOCKET, unix.SYS_EXECVE, unix.SYS_EXECVEAT,
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PIDFD_GETFD,
	unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_MOUNT, unix.SYS_FSOPEN, unix.SYS_OPEN_TREE,
	unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP,
}

// Offsets in struct seccomp_data (seccomp(2)), and the bit that x32's calls have.
const (
	seccompNumber = 0
	seccompArch   = 4
	x32           = 0x40000000
)

// restrictCalls has the kernel answer EPERM to each forbidden call, of every thread.
func restrictCalls() error {
	arch, known := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	if !known {
		return errors.ErrUnsupported
	}
	deny, allow := unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM), uint32(unix.SECCOMP_RET_ALLOW)
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	answer := func(with uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: with} }
	unless := func(test uint16, k uint32) unix.SockFilter { // skips the next instruction unless the test holds
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | test, Jf: 1, K: k}
	}
	program := []unix.SockFilter{
		load(seccompArch), {Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: arch}, answer(deny),
		load(seccompNumber), unless(unix.BPF_JGE, x32), answer(deny),
	}
	for _, call := range forbidden {
		program = append(program, unless(unix.BPF_JEQ, call), answer(deny))
	}
	program = append(program, answer(allow))
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	// It answers 0, or the first thread that would not follow.
	if thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&filter))); errno != 0 {
		return errno
	} else if thread != 0 {
		return fmt.Errorf("thread %d does not follow", thread)
	}
	return nil
}
