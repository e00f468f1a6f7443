package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	contents "github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"

	"waybill/artifact"
)

// buildkitEngine is the engine's name in keys and provenance. Whatever changes what it gives for the same inputs changes it.
const buildkitEngine = "waybill-buildkit/1"

// BuildKitConfig says where BuildKit is, and what a build may take.
type BuildKitConfig struct {
	Address    string  // unix:///… or tcp://…; empty: the private daemon
	CA, Cert   string  // files for tcp:// with TLS: what the daemon's certificate is checked with, and this client's own
	Key        string  // of Cert
	Daemon     *Daemon // nil: none
	Missing    error   // why there is none
	Timeout    time.Duration
	Memory     int64   // bytes that a step may use; 0: as many as there are
	Processors float64 // that a step may use; 0: all
	Network    string  // of steps: host or none
	MaxImage   int64   // bytes of an image, compressed
}

// BuildKit builds what the native engine does not. BuildKit gets the context, the Dockerfile and the bases from here, by
// digest, and gives an image back: it never asks a registry, and holds no credentials.
type BuildKit struct{ cfg BuildKitConfig }

// NewBuildKit returns the engine. It connects when it builds.
func NewBuildKit(cfg BuildKitConfig) *BuildKit { return &BuildKit{cfg} }

// Close ends the private daemon, if there is one.
func (b *BuildKit) Close() {
	if b.cfg.Daemon != nil {
		b.cfg.Daemon.Close()
	}
}

// Ready says why nothing can be built; nil when something may.
func (b *BuildKit) Ready() error {
	if b == nil || (b.cfg.Address == "" && b.cfg.Daemon == nil) {
		why := errors.New("no BuildKit is configured")
		if b != nil && b.cfg.Missing != nil {
			why = b.cfg.Missing
		}
		return artifact.Errorf(artifact.Unsupported, "that takes BuildKit, and there is none: %v", why)
	}
	return nil
}

// Private is what a build may use besides its inputs. It is held in memory while the build runs, and nowhere else.
type Private struct {
	Secrets map[string][]byte         // by id, for RUN --mount=type=secret
	SSH     []sshprovider.AgentConfig // for RUN --mount=type=ssh; of builds on the caller's own machine
}

func (p Private) empty() bool { return len(p.Secrets) == 0 && len(p.SSH) == 0 }

// connect returns a client, to be used until release is called.
func (b *BuildKit) connect(ctx context.Context) (*client.Client, func(), error) {
	if err := b.Ready(); err != nil {
		return nil, nil, err
	}
	if b.cfg.Address == "" {
		return b.cfg.Daemon.Use(ctx)
	}
	var opts []client.ClientOpt
	if b.cfg.CA != "" {
		opts = append(opts, client.WithServerConfig("", b.cfg.CA))
	}
	if b.cfg.Cert != "" {
		opts = append(opts, client.WithCredentials(b.cfg.Cert, b.cfg.Key))
	}
	c, err := client.New(ctx, b.cfg.Address, opts...)
	if err != nil {
		return nil, nil, artifact.Errorf(artifact.Unavailable, "BuildKit at %s: %w", b.cfg.Address, err)
	}
	waiting, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := c.Wait(waiting); err != nil {
		_ = c.Close()
		return nil, nil, artifact.Errorf(artifact.Unavailable, "BuildKit at %s does not answer: %w", b.cfg.Address, err)
	}
	return c, func() { _ = c.Close() }, nil
}

// Inputs are all that an image is made of, every one pinned.
type Inputs struct {
	File         string // the Dockerfile's name, for errors
	Dockerfile   []byte
	Context      string // folder
	Ignore       []byte // what goes before its .dockerignore; nil: that counts
	Target       string // stage; empty: the last
	Platform     artifact.Platform
	Args, Labels map[string]string
	At           time.Time           // what files and image are dated
	Runs         bool                // programs of that platform
	NoCache      bool                // run every step
	Bases        map[string]v1.Image // by the names that the Dockerfile has for them, with ::PLATFORM where that is another
}

// Solve makes an image. temp is an empty folder for it, and what is returned reads it.
func (b *BuildKit) Solve(ctx context.Context, in Inputs, temp string, private Private, log io.Writer) (v1.Image, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.Timeout, errTimeout)
	defer cancel()
	c, release, err := b.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	if in.Runs {
		if err := runs(ctx, c, in.Platform); err != nil {
			return nil, err
		}
	}
	opt, err := b.solveOpt(in, temp, private)
	if err != nil {
		return nil, err
	}
	out, err := os.Create(filepath.Join(temp, "image.tar"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	bounded := &boundedWriter{w: out, left: b.cfg.MaxImage}
	opt.Exports[0].Output = func(map[string]string) (io.WriteCloser, error) { return bounded, nil }

	seen, display := newTrack(private.Secrets), follow(log)
	reports, told := make(chan *client.SolveStatus), make(chan struct{})
	go func() {
		defer close(told)
		for s := range reports {
			display.Status(seen.take(s))
		}
		if rest := seen.rest(); rest != nil {
			display.Status(rest)
		}
		display.close()
	}()
	_, err = c.Solve(ctx, nil, opt, reports)
	for _, store := range opt.OCIStores {
		store.(*imageStore).close()
	}
	<-told
	switch {
	case bounded.passed():
		return nil, artifact.Errorf(artifact.TooLarge, "the image has more than %d bytes, as many as one may have here (builder.buildkit.image)", b.cfg.MaxImage)
	case err != nil:
		err = b.failed(ctx, in.File, seen, err)
		if artifact.KindOf(err) == artifact.Full && b.cfg.Address == "" {
			b.cfg.Daemon.Spoil()
		}
		return nil, err
	}
	return readLayout(out, filepath.Join(temp, "image"), b.cfg.MaxImage)
}

// errTimeout is why a build that takes too long ends.
var errTimeout = errors.New("it took too long")

// runs refuses a platform that the daemon cannot run steps for.
func runs(ctx context.Context, c *client.Client, p artifact.Platform) error {
	workers, err := c.ListWorkers(ctx)
	if err != nil {
		return artifact.Errorf(artifact.Unavailable, "BuildKit: %w", err)
	}
	want := platforms.Only(ocispecs.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant})
	var can []string
	for _, w := range workers {
		for _, has := range w.Platforms {
			if want.Match(has) {
				return nil
			}
			can = append(can, platforms.Format(has))
		}
	}
	slices.Sort(can)
	return artifact.Errorf(artifact.Unsupported, "RUN for %s: BuildKit's machine runs %s only; install emulation there (Debian: qemu-user-binfmt), or configure a BuildKit on such a machine",
		p, strings.Join(slices.Compact(can), ", "))
}

// solveOpt is all that BuildKit gets.
func (b *BuildKit) solveOpt(in Inputs, temp string, private Private) (opt client.SolveOpt, err error) {
	files, err := contextFS(in.Context)
	if err != nil {
		return opt, err
	}
	dockerfile := filepath.Join(temp, "dockerfile")
	if err := os.Mkdir(dockerfile, 0o700); err != nil {
		return opt, err
	}
	if err := os.WriteFile(filepath.Join(dockerfile, defaultFile), ownSyntax(in.Dockerfile), 0o600); err != nil {
		return opt, err
	}
	if in.Ignore != nil {
		if err := os.WriteFile(filepath.Join(dockerfile, defaultFile+ignoreFile), in.Ignore, 0o600); err != nil {
			return opt, err
		}
	}
	definition, err := fsutil.NewFS(dockerfile)
	if err != nil {
		return opt, err
	}
	epoch := strconv.FormatInt(in.At.Unix(), 10)
	attrs, err := b.attrs(in, epoch)
	if err != nil {
		return opt, err
	}
	stores, err := addBases(attrs, in.Bases)
	if err != nil {
		return opt, err
	}
	attached := []session.Attachable{secretsprovider.FromMap(private.Secrets)}
	if len(private.SSH) > 0 {
		agents, err := sshprovider.NewSSHAgentProvider(private.SSH)
		if err != nil {
			return opt, artifact.Errorf(artifact.Invalid, "--ssh: %w", err)
		}
		attached = append(attached, agents)
	}
	return client.SolveOpt{Frontend: "dockerfile.v0", FrontendAttrs: attrs, OCIStores: stores, Session: attached,
		LocalMounts: map[string]fsutil.FS{"context": files, "dockerfile": definition},
		// What a Dockerfile names comes from here; nothing else is pulled, whatever it says.
		SourcePolicy: &spb.Policy{Version: 1, Rules: []*spb.Rule{{Action: spb.PolicyAction_DENY, Selector: &spb.Selector{Identifier: "docker-image://*"}}}},
		Exports: []client.ExportEntry{{Type: client.ExporterOCI, Attrs: map[string]string{"oci-mediatypes": "true", "compression": "gzip", "rewrite-timestamp": "true",
			"source-date-epoch": epoch, "tar": "true"}}}}, nil
}

// attrs are the frontend's options.
func (b *BuildKit) attrs(in Inputs, epoch string) (map[string]string, error) {
	attrs := map[string]string{"filename": defaultFile, "platform": in.Platform.String(), "target": in.Target}
	if b.cfg.Network == "none" { // else what the daemon's workers have; the private one's have the host's
		attrs["force-network-mode"] = "none"
	}
	if b.cfg.Memory > 0 {
		attrs["memory"] = strconv.FormatInt(b.cfg.Memory, 10)
	}
	if b.cfg.Processors > 0 {
		attrs["cpuperiod"], attrs["cpuquota"] = "100000", strconv.FormatInt(int64(b.cfg.Processors*100000), 10)
	}
	for k, v := range in.Args {
		if k == "BUILDKIT_SYNTAX" {
			return nil, artifact.Errorf(artifact.Unsupported, "build argument %s: this builder reads Dockerfiles itself, and runs no other frontend", k)
		}
		attrs["build-arg:"+k] = v
	}
	for k, v := range in.Labels {
		attrs["label:"+k] = v
	}
	if in.NoCache {
		attrs["no-cache"] = ""
	}
	attrs["build-arg:SOURCE_DATE_EPOCH"] = epoch
	return attrs, nil
}

// addBases has each name that the Dockerfile has for an image mean that image, by digest, read from here.
func addBases(attrs map[string]string, bases map[string]v1.Image) (map[string]contents.Store, error) {
	stores := map[string]contents.Store{}
	for i, name := range slices.Sorted(maps.Keys(bases)) {
		digest, err := bases[name].Digest()
		if err != nil {
			return nil, err
		}
		plain, platform, _ := strings.Cut(name, "::")
		named, err := reference.ParseNormalizedNamed(plain)
		if err != nil {
			return nil, artifact.Errorf(artifact.Invalid, "base %s: %w", name, err)
		}
		store := fmt.Sprintf("base%d", i)
		familiar := strings.TrimSuffix(reference.FamiliarString(named), ":latest")
		if platform != "" {
			familiar += "::" + platform
		}
		attrs["context:"+familiar] = "oci-layout://" + store + "@" + digest.String()
		stores[store] = &imageStore{image: bases[name]}
	}
	return stores, nil
}

// contextFS is the context with the modes that every engine gives its files, whatever umask they were unpacked under.
func contextFS(dir string) (fsutil.FS, error) {
	files, err := fsutil.NewFS(dir)
	if err != nil {
		return nil, err
	}
	return fsutil.NewFilterFS(files, &fsutil.FilterOpt{Map: func(_ string, s *fstypes.Stat) fsutil.MapResult {
		if mode := os.FileMode(s.Mode); mode.IsRegular() || mode.IsDir() {
			s.Mode = uint32(mode&^os.ModePerm) | uint32(normalMode(mode))
		}
		return fsutil.MapResultKeep
	}})
}

// ownSyntax takes the syntax directive out of a Dockerfile, which would have BuildKit fetch and run another frontend. All
// other lines keep their numbers.
func ownSyntax(dockerfile []byte) []byte {
	_, _, at, ok := parser.DetectSyntax(dockerfile)
	if !ok || len(at) == 0 {
		return dockerfile
	}
	lines := bytes.SplitAfter(dockerfile, []byte("\n"))
	i := at[0].Start.Line - 1
	if i < 0 || i >= len(lines) {
		return dockerfile
	}
	// A comment that is no directive ends those, so it goes behind the ones that follow.
	end := i + 1
	for end < len(lines) && bytes.HasPrefix(bytes.TrimSpace(lines[end]), []byte("#")) && bytes.ContainsRune(lines[end], '=') {
		end++
	}
	moved := slices.Concat(lines[:i], lines[i+1:end], [][]byte{[]byte("#\n")}, lines[end:])
	return bytes.Join(moved, nil)
}

// boundedWriter writes at most so many bytes.
type boundedWriter struct {
	w    io.Writer
	mu   sync.Mutex // guards all below: the session writes while build looks
	left int64
	over bool
}

func (w *boundedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.left -= int64(len(p)); w.left < 0 {
		w.over = true
		return 0, errors.New("the image is too large")
	}
	return w.w.Write(p)
}

func (w *boundedWriter) passed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.over
}

// Close leaves the file open, which is read next.
func (*boundedWriter) Close() error { return nil }

// readLayout unpacks an OCI layout and returns the image that it holds.
func readLayout(archive io.ReadSeeker, dir string, limit int64) (v1.Image, error) {
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for r := tar.NewReader(archive); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("BuildKit's image: %w", err)
		}
		name := filepath.Clean(h.Name)
		if h.Typeflag != tar.TypeReg || !filepath.IsLocal(name) {
			continue
		}
		if err := root.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return nil, err
		}
		f, err := root.Create(name)
		if err != nil {
			return nil, err
		}
		_, err = io.Copy(f, io.LimitReader(r, limit))
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("BuildKit's image: %w", err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("BuildKit's image: %w", err)
	}
	if len(manifest.Manifests) != 1 {
		return nil, fmt.Errorf("BuildKit gave %d images; want one", len(manifest.Manifests))
	}
	return index.Image(manifest.Manifests[0].Digest)
}
