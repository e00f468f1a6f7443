package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestWitness: somebody else cosigns the ledger's checkpoints, who audits asks for it, and another ledger by the same key is
// found out.
func TestWitness(t *testing.T) {
	t.Parallel()
	s := serve(t)
	folder := t.TempDir()
	at := func(name string) string { return filepath.Join(folder, name) }
	require.NoError(t, os.WriteFile(at("ledger.pub"), []byte(s.ok(s.admin(), "key", "ledger")), 0o600))
	witness := exec.Command("waybill", "witness", "--data", at("witness"), "--log", at("ledger.pub"), "--listen", "127.0.0.1:0", "--name", "witness.example/1")
	witness.Env, witness.SysProcAttr = clean(), &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	stdout, err := witness.StdoutPipe()
	require.NoError(t, err)
	said := &logBuffer{}
	witness.Stderr = said
	require.NoError(t, witness.Start())
	t.Cleanup(func() {
		_ = witness.Process.Signal(syscall.SIGTERM)
		_ = witness.Wait()
	})
	lines := bufio.NewScanner(stdout)
	require.True(t, lines.Scan(), said)
	key, ok := strings.CutPrefix(lines.Text(), "key ")
	require.True(t, ok, lines.Text())
	require.True(t, lines.Scan())
	url, ok := strings.CutPrefix(lines.Text(), "listening on ")
	require.True(t, ok, lines.Text())
	require.NoError(t, os.WriteFile(at("witness.pub"), []byte(key+"\n"), 0o600))
	audit := func(s *waybillServer, args ...string) (string, string, int) {
		return s.waybill(s.admin(), append([]string{"audit", "--ledger-key", at("ledger.pub"), "--witness", at("witness.pub")}, args...)...)
	}
	_, errs, code := audit(s)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "no checkpoint here is cosigned by witness.example/1")
	_, errs, code = s.waybill(s.admin(), "audit", "--witness", at("ledger.pub"), "--tiles", "nowhere")
	require.Equal(t, 2, code, errs)

	asks := config(t, fmt.Sprintf("ledger:\n  witnesses:\n    - {url: %q, key: %q}\n", url, key))
	s.stop(syscall.SIGTERM)
	s.args = []string{"--config", asks}
	s.start("127.0.0.1:0")
	s.await("a cosignature", func() bool { _, _, code := audit(s); return code == 0 })
	s.pushed(s.token("--role", "pusher"), "shop/returns:v1", configured(t, "1000", files(t, map[string]string{"app": "v1"})))
	for _, args := range [][]string{nil, {"--tiles", "server", "--keep", at("copy"), "--save", at("last")}, {"--tiles", at("copy")}, {"--since", at("last")}} {
		out, errs, code := audit(s, args...)
		require.Zero(t, code, errs)
		require.Contains(t, out, "cosigned by witness.example/1 at ")
	}

	// Whoever has the ledger's key shows another ledger, of his own making, to somebody else.
	other := serveVia(t, []string{"sh", "-c", `mkdir -p "$0" && cp -a ` + s.data + `/keys "$0/" && exec "$@"`}, "--config", asks)
	other.await("the witness's refusal", func() bool { return strings.Contains(other.log.String(), "a checkpoint is not cosigned") })
	_, errs, code = audit(other)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "no checkpoint here is cosigned by witness.example/1")
	out, errs, code := audit(s)
	require.Zero(t, code, out+errs)
}
