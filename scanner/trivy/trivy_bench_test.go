//go:build goexperiment.jsonv2

package trivy_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"waybill/artifact"
	"waybill/layer"
	"waybill/scanner"
	"waybill/scanner/trivy"
)

// BenchmarkAnalyse reads a layer of 1 MB in four files that nothing is known of: what every push pays.
func BenchmarkAnalyse(b *testing.B) {
	s, err := trivy.New("bench", "", "")
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
	s, err := trivy.New("bench", "", "")
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

// BenchmarkRematch matches a hundred images of a hundred Go modules and fifty Debian packages: what a new database costs.
// bench/rematch measures it whole.
func BenchmarkRematch(b *testing.B) {
	dir := b.TempDir()
	require.NoError(b, exec.Command("tar", "-xzf", "../../examples/advisories/db.tar.gz", "-C", dir).Run())
	s, err := trivy.New("bench", dir, "")
	require.NoError(b, err)
	random := rand.New(rand.NewPCG(1, 2))
	var images []scanner.RematchImage
	for range 100 {
		var system, modules []map[string]string
		for _, name := range []string{"openssl", "perl", "expat", "glibc", "systemd", "pcre2", "krb5", "curl", "git", "gnutls28"} {
			for range 5 {
				system = append(system, map[string]string{"ID": name, "Name": name, "Version": "1.0", "Release": fmt.Sprint(random.IntN(1000)), "SrcName": name, "SrcVersion": "1.0", "SrcRelease": "1"})
			}
		}
		for range 25 {
			for _, name := range []string{"golang.org/x/net", "golang.org/x/crypto", "google.golang.org/grpc", "github.com/gin-gonic/gin"} {
				version := fmt.Sprintf("v0.%d.%d", random.IntN(20), random.IntN(10))
				modules = append(modules, map[string]string{"ID": name + version, "Name": name, "Version": version})
			}
		}
		layer, err := json.Marshal(map[string]any{"SchemaVersion": 2, "DiffID": artifact.DigestOf([]byte("layer")).String(), "OS": map[string]string{"Family": "debian", "Name": "12.11"},
			"PackageInfos": []any{map[string]any{"FilePath": "var/lib/dpkg/status", "Packages": system}},
			"Applications": []any{map[string]any{"Type": "gobinary", "FilePath": "usr/bin/app", "Packages": modules}}})
		require.NoError(b, err)
		r, err := s.Match(b.Context(), scanner.MatchRequest{Database: dir, Config: []byte(`{}`), Layers: [][]byte{layer}, Name: "bench/app", Digest: artifact.DigestOf(layer)})
		require.NoError(b, err)
		images = append(images, scanner.RematchImage{Contents: r.Contents, Vulnerabilities: r.Vulnerabilities})
	}
	for b.Loop() {
		r, err := s.Rematch(b.Context(), scanner.RematchRequest{Database: dir, Images: images})
		require.NoError(b, err)
		for _, image := range r.Images {
			require.Equal(b, scanner.Rematched{}, image)
		}
	}
	b.ReportMetric(float64(len(images)*b.N)/b.Elapsed().Seconds(), "images/s")
}

// BenchmarkAnalyseLayer reads the layer that WAYBILL_BENCH_LAYER names, such as a root file system packed with gzip; else one
// that holds this very program.
func BenchmarkAnalyseLayer(b *testing.B) {
	content := benchLayer(b)
	s, err := trivy.New("bench", "", "")
	require.NoError(b, err)
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	var before, after unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &before))
	for b.Loop() {
		_, err := s.Analyse(b.Context(), bytes.NewReader(content), layer.Options{})
		require.NoError(b, err)
	}
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &after))
	spent := func(u unix.Rusage) float64 { return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e6 }
	b.ReportMetric((spent(after)-spent(before))/float64(b.N), "cpu-ms/op")
}

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
	zipped := gzip.NewWriter(&packed)
	archive := tar.NewWriter(zipped)
	require.NoError(b, archive.WriteHeader(&tar.Header{Name: "usr/bin/program", Mode: 0o755, Size: int64(len(program))}))
	_, err = archive.Write(program)
	require.NoError(b, err)
	require.NoError(b, archive.Close())
	require.NoError(b, zipped.Close())
	return packed.Bytes()
}
