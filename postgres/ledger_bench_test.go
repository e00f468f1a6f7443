package postgres_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/ledger"
	"waybill/postgres/pgtest"
	"waybill/promotion"
)

// BenchmarkPromotions: how many promotions a second eight promoters get through, with the judgement, the gates, the ledger
// and a commit that is on disk. Each is of another repository; all append to one ledger.
func BenchmarkPromotions(b *testing.B) {
	const promoters = 8
	s := newShop(b)
	type shelf struct {
		repository artifact.Repository
		digests    [2]artifact.Digest
	}
	var shelves [promoters]shelf
	for i := range shelves {
		s.repository = parsed(b, artifact.ParseRepository, fmt.Sprintf("shop/r%d", i))
		shelves[i] = shelf{s.repository, [2]artifact.Digest{s.release("v1"), s.release("v2")}}
	}
	dev := parsed(b, artifact.ParseEnvironment, "dev")
	var wg sync.WaitGroup
	b.ResetTimer()
	began := time.Now()
	for i := range promoters {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := i; n < b.N; n += promoters {
				at := shelves[i]
				if _, err := s.service.Promote(s.ctx, s.ada, promotion.Request{Repository: at.repository, Version: at.digests[n/promoters%2].String(), Environment: dev}); err != nil {
					b.Error(err)
					return
				}
			}
		}()
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "promotions/s")
}

// BenchmarkProof: the proof of an entry of a ledger of ten million. The hashes are no tree's: which rows a proof needs, and
// how they are found, does not depend on what is in them.
func BenchmarkProof(b *testing.B) {
	const size = 10_000_000
	db, ctx := pgtest.New(b), context.Background()
	hashes := 2*size - int64(popcount(size))
	_, err := db.Pool.CopyFrom(ctx, pgx.Identifier{"ledger_hashes"}, []string{"index", "hash"}, pgx.CopyFromSlice(int(hashes), func(i int) ([]any, error) {
		h := ledger.Hash{byte(i), byte(i >> 8), byte(i >> 16), byte(i >> 24)}
		return []any{int64(i), h[:]}, nil
	}))
	require.NoError(b, err)
	var longest time.Duration
	for n := int64(0); b.Loop(); n++ {
		began := time.Now()
		proof, err := db.Prove(ctx, size, n*7_368_787%size)
		longest = max(longest, time.Since(began))
		if err != nil || len(proof) == 0 {
			b.Fatal(n, err)
		}
	}
	b.ReportMetric(float64(longest.Microseconds()), "µs-longest")
}

func popcount(n int64) (ones int) {
	for ; n > 0; n &= n - 1 {
		ones++
	}
	return ones
}

// BenchmarkGate: whether a deployer may pull, as it is asked of each manifest and blob; again, and for the first time.
func BenchmarkGate(b *testing.B) {
	s := newShop(b)
	d := s.release("v1")
	s.mustPromote("v1", "dev")
	gate := promotion.NewGate(s.db)
	deployer := artifact.Principal{Name: "token:k8s", Role: artifact.Deployer, Environments: []artifact.Environment{parsed(b, artifact.ParseEnvironment, "dev")}}
	b.Run("cached", func(b *testing.B) {
		for b.Loop() {
			if err := gate.Pull(s.ctx, deployer, s.repository, d); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("not cached", func(b *testing.B) {
		for b.Loop() {
			s.db.Forget(s.repository)
			if err := gate.Pull(s.ctx, deployer, s.repository, d); err != nil {
				b.Fatal(err)
			}
		}
	})
}
