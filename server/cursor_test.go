package server_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/server"
)

// long is lists of n rows, of which every hundredth is of other/thing, where the scoped principals are, and the rest of
// secret/… repositories, which they must not hear of.
type long struct {
	buildFake
	n int
}

func (l long) repository(i int) artifact.Repository {
	name := fmt.Sprintf("secret/n%d", i)
	if i%100 == 0 {
		name = "other/thing"
	}
	r, err := artifact.ParseRepository(name)
	if err != nil {
		panic(err)
	}
	return r
}

// rows makes the next rows behind a number.
func rows[T any](l long, after, n int, row func(i int) T) (all []T) {
	for i := after + 1; i <= l.n && len(all) < n; i++ {
		all = append(all, row(i))
	}
	return all
}

func (l long) Runs(_ context.Context, f artifact.BuildFilter) ([]artifact.Build, error) {
	from := 0
	if f.After.ID != "" {
		from = int(noon.Sub(f.After.AskedAt) / time.Second)
	}
	return rows(l, from, f.Limit, func(i int) artifact.Build {
		return artifact.Build{ID: fmt.Sprint("secret-", i), Repository: l.repository(i), AskedAt: noon.Add(-time.Duration(i) * time.Second)}
	}), nil
}

func number(d artifact.Digest) (i int) {
	_, _ = fmt.Sscanf(d.Hex(), "%x", &i)
	return i
}

func digest(i int) artifact.Digest {
	d, err := artifact.ParseDigest(fmt.Sprintf("sha256:%064x", i))
	if err != nil {
		panic(err)
	}
	return d
}

func (l long) BuiltOn(_ context.Context, after artifact.BuiltOn, n int) ([]artifact.BuiltOn, error) {
	return rows(l, number(after.Digest), n, func(i int) artifact.BuiltOn {
		return artifact.BuiltOn{Repository: l.repository(i), Digest: digest(i), BaseRepository: l.repository(100), BaseDigest: digest(1)}
	}), nil
}

func (l long) Pulls(_ context.Context, f artifact.PullFilter) ([]artifact.PullDay, error) {
	return rows(l, number(f.After.Digest), f.Limit, func(i int) artifact.PullDay {
		return artifact.PullDay{Day: noon.Truncate(24 * time.Hour), Repository: l.repository(i), Digest: digest(i), Principal: "token:secret"}
	}), nil
}

func (l long) Replications(_ context.Context, _ artifact.Repository, after artifact.Replication, n int) ([]artifact.Replication, error) {
	return rows(l, number(after.Digest), n, func(i int) artifact.Replication {
		return artifact.Replication{Target: "edge", Repository: l.repository(i), Digest: digest(i), Since: noon}
	}), nil
}

// longRecords are the records of a finding that every image has.
type longRecords struct {
	*world
	long
}

func (l longRecords) Affected(_ context.Context, _ string, after artifact.Digest, n int) (all []artifact.Affected, last artifact.Digest, err error) {
	all = rows(l.long, number(after), n, func(i int) artifact.Affected {
		return artifact.Affected{Repository: l.repository(i), Digest: digest(i)}
	})
	if len(all) == n {
		last = all[n-1].Digest
	}
	return all, last, nil
}

func (l longRecords) Run(ctx context.Context, id string) (artifact.Build, error) {
	return l.long.Run(ctx, id)
}

func (w *world) long(t *testing.T, n int) *httptest.Server {
	t.Helper()
	l := long{buildFake{w}, n}
	s, _ := w.startWith(t, func(c *server.APIConfig) { c.Builder, c.Pulls, c.Replications, c.Records = l, l, l, longRecords{w, l} })
	return s
}

// TestPagesAreFull: however much lies between what the caller may see, pages are full, hold all of it once, and where they
// end tells nothing of what it may not see.
func TestPagesAreFull(t *testing.T) {
	t.Parallel()
	s := newWorld(t).long(t, 3000)
	for path, list := range map[string]struct {
		key   string
		page  int // rows; 0: any number but none
		whole int
	}{
		"/builds?limit=7":                    {"builds", 7, 30},
		"/builds?limit=7&repository=other/x": {"builds", 7, 30}, // the fake does not narrow
		"/bases":                             {"bases", 1000, 30},
		"/pulls?limit=7":                     {"pulls", 7, 30},
		"/replications?limit=7":              {"replications", 7, 30},
		"/cves/CVE-2024-24790":               {"affected", 0, 30},
	} {
		target, err := url.Parse(path)
		require.NoError(t, err)
		found, query := map[string]bool{}, target.Query()
		for pages := 0; ; pages++ {
			require.Less(t, pages, 20, path)
			who := "scoped-reader"
			if list.key == "pulls" {
				who = "scoped-auditor"
			}
			got := call(t, s, who, "GET", target.Path+"?"+query.Encode(), "", "")
			require.Equal(t, 200, got.status, string(got.body))
			require.NotContains(t, string(got.body), "secret/")
			var page map[string]json.RawMessage
			got.decode(t, &page)
			var rows []map[string]any
			require.NoError(t, json.Unmarshal(page[list.key], &rows))
			for _, row := range rows {
				one := fmt.Sprint(row["id"], row["digest"])
				require.False(t, found[one], "%s: %s twice", path, one)
				found[one] = true
			}
			var next string
			_ = json.Unmarshal(page["next"], &next)
			if next == "" {
				break
			}
			require.NotEmpty(t, rows, path)
			if list.page > 0 {
				require.Len(t, rows, list.page, path)
			}
			tells(t, next)
			query.Set("after", next)
		}
		require.Len(t, found, list.whole, path)
	}
}

// tells fails when something is to be read in where a page ends.
func tells(t *testing.T, next string) {
	t.Helper()
	plain, err := base64.RawURLEncoding.DecodeString(next)
	require.NoError(t, err, "a cursor is opaque")
	for _, text := range []string{next, string(plain)} {
		for _, secret := range []string{"secret", "sha256", "token", "other", "2026"} {
			require.NotContains(t, text, secret)
		}
	}
}

// TestPagesAreBounded: who sees next to nothing of a very long list is not answered from all of it at once.
func TestPagesAreBounded(t *testing.T) {
	t.Parallel()
	s := newWorld(t).long(t, 25_000)
	var page server.BuildList
	call(t, s, "scoped-reader", "GET", "/builds?limit=1000", "", "").decode(t, &page)
	require.Len(t, page.Builds, 100)
	require.NotEmpty(t, page.Next)
	tells(t, page.Next)
	call(t, s, "scoped-reader", "GET", "/builds?limit=1000&after="+page.Next, "", "").decode(t, &page)
	require.Len(t, page.Builds, 100)
}

// TestCursorsAreOfTheirList: what was not sealed for the list is refused.
func TestCursorsAreOfTheirList(t *testing.T) {
	t.Parallel()
	s := newWorld(t).long(t, 300)
	var page server.BuildList
	call(t, s, "reader", "GET", "/builds?limit=1", "", "").decode(t, &page)
	require.NotEmpty(t, page.Next)
	require.Equal(t, 200, call(t, s, "reader", "GET", "/builds?after="+page.Next, "", "").status)
	for _, path := range []string{"/bases?after=" + page.Next, "/releases?after=" + page.Next, "/cves/CVE-1?after=" + page.Next, "/builds?after=x" + page.Next, "/builds?after=!", "/bases?after=" + digest(1).String()} {
		got := call(t, s, "reader", "GET", path, "", "")
		require.Equal(t, 400, got.status, path)
		require.Contains(t, string(got.body), "is no place in this list")
	}
}
