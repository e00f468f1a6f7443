package kms

import (
	"context"
	"fmt"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"waybill/internal/child"
)

// process is a waybill-kms that runs.
type process struct {
	*child.Process
	rpc  *rpc.Client
	once sync.Once

	// These the client's lock guards.
	asked  int         // by how many it is taken
	expiry *time.Timer // ends it, where that is none
}

// Find returns the program's path: the configured one, else beside this program, else on PATH.
func Find(configured string) (string, error) {
	return child.Find("waybill-kms", "signer.program", configured)
}

// keep is how much of the end of what it writes to its standard error is kept, in bytes.
const keep = 8 << 10

// start runs the program, with this process's rights: where its credentials are is for the providers to say.
func (c *Client) start(ctx context.Context) (*process, error) {
	program, err := Find(c.cfg.Program)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program)
	cmd.Env = environment(c.cfg.Environ)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second // a program that credentials are asked of may hold on to its standard error
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	started, err := child.Start(cmd, keep)
	if err != nil {
		return nil, err
	}
	streams := &streams{in: out, WriteCloser: in}
	p := &process{Process: started, rpc: rpc.NewClientWithCodec(clientCodec{jsonrpc.NewClientCodec(streams), streams})}
	p.expiry = time.AfterFunc(c.cfg.Idle, func() { c.expire(p) })
	p.expiry.Stop()
	return p, p.greet(ctx, c.cfg.Version)
}

// greet checks that the two programs belong together.
func (p *process) greet(ctx context.Context, version string) error {
	stop := context.AfterFunc(ctx, func() { p.stop(syscall.SIGKILL) })
	defer stop()
	var hello Hello
	if err := p.rpc.Call("KMS.Hello", struct{}{}, &hello); err != nil {
		p.stop(syscall.SIGKILL)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%w: %w", err, p.End())
	}
	if hello.Protocol != Protocol || hello.Version != version {
		p.stop(syscall.SIGKILL)
		return fmt.Errorf("it is of version %.100q, waybill of %q; build both from one source (make build)", hello.Version, version)
	}
	return nil
}

// stop ends the process, with some time where the signal leaves it that. Safe to call twice.
func (p *process) stop(signal syscall.Signal) {
	p.once.Do(func() {
		p.Stop(signal, time.Second)
		_ = p.rpc.Close()
	})
}

// What the providers read of the environment: who the service is there, where that is, and what any program needs.
var (
	variablePrefixes = []string{"AWS_", "AZURE_", "IDENTITY_", "IMDS_", "MSI_", "GOOGLE_", "GCE_", "CLOUDSDK_", "VAULT_", "BAO_", "SSL_CERT_"}
	variableNames    = []string{"TRANSIT_SECRET_ENGINE_PATH", "DEFAULT_IDENTITY_CLIENT_ID", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
		"HOME", "USER", "PATH", "TMPDIR", "TZ", "GODEBUG"}
)

// environment is what of ours the process gets: none of the server's own secrets.
func environment(ours []string) []string {
	return slices.DeleteFunc(slices.Clone(ours), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return !slices.Contains(variableNames, name) && !slices.ContainsFunc(variablePrefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
	})
}
