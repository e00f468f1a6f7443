package layer

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

// gunzip reads a gzip file (RFC 1952), which may be several members one after another (section 2.2), as eStargz and pigz
// write them. What follows the last and is no member is an error that says so.
type gunzip struct {
	inflater *inflater
	sum      uint32
	size     uint32
	within   bool // a member
	first    bool // it is
}

func newGunzip(source io.Reader) *gunzip {
	return &gunzip{inflater: newInflater(source), first: true}
}

func (g *gunzip) Read(p []byte) (int, error) {
	for {
		if !g.within {
			if err := g.header(); err != nil {
				return 0, err
			}
			g.inflater.reset()
			g.sum, g.size, g.within, g.first = 0, 0, true, false
		}
		n, err := g.inflater.Read(p)
		g.sum, g.size = crc32.Update(g.sum, crc32.IEEETable, p[:n]), g.size+uint32(n)
		if !errors.Is(err, io.EOF) {
			return n, err
		}
		if err := g.trailer(); err != nil {
			return 0, err
		}
		g.within = false
	}
}

// Close implements io.Closer.
func (g *gunzip) Close() error {
	if g.inflater != nil {
		g.inflater.release()
		g.inflater = nil
	}
	return nil
}

// header reads a member's (section 2.3), or finds that there is none. Of what it may hold, nothing counts here.
func (g *gunzip) header() error {
	const hasSum, hasExtra, hasName, hasComment = 2, 4, 8, 16
	var fixed [10]byte
	for i := range fixed {
		b, err := g.inflater.byte()
		switch {
		case errors.Is(err, io.EOF) && i == 0 && !g.first:
			return io.EOF
		case errors.Is(err, io.EOF) && i == 1 && !g.first, err == nil && i < 2 && b != [2]byte{0x1f, 0x8b}[i] && !g.first:
			return errTrailing
		case err != nil:
			return unexpected(err)
		}
		fixed[i] = b
	}
	if fixed[0] != 0x1f || fixed[1] != 0x8b || fixed[2] != 8 {
		return errors.New("gzip: invalid header")
	}
	sum := crc32.ChecksumIEEE(fixed[:])
	flags := fixed[3]
	if flags&hasExtra != 0 {
		var size uint16
		for i := range 2 {
			b, err := g.inflater.byte()
			if err != nil {
				return unexpected(err)
			}
			size |= uint16(b) << (8 * i)
			sum = crc32.Update(sum, crc32.IEEETable, []byte{b})
		}
		for range size {
			b, err := g.inflater.byte()
			if err != nil {
				return unexpected(err)
			}
			sum = crc32.Update(sum, crc32.IEEETable, []byte{b})
		}
	}
	for _, flag := range []byte{hasName, hasComment} {
		for n := 0; flags&flag != 0; n++ {
			b, err := g.inflater.byte()
			if err != nil {
				return unexpected(err)
			}
			sum = crc32.Update(sum, crc32.IEEETable, []byte{b})
			if b == 0 {
				break
			}
			if n >= 511 { // compress/gzip takes no more
				return errors.New("gzip: invalid header")
			}
		}
	}
	if flags&hasSum != 0 {
		var want uint16
		for i := range 2 {
			b, err := g.inflater.byte()
			if err != nil {
				return unexpected(err)
			}
			want |= uint16(b) << (8 * i)
		}
		if want != uint16(sum) {
			return errors.New("gzip: invalid header")
		}
	}
	return nil
}

// trailer checks a member's sum and size.
func (g *gunzip) trailer() error {
	if err := g.inflater.align(); err != nil {
		return err
	}
	var fixed [8]byte
	for i := range fixed {
		b, err := g.inflater.byte()
		if err != nil {
			return unexpected(err)
		}
		fixed[i] = b
	}
	if binary.LittleEndian.Uint32(fixed[:]) != g.sum || binary.LittleEndian.Uint32(fixed[4:]) != g.size {
		return errors.New("gzip: invalid checksum")
	}
	return nil
}
