package kms_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/kms"
)

// TestMain: this program is also, by another name, the child of its tests.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != "waybill-kms" {
		os.Exit(m.Run())
	}
	if err := kms.Serve(os.Stdin, os.Stdout, odd{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// odd is a kms.Service that does what references say.
type odd struct{}

func (odd) Hello(_ struct{}, answer *kms.Hello) error {
	*answer = kms.Hello{Protocol: kms.Protocol, Version: "test"}
	return nil
}

func (odd) PublicKey(request kms.PublicKeyRequest, answer *kms.PublicKey) (err error) {
	if request.Reference == "none" {
		answer.DER = []byte("no key")
		return nil
	}
	answer.DER, err = x509.MarshalPKIXPublicKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public())
	return err
}

func (odd) Sign(request kms.SignRequest, answer *kms.Signature) error {
	switch request.Reference {
	case "crash":
		panic("a provider that crashes")
	case "stop": // and not even its timers go on
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		select {} // until the signal has come to all threads
	case "block":
		select {}
	case "mute":
		_ = os.Stdout.Close()
		select {}
	case "garbage":
		_, _ = os.Stdout.WriteString("no JSON\n")
		select {}
	case "endless":
		_, err := io.Copy(os.Stdout, io.MultiReader(strings.NewReader(`{"id": 1, "result": "`), letters{}))
		return err
	case "refuse":
		return errors.New("denied " + strings.Repeat("é", 1<<10))
	case "lengthy":
		return errors.New(strings.Repeat("x", 1<<20))
	case "say":
		fmt.Fprintln(os.Stderr, strings.Repeat("so much ", 10_000)+"to be said")
	case "pid":
		answer.Raw = []byte(strconv.Itoa(os.Getpid()))
		return nil
	case "environment":
		answer.Raw = []byte(strings.Join(append(os.Environ(), os.Args[1:]...), "\n"))
		return nil
	}
	sum := sha256.Sum256(append([]byte{byte(request.Hash)}, request.Content...))
	answer.Raw = sum[:]
	return nil
}

type letters struct{}

func (letters) Read(p []byte) (int, error) {
	return copy(p, bytes.Repeat([]byte("x"), len(p))), nil
}

// log is safe for concurrent use.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func client(t *testing.T, change func(*kms.Config)) (*kms.Client, *log) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	program := filepath.Join(t.TempDir(), "waybill-kms")
	require.NoError(t, os.Symlink(self, program))
	l := &log{}
	cfg := kms.Config{Program: program, Version: "test", Timeout: time.Minute, Idle: time.Minute, Logger: slog.New(slog.NewTextHandler(l, nil))}
	if change != nil {
		change(&cfg)
	}
	c := kms.New(cfg)
	t.Cleanup(c.Close)
	return c, l
}

func sign(t *testing.T, c *kms.Client, reference string) (string, error) {
	t.Helper()
	raw, err := c.Sign(t.Context(), reference, crypto.SHA256, make([]byte, 32))
	return string(raw), err
}

func pid(t *testing.T, c *kms.Client) int {
	t.Helper()
	said, err := sign(t, c, "pid")
	require.NoError(t, err)
	pid, err := strconv.Atoi(said)
	require.NoError(t, err)
	return pid
}

func ended(t *testing.T, pid int) {
	t.Helper()
	require.Eventually(t, func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }, time.Minute, time.Millisecond)
}

// TestAnswers: whatever the process does to a request is an answer to that, and the next is answered as if nothing had been.
func TestAnswers(t *testing.T) {
	t.Parallel()
	const died = "waybill-kms died of it"
	for reference, c := range map[string]struct{ want, logged string }{
		"crash":   {died, "a provider that crashes"},
		"mute":    {died, "of no use any more"},
		"garbage": {died, "of no use any more"},
		"endless": {died, "longer than any should be"},
		"lengthy": {died, "longer than any should be"},
		"stop":    {"did not answer in 4s", ""},
		"block":   {"did not answer in 4s", ""},
		"refuse":  {"denied ééé", ""},
	} {
		t.Run(reference, func(t *testing.T) {
			t.Parallel()
			hangs := strings.Contains(c.want, "did not answer")
			remote, log := client(t, func(cfg *kms.Config) {
				if hangs {
					cfg.Timeout = 4 * time.Second
				}
			})
			before := pid(t, remote)
			_, err := sign(t, remote, reference)
			require.ErrorContains(t, err, c.want)
			require.Less(t, len(err.Error()), 4<<10)
			if hangs {
				ended(t, before) // somewhat later
			}
			after := pid(t, remote)
			require.Equal(t, reference == "refuse", before == after, "refusing is no fault of the process")
			require.Contains(t, log.String(), c.logged)
		})
	}
}

// TestKeys: a public key and signatures come as the KMS gave them; what is too long is not sent.
func TestKeys(t *testing.T) {
	t.Parallel()
	c, log := client(t, nil)
	public, err := c.PublicKey(t.Context(), "x")
	require.NoError(t, err)
	require.Equal(t, ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public(), public)
	_, err = c.PublicKey(t.Context(), "none")
	require.ErrorContains(t, err, "no public key")
	message := make([]byte, kms.MaxMessage)
	for hash, content := range map[crypto.Hash][]byte{0: message, crypto.SHA256: message[:32]} {
		raw, err := c.Sign(t.Context(), "x", hash, content)
		require.NoError(t, err)
		sum := sha256.Sum256(append([]byte{byte(hash)}, content...))
		require.Equal(t, sum[:], raw)
	}
	_, err = c.Sign(t.Context(), "x", 0, append(message, 0))
	require.ErrorContains(t, err, "33554433 bytes")

	_, err = sign(t, c, "say")
	require.NoError(t, err)
	c.Close()
	require.Contains(t, log.String(), "to be said")
	require.Less(t, len(log.String()), 16<<10)
}

// TestOneProcess: it is started when a key is asked for, once for all that ask, and one that waits long holds up no other; it
// ends when nobody asks, and with the server.
func TestOneProcess(t *testing.T) {
	t.Parallel()
	c, _ := client(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	blocked := make(chan error, 1)
	go func() {
		_, err := c.Sign(ctx, "block", 0, nil)
		blocked <- err
	}()
	pids := make([]int, 8)
	var all sync.WaitGroup
	for i := range pids {
		all.Go(func() {
			raw, err := c.Sign(t.Context(), "pid", 0, nil)
			if err != nil {
				t.Error(err)
			}
			pids[i], _ = strconv.Atoi(string(raw))
		})
	}
	all.Wait()
	require.Len(t, slices.Compact(pids), 1)
	cancel()
	require.ErrorIs(t, <-blocked, context.Canceled)
	require.Equal(t, pids[0], pid(t, c))

	require.NoError(t, syscall.Kill(pids[0], syscall.SIGKILL))
	var second string // one that died is started again, at the latest when that was noticed
	require.Eventually(t, func() bool {
		said, err := sign(t, c, "pid")
		second = said
		return err == nil && said != strconv.Itoa(pids[0])
	}, time.Minute, time.Millisecond)
	last, err := strconv.Atoi(second)
	require.NoError(t, err)
	c.Close()
	ended(t, last)
	_, err = sign(t, c, "pid")
	require.ErrorContains(t, err, "stopping")

	idle, log := client(t, func(cfg *kms.Config) { cfg.Idle = time.Millisecond })
	ended(t, pid(t, idle))
	ended(t, pid(t, idle))
	require.Empty(t, log.String())
}

func TestNotStarted(t *testing.T) {
	t.Parallel()
	silent := filepath.Join(t.TempDir(), "silent")
	require.NoError(t, os.WriteFile(silent, []byte("#!/bin/sh\nexec sleep 1000\n"), 0o700))
	for want, change := range map[string]func(*kms.Config){
		"signer.program is /nowhere":           func(cfg *kms.Config) { cfg.Program = "/nowhere" },
		"which is no program":                  func(cfg *kms.Config) { cfg.Program = "/etc/passwd" },
		"does not start":                       func(cfg *kms.Config) { cfg.Program = "/bin/true" },
		`version "test", waybill of "another"`: func(cfg *kms.Config) { cfg.Version = "another" },
		"did not answer in 50ms":               func(cfg *kms.Config) { cfg.Program, cfg.Timeout = silent, 50*time.Millisecond },
	} {
		c, _ := client(t, change)
		for range 2 {
			_, err := sign(t, c, "pid")
			require.ErrorContains(t, err, want)
		}
	}
}

// TestEnvironment: the process gets the providers' variables, and none of the server's own secrets.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	theirs := []string{"AWS_SECRET_ACCESS_KEY=a", "AZURE_CLIENT_SECRET=b", "GOOGLE_APPLICATION_CREDENTIALS=c", "VAULT_TOKEN=d", "BAO_ADDR=e", "TRANSIT_SECRET_ENGINE_PATH=f", "HOME=/g", "HTTPS_PROXY=h"}
	c, _ := client(t, func(cfg *kms.Config) {
		cfg.Environ = append([]string{"WAYBILL_DATABASE_URL=s", "COSIGN_PASSWORD=s", "PGPASSWORD=s", "HOMER=s", "LD_PRELOAD=s"}, theirs...)
	})
	said, err := sign(t, c, "environment")
	require.NoError(t, err)
	require.Equal(t, strings.Join(theirs, "\n"), said)
}

// FuzzAnswers: whatever a process writes, each request has an end.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"id":0,"result":{"Protocol":1,"Version":"test"},"error":null}` + "\n" + `{"id":1,"result":{"Raw":"AAAA"},"error":null}`))
	f.Add([]byte(`{"id":0,"result":null,"error":"denied"}{"id":7,"result":5,"error":{}}`))
	f.Fuzz(func(t *testing.T, written []byte) {
		c := kms.Talk(bytes.NewReader(written), discard{})
		defer c.Close()
		var hello kms.Hello
		_ = c.Call("KMS.Hello", struct{}{}, &hello)
		var signature kms.Signature
		_ = c.Call("KMS.Sign", kms.SignRequest{}, &signature)
	})
}

// FuzzRequests: and whatever it reads, it comes to an end.
func FuzzRequests(f *testing.F) {
	f.Add([]byte(`{"id":0,"method":"KMS.Hello","params":[{}]}{"id":1,"method":"KMS.Sign","params":[{"Content":"AAAA"}]}`))
	f.Add([]byte(`{"id":0,"method":"KMS.Serve","params":[null]}{"id":null,"method":"","params":null}`))
	f.Fuzz(func(t *testing.T, written []byte) {
		require.NoError(t, kms.Serve(bytes.NewReader(written), discard{}, odd{}))
	})
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Close() error                { return nil }
