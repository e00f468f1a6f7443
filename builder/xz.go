package builder

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"

	"github.com/ulikunitz/xz/lzma"

	"waybill/artifact"
)

// What an .xz file may have its reader hold. Each block has a dictionary of its own, which is as large as the file says before
// the first byte of it is there.
const (
	maxDictionary = 128 << 20 // twice what xz -9 takes
	// dictionaries is how many bytes of dictionaries are made for each byte that came of the blocks before, so that a file of
	// many blocks of nothing ends soon.
	dictionaries = 16
)

// xzReader reads .xz files (tukaani.org/xz/xz-file-format.txt), of one stream or several, with LZMA2 as the only filter: what xz
// makes unless it is told otherwise. The library's own reader of the format has no bound for dictionaries, so only LZMA2 is its.
type xzReader struct {
	r      *bufio.Reader
	newSum func() hash.Hash // of the stream's check
	blocks uint64           // of the stream, so far

	plain io.Reader // of the block; nil: the next thing is a block, or the stream's index
	raw   *chunks
	sum   hash.Hash

	made, read int64 // bytes of dictionaries, and of what they were made for
}

var (
	xzMagic  = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
	xzFooter = []byte("YZ")
	errXZ    = errors.New("the xz archive is malformed")
)

func newXZReader(r *bufio.Reader) (*xzReader, error) {
	x := &xzReader{r: r}
	return x, x.stream()
}

func (x *xzReader) Read(p []byte) (n int, err error) {
	for len(p) > 0 && n == 0 {
		if x.plain == nil {
			if err := x.next(); err != nil {
				return 0, err
			}
			continue
		}
		n, err = x.plain.Read(p)
		x.read += int64(n)
		x.sum.Write(p[:n])
		switch {
		case err == io.EOF: //nolint:errorlint // as the library returns it; a wrapped one is no end
			if err := x.endBlock(); err != nil {
				return n, err
			}
		case err != nil:
			return n, fmt.Errorf("%w: %w", errXZ, unexpected(err))
		}
	}
	return n, nil
}

// unexpected keeps the end of the file from being taken for that of what it holds.
func unexpected(err error) error {
	if err == io.EOF { //nolint:errorlint // a wrapped one is no end
		return io.ErrUnexpectedEOF
	}
	return err
}

// take reads n bytes.
func (x *xzReader) take(n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(x.r, b)
	return b, unexpected(err)
}

// stream reads a stream's header.
func (x *xzReader) stream() error {
	head, err := x.take(12)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(head, xzMagic) || head[6] != 0 || crc32.ChecksumIEEE(head[6:8]) != binary.LittleEndian.Uint32(head[8:]) {
		return errXZ
	}
	x.blocks = 0
	switch head[7] {
	case 0:
		x.newSum = func() hash.Hash { return noSum{} }
	case 1:
		x.newSum = func() hash.Hash { return reversed{crc32.NewIEEE()} }
	case 4:
		x.newSum = func() hash.Hash { return reversed{crc64.New(crc64.MakeTable(crc64.ECMA))} }
	case 10:
		x.newSum = sha256.New
	default:
		return fmt.Errorf("%w: check %d is none that is known", errXZ, head[7])
	}
	return nil
}

// next begins a block, or ends a stream and begins what follows it; io.EOF when that is nothing.
func (x *xzReader) next() error {
	words, err := x.r.ReadByte()
	if err != nil {
		return unexpected(err)
	}
	if words != 0 {
		return x.block(int(words))
	}
	if err := x.index(); err != nil {
		return err
	}
	for { // Padding is zeros, four at a time.
		head, err := x.r.Peek(4)
		switch {
		case len(head) == 0 && err == io.EOF: //nolint:errorlint // as Peek returns it
			return io.EOF
		case err != nil:
			return unexpected(err)
		case !bytes.Equal(head, make([]byte, 4)):
			return x.stream()
		}
		_, _ = x.r.Discard(4)
	}
}

// block reads a block's header, which has so many words of four bytes, and one more.
func (x *xzReader) block(words int) error {
	head, err := x.take(words*4 + 3)
	if err != nil {
		return err
	}
	end := len(head) - 4
	sum := crc32.ChecksumIEEE([]byte{byte(words)})
	if crc32.Update(sum, crc32.IEEETable, head[:end]) != binary.LittleEndian.Uint32(head[end:]) {
		return fmt.Errorf("%w: the checksum of a block's header", errXZ)
	}
	fields := bytes.NewReader(head[1:end])
	for _, has := range []byte{0x40, 0x80} { // the block's sizes, which its chunks say too
		if head[0]&has != 0 {
			if _, err := binary.ReadUvarint(fields); err != nil {
				return errXZ
			}
		}
	}
	filter := make([]byte, 3)
	if _, err := io.ReadFull(fields, filter); err != nil || head[0]&0x3c != 0 {
		return errXZ
	}
	if head[0]&3 != 0 || filter[0] != 0x21 || filter[1] != 1 {
		return artifact.Errorf(artifact.Unsupported, "the xz archive has filters besides LZMA2; compress it without --x86 and the like")
	}
	dictionary, err := lzma.DecodeDictCap(filter[2])
	if err != nil {
		return fmt.Errorf("%w: %w", errXZ, err)
	}
	if dictionary > maxDictionary {
		return artifact.Errorf(artifact.TooLarge, "the xz archive wants a dictionary of %s; at most %s is had here, which is more than xz -9 takes", size(dictionary), size(maxDictionary))
	}
	dictionary = max(dictionary, lzma.MinDictCap)
	if x.made += dictionary; x.made > maxDictionary+dictionaries*x.read {
		return artifact.Errorf(artifact.TooLarge, "the xz archive has many blocks, and hardly anything in them; compress it anew")
	}
	x.blocks++
	x.raw, x.sum = &chunks{r: x.r}, x.newSum()
	x.plain, err = lzma.Reader2Config{DictCap: int(dictionary)}.NewReader2(x.raw)
	return err
}

// endBlock reads what is behind a block: padding, and the check of what it held.
func (x *xzReader) endBlock() error {
	if _, err := io.Copy(io.Discard, x.raw); err != nil {
		return err
	}
	x.plain = nil
	padding, err := x.take(int(-x.raw.passed & 3))
	if err != nil {
		return err
	}
	check, err := x.take(x.sum.Size())
	if err != nil {
		return err
	}
	if len(bytes.Trim(padding, "\x00")) > 0 || !bytes.Equal(check, x.sum.Sum(nil)) {
		return fmt.Errorf("%w: the checksum of a block", errXZ)
	}
	return nil
}

// index reads a stream's index and its footer. What the index says of blocks, these said themselves.
func (x *xzReader) index() error {
	in := &counted{r: x.r, n: 1}
	records, err := binary.ReadUvarint(in)
	if err == nil && records != x.blocks {
		return fmt.Errorf("%w: it has %d blocks, and an index of %d", errXZ, x.blocks, records)
	}
	for range 2 * records {
		if err == nil {
			_, err = binary.ReadUvarint(in)
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errXZ, unexpected(err))
	}
	rest, err := x.take(int(-in.n&3) + 4 + 12)
	if err != nil {
		return err
	}
	if !bytes.HasSuffix(rest, xzFooter) {
		return fmt.Errorf("%w: its end", errXZ)
	}
	return nil
}

// counted counts the bytes that are read.
type counted struct {
	r io.ByteReader
	n int64
}

func (c *counted) ReadByte() (byte, error) {
	b, err := c.r.ReadByte()
	c.n++
	return b, err
}

// chunks reads a block's chunks (LZMA2), and ends behind the last: so a decoder reads no further, whatever it makes of them.
type chunks struct {
	r      *bufio.Reader
	left   int64 // of the chunk
	last   bool
	passed int64
}

func (c *chunks) Read(p []byte) (int, error) {
	if c.left == 0 {
		if c.last {
			return 0, io.EOF
		}
		if err := c.begin(); err != nil {
			return 0, err
		}
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	c.passed += int64(n)
	return n, unexpected(err)
}

// begin looks at a chunk's header, which is passed on with it.
func (c *chunks) begin() error {
	control, err := c.r.Peek(1)
	if err != nil {
		return unexpected(err)
	}
	var length int
	switch kind := control[0]; {
	case kind == 0:
		c.last, c.left = true, 1
		return nil
	case kind >= 0xc0: // new properties
		length = 6
	case kind >= 0x80:
		length = 5
	case kind <= 2: // as it is
		length = 3
	default:
		return errXZ
	}
	head, err := c.r.Peek(length)
	if err != nil {
		return unexpected(err)
	}
	at := 1
	if length > 3 {
		at = 3 // behind the plain size
	}
	c.left = int64(length) + int64(binary.BigEndian.Uint16(head[at:])) + 1
	return nil
}

// reversed is a sum whose bytes stand in a file from the last to the first.
type reversed struct{ hash.Hash }

func (r reversed) Sum(b []byte) []byte {
	sum := r.Hash.Sum(nil)
	for i := range sum {
		b = append(b, sum[len(sum)-1-i])
	}
	return b
}

// noSum is the check of a stream that has none.
type noSum struct{}

func (noSum) Write(p []byte) (int, error) { return len(p), nil }
func (noSum) Sum(b []byte) []byte         { return b }
func (noSum) Reset()                      {}
func (noSum) Size() int                   { return 0 }
func (noSum) BlockSize() int              { return 1 }
