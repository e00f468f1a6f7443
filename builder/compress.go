package builder

import (
	"bytes"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/gzip"
)

// blockSize is how much of a layer is one member of its gzip file. It decides the bytes; how many are compressed at once does
// not.
const blockSize = 1 << 20

// level is how hard it is tried: of a program, the default level makes 6 % less in half as much time again. It decides the bytes too.
const level = 3

// compressor writes gzip (RFC 1952), whose members are blocks that several goroutines compress at a time. A reader of
// gzip takes the members for one stream. It is for one goroutine, and Close must be called.
type compressor struct {
	block   []byte
	pending chan chan *bytes.Buffer // in the order of the blocks
	ended   chan struct{}
	err     error // of writing; set before ended is closed
}

var (
	blocks  = sync.Pool{New: func() any { return new(bytes.Buffer) }}
	writers = sync.Pool{New: func() any {
		w, _ := gzip.NewWriterLevel(io.Discard, level) // it is one
		return w
	}}
)

func newCompressor(w io.Writer) *compressor {
	c := &compressor{block: make([]byte, 0, blockSize), pending: make(chan chan *bytes.Buffer, min(runtime.GOMAXPROCS(0), 4)), ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		for next := range c.pending {
			b := <-next
			if c.err == nil {
				_, c.err = w.Write(b.Bytes())
			}
			blocks.Put(b)
		}
	}()
	return c
}

func (c *compressor) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		room := min(blockSize-len(c.block), len(p))
		c.block = append(c.block, p[:room]...)
		if p = p[room:]; len(c.block) == blockSize {
			c.flush()
		}
	}
	return n, nil
}

// flush has a block compressed. It waits while as many as may be are on their way.
func (c *compressor) flush() {
	plain := blocks.Get().(*bytes.Buffer)
	plain.Reset()
	plain.Write(c.block)
	c.block = c.block[:0]
	done := make(chan *bytes.Buffer, 1)
	c.pending <- done
	go func() {
		defer blocks.Put(plain)
		out := blocks.Get().(*bytes.Buffer)
		out.Reset()
		z := writers.Get().(*gzip.Writer)
		defer writers.Put(z)
		z.Reset(out)
		_, _ = z.Write(plain.Bytes()) // to memory
		_ = z.Close()
		done <- out
	}()
}

// Close compresses the rest and waits until all is written. An empty stream is one empty member.
func (c *compressor) Close() error {
	if c.block != nil {
		c.flush()
		c.block = nil
		close(c.pending)
	}
	<-c.ended
	return c.err
}
