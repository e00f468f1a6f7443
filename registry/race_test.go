package registry_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/postgres"
)

// Each pusher pushes that many images, of layers that the others push, mount and give up at the same time.
const (
	pushers = 6
	pushes  = 600
)

// TestCollectorAndPushers: collectors that keep nothing for a moment run without a pause against pushes of the same few
// blobs. A push may be told to try again; of one that was acknowledged, no blob may lack its row or its bytes.
func TestCollectorAndPushers(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.hurry()
	replica, err := postgres.Open(s.ctx, postgres.Config{URL: s.db.Pool.Config().ConnString(), MaxConnections: 4})
	require.NoError(t, err)
	defer replica.Close()

	var pushing, collecting sync.WaitGroup
	var acknowledged, again, mounts, told, freed, links atomic.Int64
	for p := range pushers {
		pushing.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(p)))
			for i := range pushes {
				r, from := shop, other
				if random.IntN(2) == 0 {
					r, from = other, shop
				}
				contents := []string{string(config)}
				for range 1 + random.IntN(3) {
					contents = append(contents, fmt.Sprintf("layer %d of %d", random.IntN(4), i/20))
				}
				var digest artifact.Digest
				for {
					var err error
					if digest, err = s.tryPush(random, r, from, fmt.Sprintf("%d of %d", i, p), contents, &mounts, &told); err == nil {
						break
					}
					if kind := artifact.KindOf(err); !assert.Equal(t, artifact.NotFound, kind, "%v", err) {
						return
					}
					again.Add(1)
				}
				acknowledged.Add(1)
				if !s.whole(r, contents) {
					return
				}
				if random.IntN(50) > 0 { // else it is checked again at the end
					if err := s.DeleteManifest(s.ctx, pusher, artifact.Reference{Repository: r, Digest: digest}); !assert.NoError(t, err) {
						return
					}
				}
			}
		})
	}
	done := make(chan struct{})
	for _, rows := range []*postgres.DB{s.db, replica} {
		collecting.Go(func() {
			collector := s.collectorOn(crowd{rows}, 0)
			for {
				select {
				case <-done:
					return
				default:
				}
				c, err := collector.Collect(s.ctx, false)
				if !assert.NoError(t, err) {
					return
				}
				freed.Add(c.Blobs.Count + c.Files.Count)
				links.Add(c.Links.Count)
			}
		})
	}
	pushing.Wait()
	close(done)
	collecting.Wait()

	t.Logf("%d pushes acknowledged, %d told to try again, %d mounts, %d blobs found there; collected %d blobs and %d links",
		acknowledged.Load(), again.Load(), mounts.Load(), told.Load(), freed.Load(), links.Load())
	require.EqualValues(t, pushers*pushes, acknowledged.Load())
	require.Greater(t, freed.Load(), int64(pushers*pushes/20), "the collectors were there")
	require.Greater(t, again.Load(), int64(0))
	s.sound()
	s.allReferencesHold()
	for range 2 { // what is left is garbage once the last manifests are gone
		_, err = s.collector(0).Collect(s.ctx, false)
		require.NoError(t, err)
		s.sound()
		s.allReferencesHold()
		_, err = s.db.Pool.Exec(s.ctx, "delete from manifests")
		require.NoError(t, err)
	}
	_, err = s.collector(0).Collect(s.ctx, false)
	require.NoError(t, err)
	s.requireContents()
	for _, folder := range []string{"uploads", "aside"} {
		left, err := os.ReadDir(filepath.Join(s.root, folder))
		require.NoError(t, err)
		require.Empty(t, left)
	}
}

// crowd lets several collections run at a time, which only costs them time.
type crowd struct{ *postgres.DB }

func (crowd) Only(context.Context, string) (func(), error) { return func() {}, nil }

// tryPush pushes as clients do: what the repository has is left out, what another has is mounted, the rest is sent.
func (s *store) tryPush(random *rand.Rand, r, from artifact.Repository, name string, contents []string, mounts, told *atomic.Int64) (artifact.Digest, error) {
	var layers []artifact.Descriptor
	for _, c := range contents {
		d := digestOf(c)
		layers = append(layers, artifact.Descriptor{Digest: d, Size: int64(len(c))})
		if random.IntN(4) > 0 {
			if file, _, err := s.OpenBlob(s.ctx, pusher, r, d); err == nil {
				file.Close()
				told.Add(1)
				continue
			}
		}
		if random.IntN(2) == 0 {
			mounted, err := s.Mount(s.ctx, pusher, r, from, d)
			if err != nil {
				return d, err
			}
			if mounted {
				mounts.Add(1)
				continue
			}
		}
		if err := s.send(random, r, c); err != nil {
			return d, err
		}
	}
	body := manifestOf(name, layers[1:]...)
	pushed, err := s.PutManifest(s.ctx, pusher, artifact.Reference{Repository: r, Digest: artifact.DigestOf(body)}, artifact.MediaTypeManifest, body, nil)
	return pushed.Digest, err
}

// send uploads a blob, in one request or in three.
func (s *store) send(random *rand.Rand, r artifact.Repository, content string) error {
	if random.IntN(2) == 0 {
		_, err := s.PutBlob(s.ctx, pusher, r, bytes.NewReader([]byte(content)), digestOf(content))
		return err
	}
	u, err := s.StartUpload(s.ctx, pusher, r)
	if err != nil {
		return err
	}
	_, err = s.Append(s.ctx, pusher, r, u.ID, nil, bytes.NewReader([]byte(content)))
	if err == nil {
		_, err = s.FinishUpload(s.ctx, pusher, r, u.ID, nil, bytes.NewReader(nil), digestOf(content))
	}
	if artifact.KindOf(err) == artifact.Conflict { // collected between two chunks
		err = artifact.Errorf(artifact.NotFound, "%w", err)
	}
	return err
}

// whole checks that the blobs of a manifest that was acknowledged are there, by row and by bytes.
func (s *store) whole(r artifact.Repository, contents []string) bool {
	for _, c := range contents {
		var size int
		err := s.db.Pool.QueryRow(s.ctx, "select size from repository_blobs join blobs using (digest) where repository = $1 and digest = $2", r, digestOf(c)).Scan(&size)
		if !assert.NoError(s.t, err, "row of %q", c) || !assert.Equal(s.t, len(c), size) {
			return false
		}
		b, err := os.ReadFile(s.path(digestOf(c)))
		if !assert.NoError(s.t, err, "bytes of %q", c) || !assert.Equal(s.t, c, string(b)) {
			return false
		}
	}
	return true
}

// allReferencesHold checks every manifest there is.
func (s *store) allReferencesHold() {
	s.t.Helper()
	var missing int
	require.NoError(s.t, s.db.Pool.QueryRow(s.ctx, `select count(*) from manifest_references m where not exists
		(select from repository_blobs b where b.repository = m.repository and b.digest = m.digest)`).Scan(&missing))
	require.Zero(s.t, missing, "blobs that a manifest needs and its repository does not have")
}

// hurry has commits not wait for the disk: no power is cut here.
func (s *store) hurry() {
	s.t.Helper()
	var name string
	require.NoError(s.t, s.db.Pool.QueryRow(s.ctx, "select current_database()").Scan(&name))
	_, err := s.db.Pool.Exec(s.ctx, "alter database "+name+" set synchronous_commit = off")
	require.NoError(s.t, err)
	s.db.Pool.Reset()
}
