package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const ranged10 = "0123456789"

// rangeOf answers a GET of ranged10 with a Range header.
func rangeOf(content, header string) *httptest.ResponseRecorder {
	request := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	if asked := ranges(header, int64(len(content))); asked != "" {
		request.Header.Set("Range", asked)
	}
	answer := httptest.NewRecorder()
	http.ServeContent(answer, request, "", time.Time{}, strings.NewReader(content))
	return answer
}

func TestRanges(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]string{
		"bytes=0-0": "206 0", "bytes=2-4": "206 234", "bytes=-3": "206 789", "bytes=7-": "206 789", "bytes=7-99": "206 789", "bytes=-99": "206 " + ranged10,
		"Bytes=2-4": "206 234", "bytes=2-4,-0": "206 234", "bytes=2-4, 99-": "206 234",
		"bytes=10-": "416", "bytes=-0": "416", "bytes=-00, -0": "416", "bytes=5-2": "416", "bytes=x": "416", "bytes": "416",
		"items=0-1": "200 " + ranged10, "=": "200 " + ranged10,
		"bytes=0-0" + strings.Repeat(",0-0", maxRanges): "200 " + ranged10,
	} {
		answer := rangeOf(ranged10, header)
		got := fmt.Sprint(answer.Code)
		if answer.Code != http.StatusRequestedRangeNotSatisfiable {
			got += " " + answer.Body.String()
		}
		require.Equal(t, want, got, header)
	}
	require.Equal(t, "bytes */10", rangeOf(ranged10, "bytes=-0").Header().Get("Content-Range"))
	require.Equal(t, http.StatusOK, rangeOf("", "bytes=0-").Code, "the empty blob has no ranges")
}

// FuzzRanges: whatever a Range header says, what is sent is all of the blob, the parts that the answer says, or a refusal.
func FuzzRanges(f *testing.F) {
	for _, header := range []string{"bytes=0-0", "bytes=-0", "bytes=1-2,-3", "items=1-2", "bytes=5-2", "bytes=,,", "bytes=0-0,-0,9-"} {
		f.Add(header)
	}
	f.Fuzz(func(t *testing.T, header string) {
		answer := rangeOf(ranged10, header)
		part := func(where string, body []byte) {
			var first, last, size int
			if _, err := fmt.Sscanf(where, "bytes %d-%d/%d", &first, &last, &size); err != nil || first < 0 || last < first || last >= len(ranged10) || size != len(ranged10) {
				t.Fatalf("%q is answered with Content-Range %q", header, where)
			}
			if string(body) != ranged10[first:last+1] {
				t.Fatalf("%q is answered with %q as %q", header, body, where)
			}
		}
		kind, parameters, _ := mime.ParseMediaType(answer.Header().Get("Content-Type"))
		switch {
		case answer.Code == http.StatusOK && answer.Body.String() == ranged10, answer.Code == http.StatusRequestedRangeNotSatisfiable:
		case answer.Code == http.StatusPartialContent && kind == "multipart/byteranges":
			parts := multipart.NewReader(bytes.NewReader(answer.Body.Bytes()), parameters["boundary"])
			for n := 0; ; n++ {
				p, err := parts.NextPart()
				if errors.Is(err, io.EOF) && n <= maxRanges {
					return
				}
				if err != nil || n == maxRanges {
					t.Fatalf("%q: part %d: %v", header, n, err)
				}
				body, err := io.ReadAll(p)
				if err != nil {
					t.Fatal(err)
				}
				part(p.Header.Get("Content-Range"), body)
			}
		case answer.Code == http.StatusPartialContent:
			part(answer.Header().Get("Content-Range"), answer.Body.Bytes())
		default:
			t.Fatalf("%q is answered %d %q", header, answer.Code, answer.Body)
		}
	})
}
