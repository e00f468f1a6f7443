package builder

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"

	"waybill/artifact"
)

// TestXZ: ADD unpacks what xz makes, whatever its options.
func TestXZ(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/xz.txt")
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		name, encoded, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if !ok {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			archive, err := base64.StdEncoding.DecodeString(encoded)
			require.NoError(t, err)
			image, err := added(t, archive, Limits{})
			if strings.Contains(name, "--x86") {
				require.ErrorContains(t, err, "filters besides LZMA2")
				require.Equal(t, artifact.Unsupported, artifact.KindOf(err))
				return
			}
			require.NoError(t, err)
			lines, _ := list(t, image)
			require.Contains(t, strings.Join(lines, "\n"), "opt/zeros")

			// One bit of it, wherever it is, is noticed, or changes nothing that is read.
			whole, err := unxz(archive)
			require.NoError(t, err)
			for i := range archive {
				broken := bytes.Clone(archive)
				broken[i] ^= 4
				if got, err := unxz(broken); err == nil && !strings.Contains(name, "none") {
					require.Equal(t, whole, got, "byte %d", i)
				}
				if got, err := unxz(archive[:i]); err == nil {
					require.Equal(t, whole, got, "cut at %d", i) // behind the first of two streams
				}
			}
		})
	}
}

func unxz(b []byte) ([]byte, error) {
	r, err := newXZReader(bufio.NewReader(bytes.NewReader(b)))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// xzOf packs bytes into blocks of so many.
func xzOf(t testing.TB, plain []byte, block int64) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := xz.WriterConfig{BlockSize: block, DictCap: 1 << 20}.NewWriter(&b)
	require.NoError(t, err)
	_, err = w.Write(plain)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

// TestHostileXZ: a dictionary is made only as large as is allowed, and not over and over.
func TestHostileXZ(t *testing.T) {
	t.Parallel()
	plain := tarOf(file("a", 0o644, strings.Repeat("a", 100)))
	huge := xzOf(t, plain, 1<<20)
	words := int(huge[12]) // of the first block's header, behind the stream's
	header := huge[12 : 12+words*4+4]
	at := bytes.Index(header, []byte{0x21, 1}) + 2
	header[at] = 40 // 4 GiB - 1
	binary.LittleEndian.PutUint32(header[len(header)-4:], crc32.ChecksumIEEE(header[:len(header)-4]))
	_, err := added(t, huge, Limits{})
	require.ErrorContains(t, err, "at most 128 MiB is had here")
	require.Equal(t, artifact.TooLarge, artifact.KindOf(err))

	_, err = unxz(xzOf(t, bytes.Repeat([]byte{1}, 4096), 1))
	require.ErrorContains(t, err, "many blocks, and hardly anything in them")
	_, err = added(t, xzOf(t, tarOf(file("zeros", 0o644, strings.Repeat("\x00", 4<<20))), 1<<20), Limits{Unpacked: 1 << 20})
	require.ErrorContains(t, err, "more than 1 MiB would be unpacked")
}
