package ledger

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"waybill/artifact"
)

// TileWidth is how many hashes, or entries, a full tile has: C2SP tlog-tiles fixes the height at 8.
const TileWidth = 1 << tileHeight

const tileHeight = 8

// MaxEntry bounds an entry's canonical JSON, in bytes: a bundle has 16 bits for each length.
const MaxEntry = 1<<16 - 1

// maxTileLevel is the highest there is (C2SP tlog-tiles, "Merkle tree").
const maxTileLevel = 5

// Tile names hashes of the tree, or entries: C2SP tlog-tiles.
type Tile struct {
	Level int // -1: a bundle of entries
	N     int64
	Width int // 1 to TileWidth; less than that is a partial tile
}

// ParseTile is the inverse of Path. Each tile has one path, and no other is taken.
func ParseTile(path string) (Tile, error) {
	bad := artifact.Errorf(artifact.NotFound, "%.200q is no path of C2SP tlog-tiles; want tile/<level>/<n> or tile/entries/<n>, of a partial one with .p/<width>", path)
	rest, ok := strings.CutPrefix(path, "tile/")
	if !ok {
		return Tile{}, bad
	}
	rest, entries := strings.CutPrefix(rest, "entries/")
	if entries {
		rest = "data/" + rest
	} else if strings.HasPrefix(rest, "data/") {
		return Tile{}, bad
	}
	t, err := tlog.ParseTilePath(fmt.Sprintf("tile/%d/%s", tileHeight, rest))
	if err != nil || t.L > maxTileLevel || t.N >= 1<<(62-tileHeight*(max(t.L, 0)+1)) {
		return Tile{}, bad
	}
	return Tile{Level: t.L, N: t.N, Width: t.W}, nil
}

func (t Tile) tlog() tlog.Tile { return tlog.Tile{H: tileHeight, L: t.Level, N: t.N, W: t.Width} }

// Path is where a log serves the tile, below its prefix.
func (t Tile) Path() string {
	path := strings.TrimPrefix(t.tlog().Path(), fmt.Sprintf("tile/%d/", tileHeight))
	if rest, entries := strings.CutPrefix(path, "data/"); entries {
		path = "entries/" + rest
	}
	return "tile/" + path
}

// First is the index of the first entry below the tile.
func (t Tile) First() int64 { return t.N << (tileHeight * (max(t.Level, 0) + 1)) }

// End is the size of the smallest tree that has the whole tile.
func (t Tile) End() int64 {
	return (t.N<<tileHeight + int64(t.Width)) << (tileHeight * max(t.Level, 0))
}

// ReadTile returns the bytes of a tile of hashes.
func ReadTile(t Tile, read func([]int64) ([]Hash, error)) ([]byte, error) {
	if t.Level < 0 {
		return nil, fmt.Errorf("%s is of entries, not of hashes", t.Path())
	}
	return tlog.ReadTileData(t.tlog(), tlog.HashReaderFunc(read))
}

// Bundle returns the bytes of a tile of entries: each with its length before it, in 16 bits, big endian.
func Bundle(bodies [][]byte) ([]byte, error) {
	var b []byte
	for _, body := range bodies {
		if len(body) > MaxEntry {
			return nil, fmt.Errorf("an entry of %d bytes does not fit a bundle", len(body))
		}
		b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
		b = append(b, body...)
	}
	return b, nil
}

// ParseBundle is the inverse of Bundle, for a bundle of n entries.
func ParseBundle(b []byte, n int) ([][]byte, error) {
	bodies := make([][]byte, 0, n)
	for len(b) > 0 && len(bodies) < n {
		if len(b) < 2 {
			return nil, fmt.Errorf("the bundle ends within the length of entry %d of %d", len(bodies), n)
		}
		length := int(binary.BigEndian.Uint16(b))
		if b = b[2:]; len(b) < length {
			return nil, fmt.Errorf("the bundle ends within entry %d of %d", len(bodies), n)
		}
		bodies, b = append(bodies, b[:length:length]), b[length:]
	}
	if len(b) > 0 || len(bodies) != n {
		return nil, fmt.Errorf("the bundle has %d entries and %d bytes after them, and is one of %d", len(bodies), len(b), n)
	}
	return bodies, nil
}
