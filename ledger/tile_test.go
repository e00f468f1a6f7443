package ledger_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/sumdb/tlog"

	"waybill/ledger"
)

func TestTilePaths(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]ledger.Tile{
		"tile/0/000":                          {Level: 0, N: 0, Width: 256},
		"tile/0/000.p/7":                      {Level: 0, N: 0, Width: 7},
		"tile/1/x001/x234/067":                {Level: 1, N: 1234067, Width: 256},
		"tile/entries/x001/067.p/255":         {Level: -1, N: 1067, Width: 255},
		"tile/entries/000":                    {Level: -1, N: 0, Width: 256},
		"tile/5/000.p/1":                      {Level: 5, N: 0, Width: 1},
		"":                                    {},
		"checkpoint":                          {},
		"tile/0/0":                            {},
		"tile/0/x000/001":                     {},
		"tile/0/000.p/0":                      {},
		"tile/0/000.p/256":                    {},
		"tile/0/000.p/07":                     {},
		"tile/00/000":                         {},
		"tile/-1/000":                         {},
		"tile/6/000":                          {},
		"tile/data/000":                       {},
		"tile/entries/../000":                 {},
		"tile/8/0/000":                        {},
		"tile/0/000/":                         {},
		"tile/5/x999/x999/x999/x999/x999/999": {},
	} {
		got, err := ledger.ParseTile(path)
		if want == (ledger.Tile{}) {
			require.Error(t, err, path)
			continue
		}
		require.NoError(t, err, path)
		require.Equal(t, want, got)
		require.Equal(t, path, got.Path())
	}
	require.EqualValues(t, 256*256+3*256, ledger.Tile{Level: 1, N: 1, Width: 3}.End())
	require.EqualValues(t, 256*256, ledger.Tile{Level: 1, N: 1, Width: 3}.First())
	require.EqualValues(t, 259, ledger.Tile{Level: -1, N: 1, Width: 3}.End())
}

func FuzzParseTile(f *testing.F) {
	f.Add("tile/0/x001/067.p/9")
	f.Add("tile/entries/000")
	f.Fuzz(func(t *testing.T, path string) {
		tile, err := ledger.ParseTile(path)
		if err == nil && (tile.Path() != path || tile.First() < 0 || tile.End() <= tile.First()) {
			t.Fatalf("%q became %+v", path, tile)
		}
	})
}

func FuzzParseBundle(f *testing.F) {
	f.Add([]byte("\x00\x01a\x00\x00"), 2)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if n < 0 || n > ledger.TileWidth {
			return
		}
		bodies, err := ledger.ParseBundle(b, n)
		if err != nil {
			return
		}
		if again, err := ledger.Bundle(bodies); err != nil || string(again) != string(b) {
			t.Fatalf("%x became %x: %v", b, again, err)
		}
	})
}

// published is a log as files, by their paths.
type published map[string][]byte

func (p published) fetch(_ context.Context, path string) ([]byte, error) {
	b, ok := p[path]
	if !ok {
		return nil, fmt.Errorf("there is no %s", path)
	}
	return b, nil
}

// publish makes the tiles of a log of size entries, and returns the checkpoints of the sizes asked for.
func publish(t *testing.T, signer *ledger.Signer, size int, at ...int) (published, []string) {
	t.Helper()
	var tr tree
	for i := range size {
		body, err := ledger.Entry{Kind: "signed", Actor: "system", At: time.Unix(int64(i), 0), Version: fmt.Sprint(i)}.Canonical()
		require.NoError(t, err)
		tr.append(t, body)
	}
	p := published{}
	for first := 0; first < size; first += ledger.TileWidth {
		end := min(size, first+ledger.TileWidth)
		b, err := ledger.Bundle(tr.bodies[first:end])
		require.NoError(t, err)
		p[ledger.Tile{Level: -1, N: int64(first / ledger.TileWidth), Width: end - first}.Path()] = b
	}
	for level, nodes := 0, size; nodes > 0; level, nodes = level+1, nodes/ledger.TileWidth {
		for first := 0; first < nodes; first += ledger.TileWidth {
			tile := ledger.Tile{Level: level, N: int64(first / ledger.TileWidth), Width: min(ledger.TileWidth, nodes-first)}
			b, err := ledger.ReadTile(tile, tr.read)
			require.NoError(t, err)
			p[tile.Path()] = b
		}
	}
	var notes []string
	for _, n := range append(at, size) {
		root, err := ledger.Root(int64(n), tr.read)
		require.NoError(t, err)
		signed, err := signer.Sign(int64(n), root)
		require.NoError(t, err)
		notes = append(notes, signed)
	}
	p["checkpoint"] = []byte(notes[len(at)])
	return p, notes[:len(at)]
}

func TestAuditTiles(t *testing.T) {
	t.Parallel()
	signer := newSigner(t)
	for _, size := range []int{0, 1, 255, 256, 257, 512, 700, 256*256 + 300} {
		p, older := publish(t, signer, size, 0, size/3, size)
		report, err := ledger.AuditTiles(t.Context(), p.fetch, []string{signer.PublicKey()}, older...)
		require.NoError(t, err)
		require.Empty(t, report.Problems, "%d", size)
		require.EqualValues(t, size, report.Entries)
		require.Equal(t, 4, report.Checkpoints)
		head, err := ledger.OpenCheckpoint(string(p["checkpoint"]), signer.PublicKey())
		require.NoError(t, err)
		require.Equal(t, head.Root.String(), report.Root)
	}
}

// TestTilesAreTlogs: the tiles are those that golang.org/x/mod/sumdb/tlog reads trees from, and checks against the root.
func TestTilesAreTlogs(t *testing.T) {
	t.Parallel()
	const size = 700
	signer := newSigner(t)
	p, _ := publish(t, signer, size)
	head, err := ledger.OpenCheckpoint(string(p["checkpoint"]), signer.PublicKey())
	require.NoError(t, err)
	reader := tlog.TileHashReader(tlog.Tree{N: size, Hash: head.Root}, tileReader{p})
	proof, err := tlog.ProveRecord(size, 600, reader)
	require.NoError(t, err)
	bodies, err := ledger.ParseBundle(p["tile/entries/002.p/188"], 188)
	require.NoError(t, err)
	require.NoError(t, ledger.CheckInclusion(head, 600, bodies[600-512], proof))
}

type tileReader struct{ p published }

func (tileReader) Height() int                     { return 8 }
func (tileReader) SaveTiles([]tlog.Tile, [][]byte) {}
func (r tileReader) ReadTiles(tiles []tlog.Tile) (data [][]byte, err error) {
	for _, t := range tiles {
		b, err := r.p.fetch(context.Background(), ledger.Tile{Level: t.L, N: t.N, Width: t.W}.Path())
		if err != nil {
			return nil, err
		}
		data = append(data, b)
	}
	return data, nil
}

func TestAuditTilesFinds(t *testing.T) {
	t.Parallel()
	signer := newSigner(t)
	const size = 600
	replaced := func(p published, from, to string) {
		b := p["tile/entries/000"]
		p["tile/entries/000"] = []byte(strings.Replace(string(b), from, to, 1))
	}
	bundle := func(t *testing.T, p published, change func([][]byte) [][]byte) {
		bodies, err := ledger.ParseBundle(p["tile/entries/000"], 256)
		require.NoError(t, err)
		p["tile/entries/000"], err = ledger.Bundle(change(bodies))
		require.NoError(t, err)
	}
	for name, c := range map[string]struct {
		change func(t *testing.T, p published)
		want   []string
	}{
		"a changed entry": {func(_ *testing.T, p published) { replaced(p, `"version":"7"`, `"version":"8"`) },
			[]string{"entry 7: its bundle gives leaf hash", "among entries 0 to 599", "the checkpoint of 200 entries commits to root"}},
		"another spelling": {func(_ *testing.T, p published) { replaced(p, `"version"`, `"Version"`) }, []string{"entry 0: "}},
		"swapped entries": {func(t *testing.T, p published) {
			bundle(t, p, func(b [][]byte) [][]byte { b[3], b[4] = b[4], b[3]; return b })
		}, []string{"entry 3: its bundle", "entry 4: its bundle"}},
		"a removed entry": {func(t *testing.T, p published) {
			bundle(t, p, func(b [][]byte) [][]byte { return append(b[:3:3], b[4:]...) })
		}, []string{"tile/entries/000: the bundle has 255 entries"}},
		"an inserted entry": {func(t *testing.T, p published) {
			bundle(t, p, func(b [][]byte) [][]byte { return append(b[:3:3], b[2:]...) })
		}, []string{"tile/entries/000: the bundle has 256 entries"}},
		"a cut bundle": {func(_ *testing.T, p published) {
			p["tile/entries/001"] = p["tile/entries/001"][:1001]
		}, []string{"entries from 256 on cannot be checked: tile/entries/001: the bundle ends within"}},
		"a changed tile":   {func(_ *testing.T, p published) { p["tile/0/001"][33] ^= 1 }, []string{"entry 257: its bundle gives leaf hash"}},
		"a changed upper":  {func(_ *testing.T, p published) { p["tile/1/000.p/2"][0] ^= 1 }, []string{"entries 0 to 255 give the hash"}},
		"a short tile":     {func(_ *testing.T, p published) { p["tile/0/001"] = p["tile/0/001"][:32] }, []string{"tile/0/001 has 32 bytes"}},
		"a missing tile":   {func(_ *testing.T, p published) { delete(p, "tile/0/002.p/88") }, []string{"there is no tile/0/002.p/88"}},
		"a missing bundle": {func(_ *testing.T, p published) { delete(p, "tile/entries/001") }, []string{"entries from 256 on cannot be checked"}},
		"a forged head": {func(_ *testing.T, p published) {
			p["checkpoint"] = []byte(strings.Replace(string(p["checkpoint"]), "\n600\n", "\n599\n", 1))
		}, []string{"not signed by a key of this ledger"}},
		"cut off": {func(t *testing.T, p published) {
			clear(p)
			less, _ := publish(t, signer, 100)
			for path, b := range less {
				p[path] = b
			}
		}, []string{"the log was of 200 entries once, and is of 100 now"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, older := publish(t, signer, size, 200)
			c.change(t, p)
			report, err := ledger.AuditTiles(t.Context(), p.fetch, []string{signer.PublicKey()}, older...)
			require.NoError(t, err)
			all := strings.Join(report.Problems, "\n")
			for _, want := range c.want {
				require.Contains(t, all, want)
			}
		})
	}
	p, _ := publish(t, signer, size)
	_, forged := publish(t, newSigner(t), size, 10)
	report, err := ledger.AuditTiles(t.Context(), p.fetch, []string{signer.PublicKey()}, forged...)
	require.NoError(t, err)
	require.Len(t, report.Problems, 1)
	require.Contains(t, report.Problems[0], "the older checkpoint is not signed by a key of this ledger")
	delete(p, "checkpoint")
	_, err = ledger.AuditTiles(t.Context(), p.fetch, []string{signer.PublicKey()})
	require.ErrorContains(t, err, "there is no checkpoint")
}

func TestBundleLengths(t *testing.T) {
	t.Parallel()
	b, err := ledger.Bundle([][]byte{[]byte("ab"), make([]byte, ledger.MaxEntry)})
	require.NoError(t, err)
	require.EqualValues(t, 2, binary.BigEndian.Uint16(b))
	require.EqualValues(t, ledger.MaxEntry, binary.BigEndian.Uint16(b[4:]))
	_, err = ledger.Bundle([][]byte{make([]byte, ledger.MaxEntry+1)})
	require.Error(t, err)
}
