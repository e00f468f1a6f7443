package layer

import (
	"bufio"
	"io"
	"sync"

	"github.com/klauspost/readahead"
)

// portion is how many bytes go from hand to hand.
const portion = 256 << 10

// portions are for the next layer: a program that reads one after the other would else spend its time clearing memory.
var portions = sync.Pool{New: func() any { return new([portion]byte) }}

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, portion) }}

// unpacking gives its reader back when it is closed.
type unpacking struct {
	io.ReadCloser
	from *bufio.Reader
}

func (u *unpacking) Close() error {
	err := u.ReadCloser.Close()
	if u.from != nil {
		u.from.Reset(nil)
		readers.Put(u.from)
		u.from = nil
	}
	return err
}

// Ahead reads r in a goroutine of its own, so many portions of 256 KiB before they are asked for. Close waits for a read of r
// that is under way, and closes r.
func Ahead(r io.ReadCloser, n int) (io.ReadCloser, error) {
	a := &readAhead{}
	buffers := make([][]byte, n)
	for i := range buffers {
		one := portions.Get().(*[portion]byte)
		a.portions, buffers[i] = append(a.portions, one), one[:]
	}
	var err error
	a.ReadCloser, err = readahead.NewReadCloserBuffer(r, buffers)
	return a, err
}

type readAhead struct {
	io.ReadCloser
	portions []*[portion]byte
	once     sync.Once
}

// Close implements io.Closer.
func (a *readAhead) Close() (err error) {
	a.once.Do(func() {
		err = a.ReadCloser.Close()
		for _, one := range a.portions {
			portions.Put(one)
		}
	})
	return err
}
