package server

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
)

// socket is a writer that takes files, as net's does.
type socket struct {
	*httptest.ResponseRecorder
	files int
}

func (s *socket) ReadFrom(r io.Reader) (int64, error) {
	if limited, ok := r.(*io.LimitedReader); ok {
		if _, ok := limited.R.(*os.File); ok {
			s.files++
		}
	}
	return io.Copy(s.ResponseRecorder, r)
}

// TestFollowedSendsFiles: who gets only what is granted gets it as others do, from disk to socket: in pieces that are files to net.
func TestFollowedSendsFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "blob")
	content := make([]byte, 3*piece+5)
	require.NoError(t, os.WriteFile(path, content, 0o600))
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	out := &socket{ResponseRecorder: httptest.NewRecorder()}
	r := &request{Context: &gin.Context{Request: httptest.NewRequest(http.MethodGet, "/", nil)}}
	n, err := io.CopyN(&followed{out, r, nil, artifact.DigestOf(content)}, file, int64(len(content)))
	require.NoError(t, err)
	require.EqualValues(t, len(content), n)
	require.Equal(t, content, out.Body.Bytes())
	require.Equal(t, 4, out.files)
}
