package layer

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// both unpacks with Go's own gzip and with ours, which is given its input in pieces.
func both(packed []byte) (theirs, ours []byte, theirErr, ourErr error) {
	z, theirErr := gzip.NewReader(bytes.NewReader(packed))
	if theirErr == nil {
		theirs, theirErr = io.ReadAll(z)
	}
	ours, ourErr = io.ReadAll(newGunzip(bytes.NewReader(packed)))
	return theirs, ours, theirErr, ourErr
}

// requireAlike: what one gives, so does the other; what one refuses, so does the other.
func requireAlike(t *testing.T, packed []byte) {
	t.Helper()
	theirs, ours, theirErr, ourErr := both(packed)
	if errors.Is(ourErr, errTrailing) {
		require.Error(t, theirErr)
		return
	}
	require.Equal(t, theirErr == nil, ourErr == nil, "theirs %v, ours %v", theirErr, ourErr)
	if theirErr == nil {
		require.True(t, bytes.Equal(theirs, ours), "%d bytes, want %d", len(ours), len(theirs))
	}
	if errors.Is(theirErr, io.ErrUnexpectedEOF) {
		require.ErrorIs(t, ourErr, io.ErrUnexpectedEOF)
	}
}

func samples() map[string][]byte {
	random := rand.NewChaCha8([32]byte{1})
	noise := make([]byte, 700_000)
	_, _ = random.Read(noise)
	letters := make([]byte, 500_000)
	for i := range letters {
		letters[i] = "eeeetaoin shrdlu\n\x00\xff"[noise[i]%19]
	}
	self, _ := os.ReadFile("inflate.go")
	far := append(append(bytes.Clone(noise[:32<<10]), noise[:300]...), noise[:32<<10]...)
	return map[string][]byte{
		"nothing": nil, "one byte": {7}, "a text": bytes.Repeat(self, 40), "noise": noise, "letters": letters, "zeros": make([]byte, 1<<20),
		"short repeats": bytes.Repeat([]byte("abcdefg"), 50_000), "pairs": bytes.Repeat([]byte("ab"), 50_000), "as far as can be": far,
		"all at once": bytes.Join([][]byte{noise, self, letters, make([]byte, 300_000), noise[:40_000]}, nil),
	}
}

func packAt(t testing.TB, content []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, level)
	require.NoError(t, err)
	_, err = w.Write(content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

func TestGunzip(t *testing.T) {
	t.Parallel()
	var members []byte
	for name, content := range samples() {
		for _, level := range []int{gzip.NoCompression, gzip.BestSpeed, gzip.DefaultCompression, gzip.BestCompression, gzip.HuffmanOnly} {
			packed := packAt(t, content, level)
			ours, err := io.ReadAll(newGunzip(bytes.NewReader(packed)))
			require.NoError(t, err, "%s at %d", name, level)
			require.True(t, bytes.Equal(content, ours), "%s at %d", name, level)
			members = append(members, packed...)
			if len(packed) > 10_000 {
				packed = packed[:10_000]
			}
			for _, n := range []int{0, 1, 2, 9, 10, 11, 17, 18, len(packed) / 2, len(packed) - 9, len(packed) - 8, len(packed) - 1} {
				if n >= 0 && n < len(packed) {
					requireAlike(t, packed[:n])
				}
			}
		}
	}
	requireAlike(t, members)
	small := append(packAt(t, []byte("one"), 6), packAt(t, []byte("two, one, two"), 6)...)
	for _, r := range []io.Reader{iotest.OneByteReader(bytes.NewReader(small)), iotest.DataErrReader(bytes.NewReader(small)), iotest.HalfReader(bytes.NewReader(small))} {
		ours, err := io.ReadAll(iotest.OneByteReader(newGunzip(r)))
		require.NoError(t, err)
		require.Equal(t, "onetwo, one, two", string(ours))
	}
	_, err := io.ReadAll(newGunzip(io.MultiReader(bytes.NewReader(small[:25]), iotest.ErrReader(errors.New("disk")))))
	require.ErrorContains(t, err, "disk")
	// What one member holds, the next cannot repeat.
	second := packAt(t, []byte(strings.Repeat("x", 300)), 9)
	copy(second[10:], []byte{0x03 | 0x40>>7, 0})
	requireAlike(t, append(packAt(t, bytes.Repeat([]byte("y"), 300), 9), second...))
	for _, b := range [][]byte{small[3:], append(bytes.Clone(small), 0x1f), append(bytes.Clone(small), "x"...), append(bytes.Clone(small), 0x1f, 0x8b, 9)} {
		requireAlike(t, b)
	}
}

// TestGunzipDamaged: a bit changed anywhere has both say the same.
func TestGunzipDamaged(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for _, content := range samples() {
		packed := packAt(t, content[:min(len(content), 3000)], 1+random.IntN(9))
		for range 300 {
			damaged := bytes.Clone(packed)
			for range 1 + random.IntN(3) {
				damaged[random.IntN(min(len(damaged), 400))] ^= 1 << random.IntN(8)
			}
			requireAlike(t, damaged)
		}
	}
}

func FuzzGunzip(f *testing.F) {
	for _, content := range samples() {
		for _, level := range []int{0, 1, 9} {
			f.Add(packAt(f, content[:min(len(content), 500)], level))
		}
	}
	// Headers with all that they may have; fixed codes; a code alone.
	f.Add([]byte("\x1f\x8b\x08\x1e\x00\x00\x00\x00\x00\x03\x02\x00hiname\x00comment\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\x4b\x04\x02\x00"))
	f.Fuzz(func(t *testing.T, packed []byte) { requireAlike(t, packed) })
}

// benchLayer is the layer that WAYBILL_BENCH_LAYER names, packed with gzip; else this very program, packed.
func benchLayer(b *testing.B) []byte {
	b.Helper()
	if path := os.Getenv("WAYBILL_BENCH_LAYER"); path != "" {
		packed, err := os.ReadFile(path)
		require.NoError(b, err)
		return packed
	}
	path, err := os.Executable()
	require.NoError(b, err)
	program, err := os.ReadFile(path)
	require.NoError(b, err)
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err = w.Write(program)
	require.NoError(b, err)
	require.NoError(b, w.Close())
	return packed.Bytes()
}

func BenchmarkGunzip(b *testing.B) {
	packed := benchLayer(b)
	b.SetBytes(int64(len(packed)))
	for b.Loop() {
		_, err := io.Copy(io.Discard, struct{ io.Reader }{newGunzip(bytes.NewReader(packed))})
		require.NoError(b, err)
	}
}
