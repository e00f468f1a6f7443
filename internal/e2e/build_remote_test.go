package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/server"
)

// remoteBuildKit is a BuildKit daemon that is not Waybill's own: over TCP it serves who shows a certificate of its authority.
type remoteBuildKit struct {
	tcp, unix     string // addresses
	ca, cert, key string // files, of a client
}

var listensOn = regexp.MustCompile(`running server on (127\.0\.0\.1:\d+)`)

func startRemoteBuildKit(t *testing.T) remoteBuildKit {
	t.Helper()
	needsRoot(t)
	dir, err := os.MkdirTemp("", "bk") // a socket's path is short
	require.NoError(t, err)
	authority := newAuthority(t, dir)
	serverCert, serverKey := authority.issue("server", x509.ExtKeyUsageServerAuth)
	r := remoteBuildKit{unix: "unix://" + filepath.Join(dir, "s"), ca: filepath.Join(dir, "ca.pem")}
	r.cert, r.key = authority.issue("client", x509.ExtKeyUsageClientAuth)
	runtime := "runc"
	if _, err := exec.LookPath(runtime); err != nil {
		runtime = "crun"
	}
	cmd := exec.Command("unshare", "--pid", "--mount", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--", "buildkitd", "--config", "/dev/null", "--root", filepath.Join(dir, "root"),
		"--addr", "tcp://127.0.0.1:0", "--addr", r.unix, "--tlscacert", r.ca, "--tlscert", serverCert, "--tlskey", serverKey,
		"--oci-worker=true", "--containerd-worker=false", "--oci-worker-net", "host", "--oci-worker-binary", runtime)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	var log logBuffer
	cmd.Stdout, cmd.Stderr = &log, &log
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		require.NoError(t, os.RemoveAll(dir))
	})
	require.Eventually(t, func() bool {
		found := listensOn.FindStringSubmatch(log.String())
		if found != nil {
			r.tcp = "tcp://" + found[1]
		}
		return found != nil
	}, 2*time.Minute, 50*time.Millisecond, "buildkitd does not start: %s", &log)
	return r
}

// config is builder.buildkit for it.
func (r remoteBuildKit) config(more string) string {
	return fmt.Sprintf("builder: {buildkit: {address: '%s', ca: '%s', certificate: '%s', key: '%s'%s}}\n", r.tcp, r.ca, r.cert, r.key, more)
}

// authority issues certificates into a folder.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  ed25519.PrivateKey
}

func newAuthority(t *testing.T, dir string) *authority {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a := &authority{t: t, dir: dir, cert: template, key: key}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	a.write("ca.pem", "CERTIFICATE", der)
	return a
}

func (a *authority) issue(name string, usage x509.ExtKeyUsage) (cert, key string) {
	a.t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(a.t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{usage}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	require.NoError(a.t, err)
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(a.t, err)
	return a.write(name+".pem", "CERTIFICATE", der), a.write(name+".key", "PRIVATE KEY", encoded)
}

func (a *authority) write(name, kind string, der []byte) string {
	a.t.Helper()
	path := filepath.Join(a.dir, name)
	require.NoError(a.t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	return path
}

// stepTar is a context with the step program as a tar stream.
func stepTar(t *testing.T, program, dockerfile string) []byte {
	t.Helper()
	b, err := os.ReadFile(program)
	require.NoError(t, err)
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, content := range map[string][]byte{"step": b, "Dockerfile": []byte(dockerfile)} {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(content))}))
		_, err := w.Write(content)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return out.Bytes()
}

// TestBuildOnReplicas: two replicas with one database and one BuildKit, over TCP with certificates, are asked for the same by a
// hundred at once, and make one build of it. What it says is cut where it is too long, and a daemon is no use to one whose
// certificate it does not know.
func TestBuildOnReplicas(t *testing.T) {
	t.Parallel()
	remote := startRemoteBuildKit(t)
	database := newOutside(t)
	path := config(t, "database: {url: '"+database.url()+"'}\n"+remote.config(", log: 64Ki"))
	first := serve(t, "--config", path)
	second := serveVia(t, []string{"sh", "-c", `mkdir -p "$0" && cp -a ` + first.data + `/keys "$0/" && ln -s ` + first.data + `/blobs "$0/blobs" && exec "$@"`}, "--config", path)
	ci, program := first.token("--role", "pusher", "--repository", "shop/**"), stepProgram(t)

	const many = 100
	archive := stepTar(t, program, "FROM scratch\nCOPY step /step\nRUN [\"/step\", \"random\", \"/made\"]\nUSER 7\n")
	query := url.Values{"repository": {"shop/once"}, "tag": {"v1"}}
	results, failures := make([]server.Built, many), make([]error, many)
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() { results[i], failures[i] = []*waybillServer{first, second}[i%2].build(ci, query, archive) })
	}
	all.Wait()
	for i := range many {
		require.NoError(t, failures[i])
		require.Equal(t, results[0].Digest, results[i].Digest)
	}
	var list server.BuildList
	first.json(ci, &list, "build", "list", "--repository", "shop/once")
	made := 0
	for _, b := range list.Builds {
		require.Equal(t, artifact.BuildDone, b.State)
		require.Equal(t, 1, b.Attempts)
		if b.New {
			made++
		}
	}
	require.Equal(t, 1, made, "of %d runs one builds", len(list.Builds))
	first.await("the provenance", func() bool {
		out, _, code := first.waybill(ci, "provenance", "shop/once:v1")
		return code == 0 && strings.Contains(out, "was built by https://waybill.dev/builder/buildkit")
	})

	// A gigabyte of output.
	dir := stepContext(t, program, "FROM scratch\nCOPY step /step\nRUN [\"/step\", \"flood\", \"1000000\"]\nUSER 7\n")
	_, log, code := second.waybill(ci, "build", "-t", "shop/loud:v1", dir)
	require.Zero(t, code, log)
	require.Less(t, len(log), 256<<10)
	require.Contains(t, log, "the log is longer than 64 KiB (builder.buildkit.log); the rest is not kept")

	// A daemon that wants a certificate.
	stranger := serve(t, "--config", config(t, fmt.Sprintf("builder: {buildkit: {address: '%s', ca: '%s'}}\n", remote.tcp, remote.ca)))
	_, log, code = stranger.waybill(stranger.admin(), "build", "-t", "shop/none:v1", dir)
	require.Equal(t, 1, code)
	require.Contains(t, log, "BuildKit at "+remote.tcp+" does not answer")
}

// TestBuildWithAgent: RUN --mount=type=ssh reaches the caller's agent when it is built on the caller's machine, and only then.
func TestBuildWithAgent(t *testing.T) {
	t.Parallel()
	remote := startRemoteBuildKit(t)
	s := serve(t)
	ci := s.token("--role", "pusher", "--repository", "shop/**")
	dir := stepContext(t, stepProgram(t), "FROM scratch\nCOPY step /step\nRUN --mount=type=ssh [\"/step\", \"keys\"]\nUSER 7\n")
	agent := sshAgent(t)
	out, log, code := s.waybill(ci, "build", "--local", "--builder", remote.unix, "--ssh", "default="+agent, "-t", "shop/ssh:v1", dir)
	require.Zero(t, code, log)
	require.Contains(t, log, "keys: 1")
	require.Contains(t, out, "shop/ssh@sha256:")
	_, log, code = s.waybill(ci, "build", "--ssh", "default="+agent, "-t", "shop/ssh:v2", dir)
	require.Equal(t, 2, code)
	require.Contains(t, log, "an agent does not leave this machine")
	dir = stepContext(t, stepProgram(t), "FROM scratch\nCOPY step /step\nRUN --mount=type=ssh [\"/step\", \"keys\", \"that are not there\"]\nUSER 7\n") // what an agent gave is not part of a step's key
	_, log, code = s.waybill(ci, "build", "--local", "--builder", remote.unix, "-t", "shop/ssh:v3", dir)
	require.Equal(t, 1, code)
	require.NotContains(t, log, "keys: 1")
}

// TestBuildKitOnAFullDisk: the answer says that BuildKit's disk is full, nothing is published, and what fits is built.
func TestBuildKitOnAFullDisk(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	d := onDisk(t, "buildkit", "64m")
	ci, program := d.token("--role", "pusher"), stepProgram(t)
	dockerfile := "FROM scratch\nCOPY . /\nRUN [\"/step\", \"write\", \"/made\", \"it\"]\nUSER 7\n"
	dir := stepContext(t, program, dockerfile)
	noise := make([]byte, 80<<20)
	_, _ = rand.Read(noise)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "noise"), noise, 0o600))
	_, log, code := d.waybill(ci, "build", "-t", "shop/full:v1", dir)
	require.Equal(t, 1, code)
	require.Contains(t, log, "the disk that BuildKit works on is full")
	_, _, code = d.waybill(ci, "show", "shop/full:v1")
	require.Equal(t, 1, code)
	_, log, code = d.waybill(ci, "build", "-t", "shop/full:v1", stepContext(t, program, dockerfile))
	require.Zero(t, code, log)
}

// sshAgent is an agent that has one key, and says so to who asks for identities (RFC 9987).
func sshAgent(t *testing.T) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ag")
	require.NoError(t, err)
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	var serving sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
		_ = os.RemoveAll(dir)
	})
	text := func(s string) []byte { return append([]byte{0, 0, 0, byte(len(s))}, s...) }
	key := append(text("ssh-ed25519"), text(strings.Repeat("k", 32))...)
	answer := append([]byte{12, 0, 0, 0, 1}, append(text(string(key)), text("a key")...)...)
	answer = text(string(answer))
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				for request := make([]byte, 5); ; {
					if _, err := io.ReadFull(c, request); err != nil || request[4] != 11 {
						return
					}
					_, _ = c.Write(answer)
				}
			})
		}
	})
	return socket
}
