package registry_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/registry"
)

// odd lets nobody know of repositories with an even number.
type odd struct{ open }

func (odd) Repositories(_ context.Context, _ artifact.Principal, all []artifact.Repository) (known []artifact.Repository, err error) {
	for _, r := range all {
		if strings.ContainsAny(r.String()[len(r.String())-1:], "13579") {
			known = append(known, r)
		}
	}
	return known, nil
}

// TestCatalog: however many repositories there are, and however few of them one may know of, pages are as long as they
// were asked for, and together are all.
func TestCatalog(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	_, err := s.db.Pool.Exec(s.ctx, `with made as (insert into repositories (name) select 'many/r' || lpad(i::text, 4, '0') from generate_series(1, 2500) i returning name)
		insert into repositories (name) values ('many-empty1'), ('Zebra') on conflict do nothing`)
	require.NoError(t, err)
	_, err = s.db.Pool.Exec(s.ctx, `insert into manifests (repository, digest, media_type, is_image, is_index, body, pushed_by)
		select name, 'sha256:' || repeat('0', 64), 'application/vnd.oci.image.manifest.v1+json', false, not true, '{}', 'token:ci' from repositories where name like 'many/%'`)
	require.NoError(t, err)
	cfg := s.config()
	cfg.Gate = odd{}
	s.Registry = registry.New(cfg)

	for _, n := range []int{-1, 7, 999, 1000, 1250, 1251} {
		var all []artifact.Repository
		last := ""
		for {
			part, more, err := s.Catalog(s.ctx, reader, last, n)
			require.NoError(t, err)
			all = append(all, part...)
			if !more {
				break
			}
			require.Len(t, part, n)
			last = part[n-1].String()
		}
		require.Len(t, all, 1250, "%d at a time", n)
		require.Equal(t, "many/r0001", all[0].String())
		require.Equal(t, "many/r2499", all[1249].String())
	}
	none, more, err := s.Catalog(s.ctx, reader, "", 0)
	require.NoError(t, err)
	require.Empty(t, none)
	require.False(t, more)
}
