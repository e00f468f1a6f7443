package layer

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"
)

// inflater unpacks DEFLATE (RFC 1951). Unpacking is half of what a layer costs, and this takes half of the time that
// compress/flate takes: bits are taken from a word that is filled eight bytes at a time, one look-up in a table gives a whole
// code with how many bits follow it, and what is repeated is copied in words. The method is libdeflate's (Eric Biggers,
// lib/decompress_template.h). What it accepts, and gives, is what compress/flate does.
type inflater struct {
	source io.Reader
	in     []byte // its bytes from next to end are not taken yet; zeros follow that nobody sent
	next   int
	end    int
	ended  bool // source has no more
	bits   uint64
	have   uint // how many bits of a code may still be taken of bits

	out    []byte // the last 32 KiB, and what was unpacked since
	filled int
	given  int // to whoever reads
	oldest int // where what may be repeated begins

	state  inflateState
	last   bool // this block is
	stored int  // bytes that are left of a stored block

	literals  [1 << literalBits * 2]uint32
	distances [1 << distanceBits * 2]uint32
	lengths   [maxLiterals + maxDistances]uint8 // of codes
	sorted    [maxLiterals]uint16
}

type inflateState int

const (
	betweenBlocks inflateState = iota
	inStored
	inCodes
	afterBlocks
)

// Sizes. A table holds each code of at most so many bits; longer ones go on in further tables behind it, which together
// are smaller than it (zlib, examples/enough.c: 2342 and 402 at most).
const (
	literalBits  = 11
	distanceBits = 8
	maxLiterals  = 288
	maxDistances = 32
	maxCode      = 15
	window       = 32 << 10
	longest      = 258
	inputSize    = 256 << 10
	outputSize   = window + 256<<10
	slack        = longest + 16 // so much may be written in one go
	ahead        = 16           // so many bytes one go may load
)

// An entry of a table: how many bits it takes, extra ones included, then how many of them are the code's, then flags, and
// from bit 16 a literal, a base, or where a further table begins.
const (
	isLiteral = 1 << 31
	isSpecial = 1 << 15
	isTable   = isSpecial | 1<<14
	isEnd     = isSpecial | 1<<13
	isNone    = isSpecial | 1<<12
	takes     = 0x3f
)

var errCorrupt = errors.New("flate: corrupt input")

// inflaters are those that another layer may use: each has half a megabyte of buffers.
var inflaters = sync.Pool{New: func() any {
	return &inflater{in: make([]byte, inputSize+2*ahead), out: make([]byte, outputSize+slack)}
}}

func newInflater(source io.Reader) *inflater {
	f := inflaters.Get().(*inflater)
	clear(f.in)
	*f = inflater{source: source, in: f.in, out: f.out}
	return f
}

// release gives it back; it must not be read again.
func (f *inflater) release() {
	f.source = nil
	inflaters.Put(f)
}

// reset begins another stream in the same source.
func (f *inflater) reset() {
	f.state, f.last, f.oldest = betweenBlocks, false, f.filled
}

// Read gives what is unpacked; io.EOF is the stream's end, whatever follows it.
func (f *inflater) Read(p []byte) (int, error) {
	for f.given == f.filled {
		if f.state == afterBlocks {
			return 0, io.EOF
		}
		if f.filled >= outputSize {
			copy(f.out, f.out[f.filled-window:f.filled])
			f.oldest = max(0, f.oldest-(f.filled-window))
			f.filled, f.given = window, window
		}
		if err := f.step(); err != nil {
			if !errors.Is(err, errCorrupt) || !f.overrun() {
				return 0, err
			}
			return 0, io.ErrUnexpectedEOF
		}
	}
	n := copy(p, f.out[f.given:f.filled])
	f.given += n
	return n, nil
}

// step unpacks until the buffer is full or a block ends.
func (f *inflater) step() error {
	switch f.state {
	case betweenBlocks:
		if f.last {
			if f.overrun() {
				return io.ErrUnexpectedEOF
			}
			f.state = afterBlocks
			return nil
		}
		return f.begin()
	case inStored:
		return f.copyStored()
	}
	return f.codes()
}

// overrun reports whether bits were taken that nobody sent.
func (f *inflater) overrun() bool { return f.ended && f.next-int(f.have/8) > f.end }

// more reads from the source, unless there is enough for another go.
func (f *inflater) more() error {
	for f.end-f.next < ahead && !f.ended {
		done := max(0, f.next-8) // what was loaded last may be given back, see align
		copy(f.in, f.in[done:f.end])
		f.next, f.end = f.next-done, f.end-done
		n, err := f.source.Read(f.in[f.end:inputSize])
		f.end += n
		if errors.Is(err, io.EOF) {
			f.ended = true
			clear(f.in[f.end:])
		} else if err != nil {
			return err
		}
	}
	if f.next > f.end+ahead {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// need has at least so many bits to take, 32 at most.
func (f *inflater) need(n uint) error {
	if f.have >= n {
		return nil
	}
	if err := f.more(); err != nil {
		return err
	}
	f.bits |= binary.LittleEndian.Uint64(f.in[f.next:]) << (f.have & 63)
	f.next += int((63 - f.have) >> 3)
	f.have |= 56
	return nil
}

func (f *inflater) take(n uint) uint32 {
	v := uint32(f.bits & (1<<n - 1))
	f.bits >>= n
	f.have -= n
	return v
}

// align drops the rest of a byte, and gives back the bytes that were loaded and not taken.
func (f *inflater) align() error {
	f.next -= int(f.have / 8)
	f.bits, f.have = 0, 0
	if f.ended && f.next > f.end {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// byte takes one byte, of what stands round the stream.
func (f *inflater) byte() (byte, error) {
	if err := f.more(); err != nil {
		return 0, err
	}
	if f.next >= f.end {
		return 0, io.EOF
	}
	f.next++
	return f.in[f.next-1], nil
}

// begin reads a block's header (section 3.2.3).
func (f *inflater) begin() error {
	if err := f.need(3); err != nil {
		return err
	}
	f.last = f.take(1) == 1
	switch f.take(2) {
	case 0:
		if err := f.align(); err != nil {
			return err
		}
		var sizes [4]byte
		for i := range sizes {
			b, err := f.byte()
			if err != nil {
				return unexpected(err)
			}
			sizes[i] = b
		}
		size := binary.LittleEndian.Uint16(sizes[:])
		if binary.LittleEndian.Uint16(sizes[2:]) != ^size {
			return errCorrupt
		}
		f.stored, f.state = int(size), inStored
		return nil
	case 1:
		for i := range maxLiterals {
			switch {
			case i < 144, i >= 280:
				f.lengths[i] = 8
			case i < 256:
				f.lengths[i] = 9
			default:
				f.lengths[i] = 7
			}
		}
		for i := range maxDistances {
			f.lengths[maxLiterals+i] = 5
		}
		return f.tables(maxLiterals, maxDistances)
	case 2:
		return f.dynamic()
	}
	return errCorrupt
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// copyStored passes on what is not packed (section 3.2.4).
func (f *inflater) copyStored() error {
	if f.stored == 0 {
		f.state = betweenBlocks
		return nil
	}
	if err := f.more(); err != nil {
		return err
	}
	n := copy(f.out[f.filled:outputSize], f.in[f.next:min(f.end, f.next+f.stored)])
	if n == 0 {
		return io.ErrUnexpectedEOF
	}
	f.next, f.filled, f.stored = f.next+n, f.filled+n, f.stored-n
	return nil
}

// limit is up to where a go may begin: it loads what was sent, or the zeros behind it.
func (f *inflater) limit() int {
	if f.ended {
		return f.end + ahead
	}
	return f.end - ahead
}

// codes unpacks a block's codes. All that it works with is held in variables of its own while it goes on: in registers.
func (f *inflater) codes() (err error) { //nolint:funlen // what it would call, it would call for every code
	const mask, distanceMask = 1<<literalBits - 1, 1<<distanceBits - 1
	literals, distances, in, out := &f.literals, &f.distances, f.in, f.out
	bits, have, next, filled, oldest, limit := f.bits, f.have, f.next, f.filled, f.oldest, f.limit()
	for filled < outputSize {
		if next > limit {
			f.bits, f.have, f.next, f.filled = bits, have, next, filled
			if err := f.more(); err != nil {
				return err
			}
			next, limit = f.next, f.limit()
		}
		bits |= binary.LittleEndian.Uint64(in[next:]) << (have & 63)
		next += int((63 - have) >> 3)
		have |= 56 // of which two literals and a length take 42 at most
		e := literals[bits&mask]
		if e&isLiteral != 0 {
			bits >>= e & takes
			have -= uint(e & takes)
			out[filled] = byte(e >> 16)
			filled++
			if e = literals[bits&mask]; e&isLiteral != 0 {
				bits >>= e & takes
				have -= uint(e & takes)
				out[filled] = byte(e >> 16)
				filled++
				if e = literals[bits&mask]; e&isLiteral != 0 {
					bits >>= e & takes
					have -= uint(e & takes)
					out[filled] = byte(e >> 16)
					filled++
					continue
				}
			}
		}
		if e&isSpecial != 0 {
			if e&isTable == isTable {
				bits >>= literalBits
				have -= literalBits
				e = literals[e>>16&0x7fff+uint32(bits)&(1<<(e>>8&15)-1)]
			}
			if e&isLiteral != 0 {
				bits >>= e & takes
				have -= uint(e & takes)
				out[filled] = byte(e >> 16)
				filled++
				continue
			}
			if e&isEnd == isEnd {
				bits >>= e & takes
				have -= uint(e & takes)
				f.state = betweenBlocks
				break
			}
			if e&isSpecial != 0 {
				err = errCorrupt
				break
			}
		}
		length := int(e>>16) + int(bits&(1<<(e&takes)-1)>>(e>>8&15))
		bits >>= e & takes
		have -= uint(e & takes)
		if have < maxCode+13 {
			bits |= binary.LittleEndian.Uint64(in[next:]) << (have & 63)
			next += int((63 - have) >> 3)
			have |= 56
		}
		e = distances[bits&distanceMask]
		if e&isSpecial != 0 {
			if e&isTable == isTable {
				bits >>= distanceBits
				have -= distanceBits
				e = distances[e>>16&0x7fff+uint32(bits)&(1<<(e>>8&15)-1)]
			}
			if e&isSpecial != 0 {
				err = errCorrupt
				break
			}
		}
		distance := int(e>>16) + int(bits&(1<<(e&takes)-1)>>(e>>8&15))
		bits >>= e & takes
		have -= uint(e & takes)
		if distance > filled-oldest {
			err = errCorrupt
			break
		}
		from, to := out[filled-distance:], out[filled:filled+longest+8]
		filled += length
		if distance >= 8 {
			for i := 0; i < length; i += 8 {
				binary.LittleEndian.PutUint64(to[i:], binary.LittleEndian.Uint64(from[i:]))
			}
			continue
		}
		for i := range length {
			to[i] = from[i]
		}
	}
	f.bits, f.have, f.next, f.filled = bits, have, next, filled
	return err
}
