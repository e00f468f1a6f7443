// Package layer turns a layer's bytes into facts, in one bounded pass. What it reads is hostile: whatever a client
// packed. A layer that breaks a bound or a rule of the format is an error that says which, and never half a fact.
package layer

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"

	"waybill/artifact"
)

// Limits bound one layer. The zero value of each means its default.
type Limits = artifact.LayerLimits

// Options say how to read.
type Options struct {
	Limits Limits
	SHA512 bool      // compute DiffID512 too
	Tee    io.Writer // gets the tar as it passes; nil: nobody. Its errors are not the layer's
}

// Read reads a layer, compressed or not, to its end and returns its facts. Every error is the layer's fault, or r's.
func Read(r io.Reader, opt Options) (artifact.LayerFacts, error) {
	limits := opt.Limits.WithDefaults()
	stored := &meter{r: r, sum: sha256.New()}
	plain, compression, err := decompress(stored)
	if err != nil {
		return artifact.LayerFacts{}, err
	}
	defer plain.Close()
	tar := &bounded{meter: meter{r: plain, sum: sha256.New()}, stored: stored, limits: limits, tee: opt.Tee}
	if opt.SHA512 {
		tar.sum512 = sha512.New()
	}
	facts, err := readTar(tar, limits)
	if err == nil {
		err = padding(tar)
	}
	if err == nil {
		// Whatever follows the compressed stream is not the layer's, but it is in the blob.
		err = nothingFollows(stored)
	}
	if err != nil {
		return artifact.LayerFacts{}, err
	}
	facts.Format, facts.Compression = artifact.FactsFormat, compression
	facts.Digest, facts.Compressed = artifact.DigestFrom("sha256", stored.sum), stored.n.Load()
	facts.DiffID, facts.Uncompressed = artifact.DigestFrom("sha256", tar.sum), tar.n.Load()
	if tar.sum512 != nil {
		facts.DiffID512 = artifact.DigestFrom("sha512", tar.sum512)
	}
	return facts, nil
}

// decompress recognises gzip (RFC 1952), zstd (RFC 8878, whose skippable frames may stand first) or a plain tar by the
// first bytes.
func decompress(r io.Reader) (io.ReadCloser, string, error) {
	buffered := readers.Get().(*bufio.Reader)
	buffered.Reset(r)
	head, err := buffered.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", err
	}
	unpacked, compression, err := unpack(buffered, head)
	if err != nil {
		return nil, "", err
	}
	plain := &unpacking{ReadCloser: unpacked, from: buffered}
	if _, err := buffered.Peek(portion); err != nil || compression == "none" {
		return plain, compression, nil // what is this small needs no help
	}
	// Unpacking takes as long as all that is done with what it gives: the one need not wait for the other.
	ahead, err := Ahead(plain, 4)
	return ahead, compression, err
}

func unpack(buffered *bufio.Reader, head []byte) (io.ReadCloser, string, error) {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return newGunzip(buffered), "gzip", nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(head) == 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:], []byte{0x2a, 0x4d, 0x18}):
		z, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, "", fmt.Errorf("zstd: %w", err)
		}
		return z.IOReadCloser(), "zstd", nil
	}
	return io.NopCloser(buffered), "none", nil
}

var errTrailing = errors.New("bytes follow the compressed stream")

// meter counts and hashes what is read through it.
type meter struct {
	r      io.Reader
	n      atomic.Int64 // read ahead, elsewhere
	sum    hash.Hash
	sum512 hash.Hash // or nil
}

func (m *meter) Read(b []byte) (int, error) {
	n, err := m.r.Read(b)
	m.n.Add(int64(n))
	m.sum.Write(b[:n])
	if m.sum512 != nil {
		m.sum512.Write(b[:n])
	}
	return n, err
}

// bounded is the tar: metered, kept to its limits, and passed on.
type bounded struct {
	meter
	stored *meter
	limits Limits
	tee    io.Writer
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.meter.Read(p)
	if b.tee != nil && n > 0 {
		if _, teeErr := b.tee.Write(p[:n]); teeErr != nil {
			b.tee = nil // who listened went away, and says why itself
		}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return n, errors.New("the compressed stream is cut off")
	} else if errors.Is(err, errTrailing) {
		return n, err
	} else if err != nil && !errors.Is(err, io.EOF) {
		return n, fmt.Errorf("the compressed stream is damaged: %w", err)
	}
	if b.n.Load() > b.limits.Uncompressed {
		return n, fmt.Errorf("it unpacks to more than %d bytes", b.limits.Uncompressed)
	}
	if b.n.Load() > b.limits.RatioFrom && b.n.Load() > b.limits.Ratio*max(b.stored.n.Load(), 1) {
		return n, fmt.Errorf("it unpacks to more than %d times its size, as bombs do", b.limits.Ratio)
	}
	return n, err
}

// padding reads what stands after the end of the archive: zeros up to a block's end, nothing else.
func padding(r io.Reader) error {
	buffer := make([]byte, 32<<10)
	for {
		n, err := r.Read(buffer)
		if len(bytes.Trim(buffer[:n], "\x00")) > 0 {
			return errors.New("bytes follow the end of the archive")
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func nothingFollows(r io.Reader) error {
	n, err := io.Copy(io.Discard, r)
	if err == nil && n > 0 {
		err = fmt.Errorf("%d bytes follow the compressed stream", n)
	}
	return err
}
