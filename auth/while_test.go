package auth_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/auth"
)

// TestWhile: what goes on for long ends within two seconds of its token, and with whoever asked; not with a database that is away.
func TestWhile(t *testing.T) {
	t.Parallel()
	for kind, ends := range map[artifact.Kind]bool{artifact.Unauthentic: true, artifact.Unavailable: false} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			ctx, cancel := auth.While(t.Context(), func(context.Context) error {
				if time.Since(began) < time.Hour {
					return nil
				}
				return artifact.Errorf(kind, "revoked, or away")
			})
			defer cancel()
			<-time.After(time.Hour - time.Millisecond) // of the clock of the bubble
			require.NoError(t, ctx.Err())
			<-time.After(time.Second + time.Millisecond)
			synctest.Wait()
			require.Equal(t, ends, ctx.Err() != nil)
			cancel()
			synctest.Wait()
			require.Error(t, ctx.Err())
		})
	}
}
