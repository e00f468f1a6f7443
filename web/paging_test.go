package web

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPagesOfAForm(t *testing.T) {
	t.Parallel()
	_, p := paged(make([]int, 30), 10, url.Values{"page": {"2"}})
	require.Equal(t, "?page=1", p.Before)
	p = p.at("/storage")
	require.Equal(t, []string{"/storage?page=1", "/storage?page=3"}, []string{p.Before, p.Behind})
	_, p = paged(make([]int, 3), 10, nil)
	require.Empty(t, p.at("/storage").Behind)
}
