//go:build goexperiment.jsonv2

package trivy_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/layer"
	"waybill/scanner"
	"waybill/scanner/trivy"
)

// BenchmarkAnalyse reads a layer of 1 MB in four files that nothing is known of: what every push pays.
func BenchmarkAnalyse(b *testing.B) {
	s, err := trivy.New("bench", "")
	require.NoError(b, err)
	var archive bytes.Buffer
	z, err := gzip.NewWriterLevel(&archive, gzip.NoCompression)
	require.NoError(b, err)
	w := tar.NewWriter(z)
	random := rand.NewChaCha8([32]byte{})
	content := make([]byte, 250_000)
	for i := range 4 {
		_, _ = random.Read(content)
		require.NoError(b, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("data/%d", i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}))
		_, err := w.Write(content)
		require.NoError(b, err)
	}
	require.NoError(b, w.Close())
	require.NoError(b, z.Close())
	b.SetBytes(int64(archive.Len()))
	for b.Loop() {
		_, err := s.Analyse(b.Context(), bytes.NewReader(archive.Bytes()), layer.Options{})
		require.NoError(b, err)
	}
}

// BenchmarkMatch matches an image of one such layer: what every image's scan pays.
func BenchmarkMatch(b *testing.B) {
	s, err := trivy.New("bench", "")
	require.NoError(b, err)
	a, err := s.Analyse(b.Context(), bytes.NewReader(make([]byte, 1024)), layer.Options{})
	require.NoError(b, err)
	config := fmt.Sprintf(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, a.Facts.DiffID)
	request := scanner.MatchRequest{Config: []byte(config), Layers: [][]byte{a.Blob}, Name: "shop/returns", Digest: artifact.DigestOf([]byte("image"))}
	for b.Loop() {
		_, err := s.Match(b.Context(), request)
		require.NoError(b, err)
	}
}
