package builder

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"

	"waybill/artifact"
)

// Fetcher gets contexts out of git repositories, with the git program: one commit, without history. Nothing of the
// repository is run or interpreted: no hooks, filters, attributes or submodules; files are what git stores.
type Fetcher struct {
	// Allowed are patterns of path.Match of the repositories that may be fetched, such as https://git.example.com/shop/*.git;
	// ** at the end stands for all below, and https:// begins each. A user of the server must not make it knock at other doors.
	Allowed []string
	Timeout time.Duration // of a fetch, until its last file is read. Default 10 minutes
}

// Fetched is a commit's files as a tar stream, to be closed.
type Fetched struct {
	io.Reader
	Source Source
	close  func() error
}

// Close ends the programs that the stream comes from.
func (f *Fetched) Close() error { return f.close() }

// IsGit says whether a context is named as a git URL, as docker build takes it for one: https://HOST/PATH.git[#REF[:FOLDER]].
func IsGit(name string) bool {
	ref, isGit, err := dfgitutil.ParseGitRef(name)
	return isGit && (err != nil || !ref.IndistinguishableFromLocal)
}

var hexCommit = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// gitURL is a parsed git context.
type gitURL struct {
	remote, ref, folder string
	commit              string // that the ref must stand at; "" for whichever it does
}

func parseGitURL(text string) (gitURL, error) {
	parsed, isGit, err := dfgitutil.ParseGitRef(text)
	if err != nil || !isGit || parsed.IndistinguishableFromLocal {
		return gitURL{}, artifact.Errorf(artifact.Invalid, "context %.300q: want https://HOST/PATH.git#REF or https://HOST/PATH.git#REF:FOLDER", text)
	}
	u := gitURL{remote: parsed.Remote, ref: parsed.Ref, folder: strings.Trim(path.Clean("/"+parsed.SubDir), "/"), commit: parsed.Checksum}
	scheme, _, _ := strings.Cut(u.remote, "://")
	if scheme != "https" && scheme != "http" && scheme != "file" {
		return gitURL{}, artifact.Errorf(artifact.Unsupported, "context %.300q: repositories are fetched by https alone, without keys", text)
	}
	if strings.Contains(u.remote, "@") {
		return gitURL{}, artifact.Errorf(artifact.Invalid, "context %.300q: a URL with a user or password would be stored with the build; fetch the repository where you are, and send the folder", redact(u.remote))
	}
	if hexCommit.MatchString(u.ref) && u.commit == "" {
		u.commit = u.ref
	}
	if u.commit != "" && !hexCommit.MatchString(u.commit) {
		return gitURL{}, artifact.Errorf(artifact.Invalid, "commit %.100q: want all of it, 40 or 64 hexadecimal digits", u.commit)
	}
	if u.ref == "" {
		u.ref = "HEAD"
	}
	if strings.HasPrefix(u.ref, "-") || strings.ContainsAny(u.ref, " \t\n:^~?*[\\\x00") || strings.Contains(u.ref, "..") {
		return gitURL{}, artifact.Errorf(artifact.Invalid, "%.100q is no name of a branch, tag or commit", u.ref)
	}
	return u, nil
}

// redact takes user and password out of a URL.
func redact(remote string) string {
	scheme, rest, _ := strings.Cut(remote, "://")
	return scheme + "://…@" + rest[strings.LastIndexByte(rest, '@')+1:]
}

// allows says whether a remote may be fetched. A pattern names how: ** alone does not open the server's own disk.
func (f *Fetcher) allows(remote string) bool {
	if f == nil {
		return false
	}
	scheme, _, _ := strings.Cut(remote, "://")
	for _, pattern := range f.Allowed {
		if !strings.HasPrefix(pattern, scheme+"://") {
			continue
		}
		if below, ok := strings.CutSuffix(pattern, "**"); ok && strings.HasPrefix(remote, below) && !strings.Contains(remote, "/../") {
			return true
		}
		if ok, err := path.Match(pattern, remote); ok && err == nil {
			return true
		}
	}
	return false
}

// Fetch gets a commit into a bare repository in temp, and gives its files.
func (f *Fetcher) Fetch(ctx context.Context, text, temp string, limits Limits) (*Fetched, error) {
	u, err := parseGitURL(text)
	if err != nil {
		return nil, err
	}
	if !f.allows(u.remote) {
		return nil, artifact.Errorf(artifact.Denied, "this server may not fetch %.300s: builder.git in its configuration lists the repositories that it may; or clone it where you are, and build the folder", u.remote)
	}
	if _, err := exec.LookPath("git"); err != nil {
		return nil, artifact.Errorf(artifact.Unsupported, "there is no git on this server; clone the repository where you are, and build the folder")
	}
	g := &repository{dir: filepath.Join(temp, "git"), limit: limits.withDefaults().Context}
	ctx, cancel := context.WithTimeout(ctx, f.timeout())
	source, err := g.fetch(ctx, u)
	if err != nil {
		cancel()
		return nil, err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(g.archive(ctx, source.Tree, w)) }()
	return &Fetched{r, source, func() error { cancel(); return r.Close() }}, nil
}

func (f *Fetcher) timeout() time.Duration {
	if f.Timeout == 0 {
		return 10 * time.Minute
	}
	return f.Timeout
}

// repository is a bare git repository.
type repository struct {
	dir   string
	limit int64
}

// command is git without any configuration but what is said here.
func (g *repository) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", append([]string{"--git-dir", g.dir,
		"-c", "core.hooksPath=/dev/null", "-c", "protocol.allow=never", "-c", "protocol.https.allow=always", "-c", "protocol.http.allow=always",
		"-c", "protocol.file.allow=always", "-c", "http.followRedirects=false", "-c", "fetch.fsckObjects=true", "-c", "gc.auto=0", "-c", "credential.helper="}, args...)...)
	cmd.Dir = filepath.Dir(g.dir)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + g.dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C"}
	for _, name := range []string{"https_proxy", "http_proxy", "no_proxy", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"} {
		if v, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

func (g *repository) run(ctx context.Context, args ...string) (string, error) {
	cmd := g.command(ctx, args...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("git %s: %w: %.1000s", args[0], errors.Join(err, context.Cause(ctx)), strings.TrimSpace(said.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

func (g *repository) fetch(ctx context.Context, u gitURL) (Source, error) {
	if _, err := g.run(ctx, "init", "--quiet", "--bare", "--object-format", objectFormat(u.commit)); err != nil {
		return Source{}, err
	}
	wanted := u.ref
	if u.commit != "" {
		wanted = u.commit
	}
	if err := g.bounded(ctx, func(ctx context.Context) error {
		_, err := g.run(ctx, "fetch", "--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head", "--", u.remote, "+"+wanted+":refs/context")
		return err
	}); err != nil {
		return Source{}, err
	}
	commit, err := g.run(ctx, "rev-parse", "--verify", "refs/context^{commit}")
	if err != nil {
		return Source{}, err
	}
	if u.commit != "" && commit != u.commit {
		return Source{}, artifact.Errorf(artifact.Invalid, "%s stands at commit %s, not at %s", u.ref, commit, u.commit)
	}
	at, err := g.run(ctx, "show", "--no-patch", "--format=%ct", commit)
	if err != nil {
		return Source{}, err
	}
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return Source{}, err
	}
	tree, err := g.run(ctx, "rev-parse", "--verify", commit+":"+u.folder)
	if err != nil {
		return Source{}, artifact.Errorf(artifact.Invalid, "commit %s has no folder %.200q", commit, u.folder)
	}
	uri := u.remote
	if u.folder != "" {
		uri += "#:" + u.folder
	}
	return Source{URI: uri, Commit: commit, Tree: tree, Fetched: true, Time: time.Unix(seconds, 0)}, nil
}

func objectFormat(commit string) string {
	if len(commit) == 64 {
		return "sha256"
	}
	return "sha1"
}

// bounded ends what fills the repository past the limit; git has no bound of its own for what it fetches.
func (g *repository) bounded(ctx context.Context, fetch func(context.Context) error) error {
	tooLarge := artifact.Errorf(artifact.TooLarge, "the commit is larger than %s; raise builder.context in the configuration, or build a folder of it", size(g.limit))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	go func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
				if g.size() > g.limit {
					cancel(tooLarge)
				}
			}
		}
	}()
	err := fetch(ctx)
	close(ended)
	if errors.Is(context.Cause(ctx), tooLarge) || g.size() > g.limit {
		return tooLarge
	}
	if err != nil {
		return artifact.Errorf(artifact.Unavailable, "the repository cannot be fetched: %w", err)
	}
	return nil
}

func (g *repository) size() (total int64) {
	_ = filepath.WalkDir(g.dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // git moves its files meanwhile
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			total += info.Size()
		}
		return nil
	})
	return total
}

// archive writes a tree's files as they are stored; git archive would heed attributes of the repository.
func (g *repository) archive(ctx context.Context, tree string, w io.Writer) (err error) {
	list := g.command(ctx, "ls-tree", "-r", "-z", "--full-tree", tree)
	entries, err := list.StdoutPipe()
	if err != nil {
		return err
	}
	if err := list.Start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, list.Wait()) }()
	files := g.command(ctx, "cat-file", "--batch")
	ask, err := files.StdinPipe()
	if err != nil {
		return err
	}
	answers, err := files.StdoutPipe()
	if err != nil {
		return err
	}
	if err := files.Start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ask.Close(), files.Wait()) }()
	out := &gitTar{tar.NewWriter(w), ask, bufio.NewReaderSize(answers, 64<<10)}
	for r := bufio.NewReader(entries); ; {
		entry, err := r.ReadString(0)
		if errors.Is(err, io.EOF) {
			return out.archive.Close()
		} else if err != nil {
			return err
		}
		if err := out.add(strings.TrimSuffix(entry, "\x00")); err != nil {
			return err
		}
	}
}

// gitTar writes entries of ls-tree, "MODE TYPE HASH\tPATH", with what cat-file --batch answers of them.
type gitTar struct {
	archive *tar.Writer
	ask     io.Writer
	answers *bufio.Reader
}

func (g *gitTar) add(entry string) error {
	meta, name, ok := strings.Cut(entry, "\t")
	fields := strings.Fields(meta)
	if !ok || len(fields) != 3 {
		return fmt.Errorf("git ls-tree says %.200q", entry)
	}
	h := &tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg, Format: tar.FormatPAX, ModTime: time.Unix(0, 0)}
	switch fields[0] {
	case "160000": // a submodule, which is not fetched: an empty folder
		return g.archive.WriteHeader(&tar.Header{Name: name + "/", Mode: 0o755, Typeflag: tar.TypeDir})
	case "100755":
		h.Mode = 0o755
	}
	if _, err := io.WriteString(g.ask, fields[2]+"\n"); err != nil {
		return err
	}
	var hash, kind string
	answer, err := g.answers.ReadString('\n')
	if err != nil {
		return err
	}
	if _, err := fmt.Sscan(answer, &hash, &kind, &h.Size); err != nil || kind != "blob" {
		return fmt.Errorf("git cat-file says %.200q of %s", answer, name)
	}
	if fields[0] == "120000" {
		if h.Size > maxPath {
			return artifact.Errorf(artifact.Invalid, "the link %.200q leads to a path of %d bytes", name, h.Size)
		}
		target := make([]byte, h.Size)
		if _, err := io.ReadFull(g.answers, target); err != nil {
			return err
		}
		h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, string(target), 0
		if err := g.archive.WriteHeader(h); err != nil {
			return err
		}
	} else {
		if err := g.archive.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.CopyN(g.archive, g.answers, h.Size); err != nil {
			return err
		}
	}
	_, err = g.answers.Discard(1) // the line's end
	return err
}
