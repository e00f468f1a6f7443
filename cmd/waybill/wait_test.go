package main

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/server"
)

func refusedFor(reasons ...artifact.Reason) error {
	return problemError(server.Problem{Status: 403, Detail: "not yet", Reasons: reasons})
}

func TestWaitFor(t *testing.T) {
	t.Parallel()
	away := errors.New("no server answers")
	soon := func() artifact.Reason {
		return artifact.Reason{Rule: "soak", Message: "it soaks", Awaits: artifact.AwaitsTime, Until: time.Now().Add(10 * time.Millisecond)}
	}
	never := artifact.Reason{Rule: "scan", Message: "it has a critical finding"}
	for name, c := range map[string]struct {
		answers []error
		want    error
		told    string
		tries   int
	}{
		"at once":             {[]error{nil}, nil, "", 1},
		"after time":          {[]error{refusedFor(soon()), nil}, nil, "waiting:\n  soak: it soaks\n", 2},
		"never met":           {[]error{refusedFor(soon(), never)}, refusedFor(soon(), never), "", 1},
		"a refusal of policy": {[]error{refusedFor(artifact.Reason{Rule: "no-sshd"})}, refusedFor(), "", 1},
		"no reasons":          {[]error{refusedFor()}, refusedFor(), "", 1},
		"no answer":           {[]error{away}, away, "", 1},
		"it gets worse":       {[]error{refusedFor(soon()), refusedFor(never)}, refusedFor(never), "waiting:\n  soak: it soaks\n", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var told bytes.Buffer
			tries := 0
			err := waitFor(t.Context(), &told, time.Minute, func() error { tries++; return c.answers[tries-1] })
			if c.want == nil {
				require.NoError(t, err)
			} else {
				require.IsType(t, c.want, err)
			}
			require.Equal(t, c.told, told.String())
			require.Equal(t, c.tries, tries)
		})
	}
	var told bytes.Buffer
	err := waitFor(t.Context(), &told, 50*time.Millisecond, func() error {
		return refusedFor(artifact.Reason{Rule: "approvals", Message: "0 of 2", Awaits: artifact.AwaitsPeople})
	})
	require.ErrorContains(t, err, "not met within 50ms")
	require.ErrorContains(t, err, "0 of 2")
}
