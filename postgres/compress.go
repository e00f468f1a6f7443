package postgres

import (
	"encoding/json"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// maxDecompressed bounds one stored document, so that a row changed by hand cannot fill memory.
const maxDecompressed = 1 << 30

// pack returns v as zstd-compressed JSON: facts and packages are long lists of alike words.
func pack(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return compress(b)
}

// unpack is the inverse of pack; NULL leaves v as it is.
func unpack(b []byte, v any) error {
	if b == nil {
		return nil
	}
	plain, err := decompress(b)
	if err != nil {
		return err
	}
	return json.Unmarshal(plain, v)
}

// Each holds some hundred kilobytes per processor once it was used; to make one takes longer than most documents do.
var (
	encoder = sync.OnceValues(func() (*zstd.Encoder, error) {
		return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithLowerEncoderMem(true))
	})
	decoder = sync.OnceValues(func() (*zstd.Decoder, error) {
		return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxDecompressed))
	})
)

func compress(b []byte) ([]byte, error) {
	enc, err := encoder()
	if err != nil {
		return nil, err
	}
	return enc.EncodeAll(b, nil), nil
}

func decompress(b []byte) ([]byte, error) {
	dec, err := decoder()
	if err != nil {
		return nil, err
	}
	plain, err := dec.DecodeAll(b, nil)
	if err != nil {
		return nil, fmt.Errorf("stored document: %w", err)
	}
	return plain, nil
}
