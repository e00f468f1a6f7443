package registry_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/registry"
	"waybill/server"
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

// fewOf lets one digest in a hundred be pulled.
type fewOf struct{ open }

func (fewOf) Filter(_ context.Context, _ artifact.Principal, _ artifact.Repository, digests []artifact.Digest) (map[artifact.Digest]bool, error) {
	allowed := make(map[artifact.Digest]bool)
	for _, d := range digests {
		if strings.HasPrefix(d.Hex(), "00") {
			allowed[d] = true
		}
	}
	return allowed, nil
}

// TestReferrers: pages together are all, however many there are, however few of them one may pull and however much
// their annotations hold.
func TestReferrers(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	subject := artifact.DigestOf([]byte("subject"))
	_, err := s.db.Pool.Exec(s.ctx, `with made as (insert into repositories (name) values ($1) on conflict do nothing)
		insert into manifests (repository, digest, media_type, artifact_type, is_image, is_index, subject, body, annotations, pushed_by)
		select $1, 'sha256:' || encode(sha256(i::text::bytea), 'hex'), 'application/vnd.oci.image.manifest.v1+json', 'application/x' || i % 2, false, not true, $2, '{}',
			case when i % 100 = 0 then jsonb_build_object('note', repeat('x', 300000)) else '{}' end, 'token:ci' from generate_series(1, 3000) i`, shop, subject)
	require.NoError(t, err)
	pages := func(types ...string) (all []artifact.Descriptor, n int) {
		last := ""
		for {
			part, next, err := s.Referrers(s.ctx, pusher, shop, subject, types, last)
			require.NoError(t, err)
			bytes := 0
			for _, d := range part {
				bytes += len(d.Annotations["note"])
			}
			require.LessOrEqual(t, bytes, 2<<20+300000)
			all, n = append(all, part...), n+1
			if next == "" {
				break
			}
			require.NotEmpty(t, part)
			require.Greater(t, next, last)
			last = next
		}
		seen := make(map[artifact.Digest]bool)
		for _, d := range all {
			require.False(t, seen[d.Digest])
			seen[d.Digest] = true
		}
		return all, n
	}
	all, n := pages()
	require.Len(t, all, 3000)
	require.Greater(t, n, 3, "30 notes of 300 kB do not fit three pages")
	half, _ := pages("application/x1")
	require.Len(t, half, 1500)
	both, _ := pages("application/x0", "application/x1")
	require.Len(t, both, 3000)

	cfg := s.config()
	cfg.Gate = fewOf{}
	s.Registry = registry.New(cfg)
	few, _ := pages()
	require.NotEmpty(t, few)
	for _, d := range few {
		require.True(t, strings.HasPrefix(d.Digest.Hex(), "00"))
	}
	none, next, err := s.Referrers(s.ctx, pusher, shop, artifact.DigestOf([]byte("another")), nil, "")
	require.NoError(t, err)
	require.Empty(t, none)
	require.Empty(t, next)
}

// TestReferrersOverHTTP: where a page ends tells a deployer nothing of referrers that it may not pull, and somebody who may
// pull none is answered from a part of very many.
func TestReferrersOverHTTP(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	subject := artifact.DigestOf([]byte("subject"))
	_, err := s.db.Pool.Exec(s.ctx, `with made as (insert into repositories (name) values ($1) on conflict do nothing)
		insert into manifests (repository, digest, media_type, artifact_type, is_image, is_index, subject, body, annotations, pushed_by)
		select $1, 'sha256:' || encode(sha256(i::text::bytea), 'hex'), 'application/vnd.oci.image.manifest.v1+json', 'application/x', false, not true, $2, '{}', '{}', 'token:ci'
		from generate_series(1, 11000) i`, shop, subject)
	require.NoError(t, err)
	for name, gate := range map[string]registry.Gate{"a few": fewOf{}, "none": noneOf{}} {
		cfg := s.config()
		cfg.Gate = gate
		h := overHTTP(t, registry.New(cfg))
		pages, found := 0, 0
		for path := "/v2/shop/returns/referrers/" + subject.String(); path != ""; pages++ {
			require.Less(t, pages, 100)
			res, err := h.Client().Get(h.URL + path)
			require.NoError(t, err)
			var index struct{ Manifests []artifact.Descriptor }
			require.NoError(t, json.NewDecoder(res.Body).Decode(&index))
			require.NoError(t, res.Body.Close())
			require.Equal(t, http.StatusOK, res.StatusCode)
			found += len(index.Manifests)
			link, _, _ := strings.Cut(strings.TrimPrefix(res.Header.Get("Link"), "<"), ">")
			next, err := url.Parse(link)
			require.NoError(t, err)
			sealed, err := base64.RawURLEncoding.DecodeString(next.Query().Get("last"))
			require.NoError(t, err, "it is opaque")
			require.NotContains(t, string(sealed), "sha256")
			path = link
		}
		if name == "none" {
			require.Zero(t, found)
			require.Equal(t, 2, pages, "10,000 are read for an answer")
		} else {
			require.Positive(t, found)
		}
	}
	h := overHTTP(t, s.Registry)
	res, err := h.Client().Get(h.URL + "/v2/shop/returns/referrers/" + subject.String() + "?last=" + subject.String())
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusBadRequest, res.StatusCode)
}

// overHTTP serves a registry to pusher.
func overHTTP(t *testing.T, r *registry.Registry) *httptest.Server {
	t.Helper()
	h := httptest.NewServer(server.New(server.Config{Registry: r, Authenticator: anybody{pusher}, AccessTokens: anybody{}, Metrics: prometheus.NewRegistry(),
		Logger: slog.New(slog.DiscardHandler), Now: time.Now}).Handler())
	t.Cleanup(h.Close)
	return h
}

// noneOf lets nothing be pulled.
type noneOf struct{ open }

func (noneOf) Filter(context.Context, artifact.Principal, artifact.Repository, []artifact.Digest) (map[artifact.Digest]bool, error) {
	return nil, nil
}
