package auth_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/auth"
)

func TestStands(t *testing.T) {
	t.Parallel()
	s, _, at, db := service(t)
	secret, made, err := s.Create(t.Context(), artifact.System, auth.Grant{Name: "ci", Role: artifact.Pusher, Expires: at.Now().Add(time.Hour)})
	require.NoError(t, err)
	p, err := s.Authenticate(t.Context(), secret)
	require.NoError(t, err)
	require.Equal(t, made.ID, p.Token)
	require.NoError(t, s.Stands(t.Context(), p))

	refused := func(p artifact.Principal, why string) {
		t.Helper()
		err := s.Stands(t.Context(), p)
		require.Equal(t, artifact.Denied, artifact.KindOf(err))
		require.ErrorContains(t, err, why)
	}
	refused(artifact.Principal{Name: "token:ci/x", Role: artifact.Pusher}, "nobody knows by which token")
	refused(artifact.Principal{Name: "token:ci/x", Role: artifact.Pusher, Token: "000000000000"}, "is not there any more")
	require.NoError(t, s.Revoke(t.Context(), artifact.System, made.ID))
	refused(p, "was revoked meanwhile")

	_, short, err := s.Create(t.Context(), artifact.System, auth.Grant{Name: "ci", Role: artifact.Pusher, Expires: at.Now().Add(time.Minute)})
	require.NoError(t, err)
	session := auth.Token{ID: "abcdefabcdef", Name: "session", Role: artifact.Pusher, CreatedBy: "workload:x", Session: "workload:x", CreatedAt: at.Now(), ExpiresAt: at.Now().Add(time.Minute)}
	require.NoError(t, db.CreateToken(t.Context(), session, make([]byte, 32)))
	at.forward(2 * time.Minute)
	refused(short.Principal(), "expired meanwhile")
	require.NoError(t, s.Stands(t.Context(), session.Principal()), "a session is short by its nature")
	require.NoError(t, db.RevokeToken(t.Context(), session.ID, "user:ada"))
	refused(session.Principal(), "was revoked meanwhile")
}
