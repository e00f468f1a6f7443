package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/auth"
	"waybill/blob"
	"waybill/postgres"
	"waybill/postgres/pgtest"
	"waybill/promotion"
	"waybill/registry"
	"waybill/server"
)

// mark is in all bytes that a recall withdraws, and in no other.
const mark = "ZZZZZZZZ"

// witnessed is a listener that sees what is written to clients.
type witnessed struct {
	net.Listener
	answered atomic.Bool  // the recall was
	late     atomic.Int64 // writes of what was recalled that were under way then, or began after it
	closed   chan struct{}
}

type witnessedConn struct {
	net.Conn
	of   *witnessed
	once sync.Once
}

func (w *witnessed) Accept() (net.Conn, error) {
	c, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &witnessedConn{Conn: c, of: w}, nil
}

func (c *witnessedConn) Write(b []byte) (int, error) {
	marked := bytes.Contains(b, []byte(mark))
	before := c.of.answered.Load()
	n, err := c.Conn.Write(b)
	if marked && n > 0 && (before || c.of.answered.Load()) {
		c.of.late.Add(1)
	}
	return n, err
}

func (c *witnessedConn) Close() error {
	c.once.Do(func() {
		select {
		case c.of.closed <- struct{}{}:
		default:
		}
	})
	return c.Conn.Close()
}

// replica is a server over a database, with a registry of its own.
type replica struct {
	t       *testing.T
	db      *postgres.DB
	images  *registry.Registry
	shop    artifact.Repository
	listens *witnessed
	url     string
}

func newReplica(t *testing.T, db *postgres.DB, folder string) *replica {
	t.Helper()
	files, err := blob.NewFile(folder)
	require.NoError(t, err)
	r := &replica{t: t, db: db}
	r.shop, err = artifact.ParseRepository("shop/returns")
	require.NoError(t, err)
	r.images = registry.New(registry.Config{Bytes: files, Blobs: db, Uploads: db, Manifests: db, Judge: r, Gate: promotion.NewGate(db), Names: r, Inspector: r,
		Logger: slog.New(slog.DiscardHandler), Now: time.Now, Heard: db.Heard})
	db.OnWithdrawn(r.images.Withdrawn)
	s := server.New(server.Config{Registry: r.images, Authenticator: r, AccessTokens: r, Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r.listens, r.url = &witnessed{Listener: l, closed: make(chan struct{}, 100)}, "http://"+l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, r.listens) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	return r
}

// FromRequest takes the header for a role, bound to the shop or, with a word after it, to another; "node" is a deployer.
func (r *replica) FromRequest(_ context.Context, authorization string) (auth.Identity, error) {
	role, elsewhere, _ := strings.Cut(authorization, " ")
	if role == "node" {
		role = string(artifact.Deployer)
	}
	p := artifact.Principal{Name: "token:" + authorization, Role: artifact.Role(role), Repositories: []string{r.shop.String()}}
	if elsewhere != "" {
		p.Repositories = []string{"bank/**"}
	}
	if p.Role == artifact.Deployer {
		e, err := artifact.ParseEnvironment("production")
		require.NoError(r.t, err)
		p.Environments = []artifact.Environment{e}
	}
	return auth.Identity{Principal: p}, nil
}

// Issue, IssuePublic and Service make it a server.AccessTokens, of which only the name is asked for.
func (r *replica) Issue(auth.Identity, []auth.Scope, time.Time) (string, time.Duration, error) {
	return "", 0, errors.ErrUnsupported
}
func (r *replica) IssuePublic([]auth.Scope, func(artifact.Repository) bool, time.Time) (string, time.Duration, error) {
	return "", 0, errors.ErrUnsupported
}
func (r *replica) Service() string { return "waybill" }

func (r *replica) Judge(_ context.Context, s artifact.Subject) (artifact.Judgement, error) {
	return artifact.Judgement{Verdict: artifact.VerdictRecord{Repository: s.Repository, Digest: s.Digest, Outcome: artifact.Allow, Reasons: []artifact.Reason{}, Policies: []string{}, PolicyHash: artifact.DigestOf(nil)}}, nil
}
func (r *replica) Expected(context.Context)                        {}
func (r *replica) Arrived(context.Context, artifact.Digest, int64) {}
func (r *replica) Reserved(context.Context, artifact.Repository, artifact.Tag) (bool, error) {
	return false, nil
}

// image pushes an image whose bytes all bear a mark, and lets production pull it.
func (r *replica) image(name, mark string, size int) (manifest, layer artifact.Digest) {
	r.t.Helper()
	ci := artifact.Principal{Name: "token:ci", Role: artifact.Pusher}
	put := func(content []byte) artifact.Descriptor {
		d, err := r.images.PutBlob(r.t.Context(), ci, r.shop, bytes.NewReader(content), artifact.DigestOf(content))
		require.NoError(r.t, err)
		return d
	}
	config := put(fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"author":%q}`, mark+name))
	content := put(append([]byte(name), bytes.Repeat([]byte(mark), size/len(mark))...))
	body := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":%d}],"annotations":{"is":%q}}`,
		artifact.MediaTypeManifest, artifact.MediaTypeConfig, config.Digest, config.Size, artifact.MediaTypeLayerGzip, content.Digest, content.Size, mark)
	tag, err := artifact.ParseTag(name)
	require.NoError(r.t, err)
	pushed, err := r.images.PutManifest(r.t.Context(), ci, artifact.Reference{Repository: r.shop, Tag: tag}, "", body, nil)
	require.NoError(r.t, err)
	for _, d := range []artifact.Digest{pushed.Digest, config.Digest, content.Digest} {
		_, err := r.db.Pool.Exec(r.t.Context(), `insert into grants (environment, repository, digest, root) values ('production', $1, $2, $3)`, r.shop, d, pushed.Digest)
		require.NoError(r.t, err)
	}
	return pushed.Digest, content.Digest
}

func (r *replica) get(who, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, r.url+"/v2/"+r.shop.String()+path, nil)
	require.NoError(r.t, err)
	request.Header.Set("Authorization", who)
	return http.DefaultClient.Do(request) //nolint:wrapcheck // a test's
}

// slow begins to read a blob and stops; what it returns reads the rest.
func (r *replica) slow(who string, d artifact.Digest) (rest func() (n int64, err error)) {
	r.t.Helper()
	answer, err := r.get(who, "/blobs/"+d.String())
	require.NoError(r.t, err)
	require.Equal(r.t, http.StatusOK, answer.StatusCode)
	_, err = io.ReadFull(answer.Body, make([]byte, 64<<10))
	require.NoError(r.t, err)
	return func() (int64, error) {
		defer answer.Body.Close()
		n, err := io.Copy(io.Discard, answer.Body)
		return n + 64<<10, err
	}
}

// held is more than the buffers of a connection on this machine hold.
const held = 48 << 20

// TestRecallCutsPulls: a pull that is under way when a digest is recalled gets not one byte after the recall's answer, though its
// client be slow, here or on another replica; other digests' pulls, and who may pull at will, go on.
func TestRecallCutsPulls(t *testing.T) {
	t.Parallel()
	folder, db := t.TempDir(), pgtest.New(t)
	here := newReplica(t, db, folder)
	second, err := postgres.Open(t.Context(), postgres.Config{URL: db.Pool.Config().ConnString(), MaxConnections: 4})
	require.NoError(t, err)
	defer second.Close()
	there := newReplica(t, second, folder)

	bad, badLayer := here.image("bad", mark, held)
	_, goodLayer := here.image("good", "YYYYYYYY", held)
	recalled, elsewhere, other := here.slow("node", badLayer), there.slow("node", badLayer), here.slow("node", goodLayer)
	reader := here.slow("reader", goodLayer)
	pulls := func() int {
		answer, err := there.get("node", "/manifests/"+bad.String())
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		return answer.StatusCode
	}
	require.Equal(t, http.StatusOK, pulls(), "which is remembered there")
	began := time.Now()
	require.NoError(t, db.Recall(t.Context(), here.shop, bad, "user:ada", "CVE", ""))
	here.listens.answered.Store(true)
	db.Settled(t.Context())
	there.listens.answered.Store(true)
	require.Equal(t, http.StatusForbidden, pulls(), "a replica let a pull begin")
	require.Less(t, time.Since(began), 5*time.Second, "who reads slowly holds up no recall")
	select {
	case <-there.listens.closed:
	case <-time.After(10 * time.Second):
		t.Fatal("a replica went on to serve what was recalled")
	}

	for name, rest := range map[string]func() (int64, error){"here": recalled, "there": elsewhere} {
		n, err := rest()
		require.Error(t, err, name)
		require.Less(t, n, int64(held), name)
	}
	for name, rest := range map[string]func() (int64, error){"another digest": other, "a reader": reader} {
		n, err := rest()
		require.NoError(t, err, name)
		require.GreaterOrEqual(t, n, int64(held), name)
	}
	require.Zero(t, here.listens.late.Load())
	require.Zero(t, there.listens.late.Load())
}

// TestRecallRace: pulls of all kinds race with a recall, again and again; whatever the order, nothing is written after its answer.
func TestRecallRace(t *testing.T) {
	t.Parallel()
	r := newReplica(t, pgtest.New(t), t.TempDir())
	for round := range 15 {
		name := fmt.Sprint("v", round)
		manifest, layer := r.image(name, mark, 3<<20)
		paths := []string{"/manifests/" + name, "/manifests/" + manifest.String(), "/blobs/" + layer.String()}
		r.listens.answered.Store(false)
		var (
			wg      sync.WaitGroup
			served  atomic.Int64
			wrong   = make(chan string, 100)
			refused = make(chan struct{})
			enough  sync.Once
		)
		for i := range 6 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for n := i; ; n++ {
					after := r.listens.answered.Load()
					answer, err := r.get("node", paths[n%len(paths)])
					if err != nil {
						continue // it was cut off
					}
					body, err := io.ReadAll(answer.Body)
					_ = answer.Body.Close()
					switch {
					case after && answer.StatusCode != http.StatusForbidden:
						wrong <- fmt.Sprint(answer.Status, " after the recall: ", paths[n%len(paths)])
						return
					case after && n%len(paths) < 2 && !strings.Contains(string(body), "CVE-2026-1"):
						wrong <- "the refusal does not say why: " + string(body)
						return
					case after:
						return
					case answer.StatusCode == http.StatusOK && err == nil:
						if served.Add(1) > int64(round*2) {
							enough.Do(func() { close(refused) })
						}
					case answer.StatusCode != http.StatusForbidden && !errors.Is(err, io.ErrUnexpectedEOF) && err == nil:
						wrong <- answer.Status
						return
					}
				}
			}()
		}
		<-refused // so many were served before it
		require.NoError(t, r.db.Recall(t.Context(), r.shop, manifest, "user:ada", "CVE-2026-1", ""))
		r.listens.answered.Store(true)
		wg.Wait()
		select {
		case what := <-wrong:
			t.Fatal(what)
		default:
		}
		require.Zero(t, r.listens.late.Load(), "round %d", round)
	}
}
