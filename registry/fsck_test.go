package registry_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/registry"
)

// check checks every blob and returns what it found, by digest.
func (s *store) check(quarantine bool) (registry.Checked, map[artifact.Digest]registry.Finding) {
	s.t.Helper()
	done, found, err := s.tryCheck(s.files, s.db, quarantine)
	require.NoError(s.t, err)
	require.EqualValues(s.t, len(found), done.Findings)
	require.Equal(s.t, len(found) == 0, done.OK)
	return done, found
}

func (s *store) tryCheck(files registry.Files, rows registry.CheckedRows, quarantine bool) (registry.Checked, map[artifact.Digest]registry.Finding, error) {
	found := map[artifact.Digest]registry.Finding{}
	checker := registry.NewChecker(registry.CheckerConfig{Files: files, Rows: rows, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	done, err := checker.Check(s.ctx, quarantine, registry.CheckReport{Found: func(f registry.Finding) { found[f.Digest] = f }, Progress: func(registry.CheckProgress) {}})
	return done, found, err
}

// damage overwrites a blob's file.
func (s *store) damage(content, with string) artifact.Digest {
	s.t.Helper()
	require.NoError(s.t, os.WriteFile(s.path(digestOf(content)), []byte(with), 0o600))
	return digestOf(content)
}

func TestCheckFindsNothing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.push(shop, "image", "layer", "another")
	s.put(other, "layer")
	done, _ := s.check(true)
	require.Equal(t, registry.Checked{OK: true, Blobs: 3, Bytes: 14}, done)
}

func TestCheckFindsAll(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.push(shop, "image", "whole", "flipped", "truncated", "missing")
	s.put(other, "flipped")
	flipped, truncated := s.damage("flipped", "flopped"), s.damage("truncated", "trunc")
	missing := digestOf("missing")
	require.NoError(t, os.Remove(s.path(missing)))
	unknown, wrong := s.orphan("unknown"), s.orphan("unknown and wrong")
	s.damage("unknown and wrong", "nonsense")

	for _, quarantine := range []bool{false, true} {
		done, found := s.check(quarantine)
		require.EqualValues(t, 6-1, done.Blobs, "{} and four layers")
		for d, want := range map[artifact.Digest]registry.Finding{
			flipped:   {Damage: registry.DamageBytes, Size: 7, Detail: "its bytes are " + digestOf("flopped").String(), Repositories: []artifact.Repository{other, shop}, Quarantined: quarantine},
			truncated: {Damage: registry.DamageSize, Size: 9, Detail: "its file has 5 bytes instead of 9", Repositories: []artifact.Repository{shop}, Quarantined: quarantine},
			missing:   {Damage: registry.DamageMissing, Size: 7, Detail: "its file is gone", Repositories: []artifact.Repository{shop}, Quarantined: quarantine},
			unknown:   {Damage: registry.DamageUnknown, Size: 7, Detail: "no row knows its file; `waybill gc` removes it when it is old enough", Repositories: []artifact.Repository{}},
			wrong:     {Damage: registry.DamageBytes, Size: 8, Detail: "no row knows its file, and its bytes are " + digestOf("nonsense").String(), Repositories: []artifact.Repository{}, Quarantined: quarantine},
		} {
			want.Digest = d
			require.Equal(t, want, found[d])
		}
		require.Len(t, found, 5)
	}
	for d, content := range map[artifact.Digest]string{flipped: "flopped", truncated: "trunc", wrong: "nonsense"} {
		b, err := os.ReadFile(filepath.Join(s.root, "quarantine", "sha256-"+d.Hex()))
		require.NoError(t, err)
		require.Equal(t, content, string(b))
		require.NoFileExists(t, s.path(d))
	}
	_, found := s.check(true)
	require.Len(t, found, 4)
	require.Equal(t, registry.DamageQuarantined, found[flipped].Damage)
	require.Equal(t, registry.DamageUnknown, found[unknown].Damage)
}

// TestQuarantine: a pull of what is damaged gets an error, a push leaves nothing out because of it, and repairs it in
// every repository.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	image := s.push(shop, "image", "layer", "lost")
	s.put(other, "layer")
	for _, r := range []artifact.Repository{shop, other} { // by now it is remembered
		_, err := s.StatBlob(s.ctx, reader, r, digestOf("layer"))
		require.NoError(t, err)
	}
	s.damage("layer", "LAYER")
	require.NoError(t, os.Remove(s.path(digestOf("lost"))))
	_, found := s.check(true)
	require.Len(t, found, 2)

	for _, p := range []artifact.Principal{reader, pusher} {
		for _, r := range []artifact.Repository{shop, other} {
			require.Eventually(t, func() bool { // a server that remembered it is told
				_, err := s.StatBlob(s.ctx, p, r, digestOf("layer"))
				return err != nil
			}, time.Second, time.Millisecond)
			_, _, err := s.OpenBlob(s.ctx, p, r, digestOf("layer"))
			require.Equal(t, artifact.NotFound, artifact.KindOf(err))
			require.ErrorContains(t, err, "in quarantine; push it again to repair it")
		}
	}
	mounted, err := s.Mount(s.ctx, pusher, must(artifact.ParseRepository("third/one")), shop, digestOf("layer"))
	require.NoError(t, err)
	require.False(t, mounted)
	body := manifestOf("later", artifact.Descriptor{Digest: digestOf("layer"), Size: 5})
	ref := artifact.Reference{Repository: shop, Digest: artifact.DigestOf(body)}
	_, err = s.PutManifest(s.ctx, pusher, ref, artifact.MediaTypeManifest, body, nil)
	require.ErrorContains(t, err, "does not have")
	_, err = s.GetManifest(s.ctx, reader, artifact.Reference{Repository: shop, Digest: image})
	require.NoError(t, err, "what needs it is still here")

	s.put(shop, "layer")
	for _, r := range []artifact.Repository{shop, other} {
		file, _, err := s.OpenBlob(s.ctx, reader, r, digestOf("layer"))
		require.NoError(t, err)
		file.Close()
	}
	require.Equal(t, "layer", s.read(digestOf("layer")))
	_, err = s.PutManifest(s.ctx, pusher, ref, artifact.MediaTypeManifest, body, nil)
	require.NoError(t, err)
	_, found = s.check(true)
	require.Len(t, found, 1)
	s.put(shop, "lost")
	done, _ := s.check(true)
	require.True(t, done.OK)
}

// TestPushRepairs: even of what nobody has found damaged yet.
func TestPushRepairs(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.push(shop, "image", "layer", "lost")
	s.damage("layer", "LAYER")
	require.NoError(t, os.Remove(s.path(digestOf("lost"))))
	_, _, err := s.OpenBlob(s.ctx, reader, shop, digestOf("lost"))
	require.Equal(t, artifact.NotFound, artifact.KindOf(err))
	s.put(shop, "layer")
	s.put(shop, "lost")
	done, _ := s.check(false)
	require.True(t, done.OK)
}

// pushedMeanwhile are files of which one is pushed again between the check's look at it and its judgement.
type pushedMeanwhile struct {
	registry.CheckedRows
	push func()
}

func (r pushedMeanwhile) Alone(ctx context.Context, d artifact.Digest, f func(known func() (bool, error)) error) error {
	r.push()
	return r.CheckedRows.Alone(ctx, d, f)
}

func TestRepairedUnderTheChecksFeet(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.put(shop, "layer")
	s.damage("layer", "LAYER")
	_, found, err := s.tryCheck(s.files, pushedMeanwhile{s.db, func() { s.put(shop, "layer") }}, true)
	require.NoError(t, err)
	require.Empty(t, found)
	s.orphan("later")
	_, found, err = s.tryCheck(s.files, pushedMeanwhile{s.db, func() { s.put(shop, "later") }}, true)
	require.NoError(t, err)
	require.Empty(t, found)
	s.requireContents("layer", "later")
	done, _ := s.check(true)
	require.True(t, done.OK)
}

// TestCheckAmongPushes: a check, also one that quarantines, finds nothing wrong with what others push and collect.
func TestCheckAmongPushes(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.hurry()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_, err := s.collector(0).Collect(s.ctx, false)
				assert.True(t, err == nil || artifact.KindOf(err) == artifact.Conflict, "%v", err)
			}
		}
	}()
	for round := range 60 {
		checked := make(chan struct{})
		go func() {
			defer close(checked)
			_, found, err := s.tryCheck(s.files, s.db, true)
			assert.NoError(t, err)
			assert.Empty(t, found)
		}()
		for _, content := range []string{"a", "b", "c"} {
			_, err := s.PutBlob(s.ctx, pusher, shop, bytes.NewReader([]byte(content)), digestOf(content))
			if err != nil {
				require.Equal(t, artifact.NotFound, artifact.KindOf(err), "round %d: %v", round, err)
			}
		}
		<-checked
	}
	close(stop)
	<-stopped
}

// TestQuarantineKilled: whatever a check was at when it was killed, the next push repairs the blob and a collection and
// another check end the rest.
func TestQuarantineKilled(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	atEveryStep(t, 5, func(t *testing.T, k *killer, name string) error {
		s.put(shop, name)
		s.damage(name, "damaged")
		orphan := s.orphan("orphan " + name)
		s.damage("orphan "+name, "damaged")
		_, _, err := s.tryCheck(mortalFiles{s.files, k}, mortalRows{s.db, k}, true)

		_, again := s.collector(time.Hour).Collect(s.ctx, false)
		require.NoError(t, again)
		_, found := s.check(true)
		for d, f := range found {
			require.True(t, d == digestOf(name) || d == orphan, d)
			require.True(t, f.Quarantined)
		}
		require.NotContains(t, s.blobFiles(), orphan)
		s.put(shop, name)
		done, _ := s.check(true)
		require.True(t, done.OK)
		s.sound()
		return err
	})
}

func TestOneCheckAtATime(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	release, err := s.db.Only(s.ctx, "a check of the blobs")
	require.NoError(t, err)
	defer release()
	_, _, err = s.tryCheck(s.files, s.db, false)
	require.Equal(t, artifact.Conflict, artifact.KindOf(err))
}
