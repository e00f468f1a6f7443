package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	gcrv1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// signingKeys returns the keys that ever signed, newest first.
func (s *waybillServer) signingKeys() []artifact.SigningKey {
	s.t.Helper()
	var list struct{ Keys []artifact.SigningKey }
	s.json(s.admin(), &list, "key", "list")
	return list.Keys
}

// publicKey writes the key that signs now to a file.
func (s *waybillServer) publicKey(args ...string) string {
	s.t.Helper()
	file := filepath.Join(s.t.(interface{ TempDir() string }).TempDir(), "waybill.pub")
	require.NoError(s.t, os.WriteFile(file, []byte(s.ok(s.admin(), append([]string{"key", "public"}, args...)...)), 0o600))
	return file
}

// verifies reports whether cosign finds a signature by a key.
func (s *waybillServer) verifies(token, key, ref string, more ...string) bool {
	s.t.Helper()
	args := append([]string{"verify"}, more...)
	if len(more) > 0 {
		args = append([]string{"verify-attestation"}, more...)
	}
	_, _, code := command(s.t, "", []string{"DOCKER_CONFIG=" + s.dockerConfig(token)}, "cosign",
		append(args, "--key", key, "--insecure-ignore-tlog=true", "--allow-http-registry", s.host+"/"+ref)...)
	return code == 0
}

// TestKeyRotation: the new key signs and the old signatures count, until the old key is revoked; what it signed, statements
// too, is then signed by the new one. An archive of the time between verifies without the server.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	s := serve(t)
	admin, pusher := s.admin(), s.token("--role", "pusher")
	s.ok(admin, "build", "-t", "shop/returns:v1", filepath.Join(root, "examples/returns"))
	v1 := "shop/returns@" + s.current(pusher, "shop/returns:v1")
	s.signed(pusher, v1)
	first := s.publicKey()
	s.await("the old key's provenance", func() bool { return s.verifies(pusher, first, v1, "--type", "slsaprovenance1") })

	s.ok(admin, "key", "rotate", "--reason", "yearly")
	second := s.publicKey()
	v2 := "shop/returns@" + s.pushed(pusher, "shop/returns:v2", configured(t, "1", files(t, map[string]string{"v2": ""})))
	s.signed(pusher, v2)
	require.True(t, s.verifies(pusher, second, v2))
	require.False(t, s.verifies(pusher, first, v2))
	require.True(t, s.verifies(pusher, first, v1))
	require.False(t, s.verifies(pusher, second, v1))
	s.ok(admin, "promote", "returns", "v1", "dev")
	s.ok(admin, "promote", "returns", "v2", "dev")
	both := s.publicKey("--all")
	for _, ref := range []string{v1, v2} {
		s.ok(pusher, "verify", ref)
		s.ok(pusher, "verify", ref, "--key", both)
		require.True(t, s.verifies(pusher, s.publicKey("--id", s.signingKeys()[map[string]int{v1: 1, v2: 0}[ref]].ID[:12]), ref))
	}
	_, said, code := s.waybill(pusher, "verify", v1, "--key", second)
	require.Equal(t, 1, code)
	require.Contains(t, said, "not of the given key")
	status, bundle := s.get("", "/api/v1/keys.pem")
	require.Equal(t, 200, status)
	require.Equal(t, 2, strings.Count(bundle, "BEGIN PUBLIC KEY"))
	archive := filepath.Join(t.TempDir(), "v1.tar.gz")
	s.ok(admin, "export", v1, "-o", archive)
	nobody := *s
	nobody.url = "http://127.0.0.1:1"
	nobody.ok("", "verify", "--export", archive)
	nobody.ok("", "verify", "--export", archive, "--key", both)
	_, _, code = nobody.waybill("", "verify", "--export", archive, "--key", second)
	require.Equal(t, 1, code)

	// The one that signs is not revoked, and nobody but an admin revokes.
	keys := s.signingKeys()
	_, said, code = s.waybill(admin, "key", "revoke", keys[0].ID, "--reason", "lost")
	require.Equal(t, 1, code)
	require.Contains(t, said, "waybill key rotate")
	_, _, code = s.waybill(pusher, "key", "rotate", "--reason", "mine")
	require.Equal(t, 1, code)
	s.ok(admin, "key", "revoke", keys[1].ID[:16], "--reason", "laptop lost")
	_, said, code = s.waybill(pusher, "verify", v1, "--key", first)
	require.Equal(t, 1, code, "a revoked key counts for nothing, even if it was pinned")
	require.Contains(t, said, "was revoked")
	s.await("the new key's signature", func() bool { return s.verifies(pusher, second, v1) })
	s.await("the new key's provenance", func() bool { return s.verifies(pusher, second, v1, "--type", "slsaprovenance1") })
	s.await("that it counts", func() bool {
		_, _, code := s.waybill(admin, "promote", "returns", "v1", "dev")
		return code == 0
	})
	s.ok(pusher, "verify", v1, "--key", second)
	require.Contains(t, s.ok(admin, "key", "list"), "laptop lost")
	require.Contains(t, s.ok(admin, "audit"), "ok")
	kept, err := filepath.Glob(filepath.Join(s.data, "keys", "cosign*.key"))
	require.NoError(t, err)
	require.Len(t, kept, 1, "the private half of the revoked key is gone")
}

// TestKeyRevokedBefore: signatures that the ledger proves to be older than the loss of a key count, also offline.
func TestKeyRevokedBefore(t *testing.T) {
	t.Parallel()
	s := serve(t)
	admin, pusher := s.admin(), s.token("--role", "pusher")
	push := func(tag string) string {
		ref := "shop/returns@" + s.pushed(pusher, "shop/returns:"+tag, configured(t, "1", files(t, map[string]string{tag: ""})))
		s.signed(pusher, ref)
		s.await("the record of the signature", func() bool {
			_, _, code := s.waybill(admin, "promote", "returns", tag, "dev", "--dry-run")
			return code == 0
		})
		return ref
	}
	v1 := push("v1")
	// What is denied from here on is not signed again: it has what was there.
	s.ok(admin, "key", "rotate", "--reason", "yearly")
	old := s.publicKey("--id", s.signingKeys()[1].ID)
	before := time.Now().UTC().Add(time.Second).Truncate(time.Second)
	s.await("the second after", func() bool { return time.Now().After(before) })
	stderr, code := s.apply("apiVersion: waybill/v1\nkind: Policy\nmetadata: {name: closed}\nspec:\n  match: {repositories: ['shop/**']}\n  rules:\n    - {rule: max-size, action: deny, with: {compressed: 1}}\n")
	require.Zero(t, code, stderr)
	s.ok(admin, "key", "revoke", s.signingKeys()[1].ID, "--reason", "lost", "--before", before.Format(time.RFC3339))
	saved := filepath.Join(t.TempDir(), "v1.json")
	require.Contains(t, s.ok(pusher, "verify", v1, "--key", old, "--save", saved), "the ledger proves that it is older")
	archive := filepath.Join(t.TempDir(), "v1.tar.gz")
	s.ok(admin, "export", v1, "-o", archive)
	nobody := *s
	nobody.url = "http://127.0.0.1:1"
	nobody.ok("", "verify", v1, "--bundle", saved, "--key", old)
	nobody.ok("", "verify", "--export", archive)

	// Without its proof, or with that of another ledger, it is as good as forged.
	var bundle map[string]any
	b, err := os.ReadFile(saved)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &bundle))
	delete(bundle, "signed")
	b, err = json.Marshal(bundle)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(saved, b, 0o600))
	_, said, code := nobody.waybill("", "verify", v1, "--bundle", saved, "--key", old)
	require.Equal(t, 1, code)
	require.Contains(t, said, "no entry of the ledger")
}

// TestKeyRotationKilled: a server that is killed while it rotates its key signs with one key after it, which everybody
// knows of.
func TestKeyRotationKilled(t *testing.T) {
	t.Parallel()
	s := serve(t)
	admin, pusher := s.admin(), s.token("--role", "pusher")
	for round := range 4 {
		rotated := make(chan struct{})
		go func() {
			defer close(rotated)
			cmd := exec.Command("waybill", "key", "rotate", "--reason", "again")
			cmd.Env = append(clean(), "WAYBILL_URL="+s.url, "WAYBILL_TOKEN="+admin)
			_ = cmd.Run()
		}()
		// From the first sign of it on, each time a little later.
		started := time.Now()
		files := func() int {
			all, err := filepath.Glob(filepath.Join(s.data, "keys", "*"))
			require.NoError(t, err)
			return len(all)
		}
		for was := files(); files() == was && time.Since(started) < 5*time.Second; { //nolint:revive // it is a matter of microseconds
		}
		for wait := time.Now().Add(time.Duration(round) * 4 * time.Millisecond); time.Now().Before(wait); { //nolint:revive // likewise
		}
		s.stop(syscall.SIGKILL)
		<-rotated
		s.start(s.host)
		ref := "shop/returns@" + s.pushed(pusher, fmt.Sprintf("shop/returns:v%d", round), configured(t, "1", numbered(t, round)))
		s.signed(pusher, ref)
		require.True(t, s.verifies(pusher, s.publicKey(), ref))
		require.Contains(t, s.ok(admin, "audit"), "ok")
	}
	s.ok(admin, "key", "rotate", "--reason", "the last")
	kept, err := filepath.Glob(filepath.Join(s.data, "keys", "cosign*.key"))
	require.NoError(t, err)
	require.Len(t, kept, len(s.signingKeys()), "no key is left that nobody knows of")
	s.ok(pusher, "verify", "shop/returns@"+s.current(pusher, "shop/returns:v0"))
}

// vault is a Vault in memory.
type vault struct {
	t          *testing.T
	url, token string
	cmd        *exec.Cmd
}

func newVault(t *testing.T) *vault {
	t.Helper()
	v := &vault{t: t, cmd: exec.Command("vault")}
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	_, err := v.cmd.StdinPipe() // which ends it
	require.NoError(t, err)
	out, err := v.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, v.cmd.Start())
	t.Cleanup(v.stop)
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	v.url, v.token, _ = strings.Cut(strings.TrimSpace(line), " ")
	v.post("sys/mounts/transit", `{"type":"transit"}`)
	return v
}

func (v *vault) stop() {
	_ = v.cmd.Process.Kill()
	_ = v.cmd.Wait()
}

func (v *vault) post(path, body string) {
	v.t.Helper()
	req, err := http.NewRequestWithContext(v.t.Context(), http.MethodPost, v.url+"/v1/"+path, strings.NewReader(body))
	require.NoError(v.t, err)
	req.Header.Set("X-Vault-Token", v.token)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(v.t, err)
	require.NoError(v.t, resp.Body.Close())
	require.Less(v.t, resp.StatusCode, 300, path)
}

// TestVaultKey: keys of each kind in a real Vault sign what cosign verifies; a key that is rotated in Vault signs nothing
// until it is put in force; while Vault is away what there is can be pulled, and what is pushed waits for its signature.
func TestVaultKey(t *testing.T) {
	t.Parallel()
	v := newVault(t)
	for name, kind := range map[string]string{"first": "ecdsa-p256", "second": "ed25519", "third": "rsa-2048", "fourth": "ecdsa-p384"} {
		v.post("transit/keys/"+name, `{"type":"`+kind+`"}`)
	}
	config := filepath.Join(t.TempDir(), "waybill.yaml")
	require.NoError(t, os.WriteFile(config, []byte("signer: {key: 'hashivault://first'}\n"), 0o600))
	s := serveVia(t, []string{"sh", "-c", "VAULT_ADDR=" + v.url + " VAULT_TOKEN=" + v.token + ` exec "$@"`}, "--config", config)
	admin, pusher := s.admin(), s.token("--role", "pusher")
	pushed := 0
	push := func() string {
		pushed++
		return "shop/returns@" + s.pushed(pusher, fmt.Sprintf("shop/returns:v%d", pushed), configured(t, "1", numbered(t, pushed)))
	}
	signs := func() {
		t.Helper()
		ref := push()
		s.signed(pusher, ref)
		require.True(t, s.verifies(pusher, s.publicKey(), ref), s.signingKeys()[0].Algorithm)
		s.ok(pusher, "verify", ref, "--key", s.publicKey())
	}
	signs()
	clients := named(s.cmd.Process.Pid, "waybill-kms")
	require.Len(t, clients, 1)
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", clients[0]))
	require.NoError(t, err)
	require.Equal(t, filepath.Join(root, "bin", "waybill-kms")+"\x00", string(line))
	require.NoError(t, syscall.Kill(clients[0], syscall.SIGKILL))
	signs() // by another
	require.Equal(t, "hashivault://first", s.signingKeys()[0].Reference)
	_, err = os.Stat(filepath.Join(s.data, "keys", "cosign.key"))
	require.ErrorIs(t, err, os.ErrNotExist, "no key of its own is made")

	_, said, code := s.waybill(admin, "key", "rotate", "--reason", "yearly")
	require.Equal(t, 1, code)
	require.Contains(t, said, "still holds the key in force")
	v.post("transit/keys/first/rotate", `{}`)
	waits := push()
	s.await("that nothing is signed with a key that nobody put in force", func() bool { return strings.Contains(s.log.String(), "has another key by now") })
	status, _ := s.get(pusher, "/v2/shop/returns/manifests/"+strings.Replace(strings.TrimPrefix(waits, "shop/returns@"), ":", "-", 1)+".sig")
	require.Equal(t, 404, status)
	s.ok(admin, "key", "rotate", "--reason", "rotated in Vault")
	s.signed(pusher, waits)
	signs()
	for _, name := range []string{"second", "third", "fourth"} {
		s.ok(admin, "key", "rotate", "--reason", "another kind", "--key", "hashivault://"+name)
		signs()
	}
	for _, wrong := range []string{"hashivault://absent", "sh://x", "/etc/passwd", "awskms://x"} {
		_, _, code := s.waybill(admin, "key", "rotate", "--reason", "wrong", "--key", wrong)
		require.Equal(t, 1, code, wrong)
	}
	// A start keeps to what was put in force, whatever the configuration says of the past.
	was := s.signingKeys()
	clients = named(s.cmd.Process.Pid, "waybill-kms")
	require.Len(t, clients, 1)
	s.stop(syscall.SIGTERM)
	require.ErrorIs(t, syscall.Kill(clients[0], 0), syscall.ESRCH, "it ends with the server")
	s.start(s.host)
	require.Equal(t, was, s.signingKeys())
	signs()

	// Vault stands still for a while: what was pushed meanwhile is signed when it goes on.
	require.NoError(t, v.cmd.Process.Signal(syscall.SIGSTOP))
	waits = push()
	s.await("that it says what it waits for", func() bool { return strings.Contains(s.log.String(), "it did not answer in") })
	require.NoError(t, v.cmd.Process.Signal(syscall.SIGCONT))
	s.signed(pusher, waits)

	v.stop()
	s.stop(syscall.SIGTERM)
	s.start(s.host)
	unsigned := push()
	require.Equal(t, strings.TrimPrefix(unsigned, "shop/returns@"), s.current(pusher, fmt.Sprintf("shop/returns:v%d", pushed)))
	_, said, code = s.waybill(admin, "promote", "returns", fmt.Sprintf("v%d", pushed), "dev")
	require.Equal(t, 1, code)
	require.Contains(t, said, "not signed yet")
	s.ok(admin, "promote", "returns", "v1", "dev")
	require.NotContains(t, s.log.String(), v.token)
}

// numbered makes a layer that no other round has.
func numbered(t *testing.T, n int) gcrv1.Layer {
	t.Helper()
	return files(t, map[string]string{"app": fmt.Sprint(n)})
}
