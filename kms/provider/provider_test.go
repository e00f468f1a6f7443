package provider

import (
	"bufio"
	"context"
	"crypto"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sigstore "github.com/sigstore/sigstore/pkg/signature/kms"
	"github.com/sigstore/sigstore/pkg/signature/kms/aws"
	"github.com/sigstore/sigstore/pkg/signature/kms/azure"
	"github.com/sigstore/sigstore/pkg/signature/kms/gcp"
	"github.com/sigstore/sigstore/pkg/signature/kms/hashivault"
	"github.com/stretchr/testify/require"

	"waybill/kms"
)

// valid is what the providers themselves say of a reference.
func valid(reference string) bool {
	for scheme, check := range map[string]func(string) error{
		aws.ReferenceScheme: aws.ValidReference, azure.ReferenceScheme: azure.ValidReference, gcp.ReferenceScheme: gcp.ValidReference, hashivault.ReferenceScheme: hashivault.ValidReference,
	} {
		if strings.HasPrefix(reference, scheme) {
			return check(reference) == nil
		}
	}
	return false
}

func references(t testing.TB) map[string]bool {
	t.Helper()
	f, err := os.Open("testdata/references.txt")
	require.NoError(t, err)
	defer f.Close()
	table := map[string]bool{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if is, reference, _ := strings.Cut(lines.Text(), " "); is != "#" {
			table[reference] = is == "+"
		}
	}
	require.Greater(t, len(table), 40)
	return table
}

// TestReferences: what the server takes for a key in a KMS, its provider takes for one, and the other way round.
func TestReferences(t *testing.T) {
	t.Parallel()
	for reference, is := range references(t) {
		require.Equal(t, is, valid(reference), "%q, to its provider", reference)
		require.Equal(t, is, kms.Check(reference) == nil, "%q", reference)
	}
	require.Error(t, kms.Check("hashivault://"+strings.Repeat("x", 3<<10)))
}

func FuzzReferences(f *testing.F) {
	for reference := range references(f) {
		f.Add(reference)
	}
	f.Fuzz(func(t *testing.T, reference string) {
		if len(reference) < 2<<10 {
			require.Equal(t, valid(reference), kms.Check(reference) == nil, "%q", reference)
		}
	})
}

func opened() *service {
	return &service{timeout: time.Minute, opened: map[opening]sigstore.SignerVerifier{}}
}

// TestNoOtherProgram: sigstore would run a program for a scheme that it does not know. The variable is of the process, so that
// this test runs alone.
func TestNoOtherProgram(t *testing.T) {
	folder := t.TempDir()
	ran := filepath.Join(folder, "ran")
	require.NoError(t, os.WriteFile(filepath.Join(folder, "sigstore-kms-sh"), []byte("#!/bin/sh\ntouch "+ran+"\n"), 0o700))
	t.Setenv("PATH", folder+":"+os.Getenv("PATH"))
	_, err := sigstore.Get(t.Context(), "sh://x", crypto.SHA256)
	require.NoError(t, err)
	var key kms.PublicKey
	require.ErrorContains(t, opened().PublicKey(kms.PublicKeyRequest{Reference: "sh://x"}, &key), "want awskms://")
	var signature kms.Signature
	require.ErrorContains(t, opened().Sign(kms.SignRequest{Reference: "sh://x"}, &signature), "want awskms://")
	require.NoFileExists(t, ran)
}

func TestSignRequests(t *testing.T) {
	t.Parallel()
	for _, request := range []kms.SignRequest{
		{Hash: crypto.SHA512, Content: make([]byte, 64)}, {Hash: crypto.SHA256, Content: make([]byte, 33)}, {Hash: crypto.SHA256}, {Content: make([]byte, kms.MaxMessage+1)},
	} {
		request.Reference = "hashivault://waybill"
		var signature kms.Signature
		require.ErrorContains(t, opened().Sign(request, &signature), "a request to sign")
	}
}

// TestWithin: a client that does not let go is left behind, and what it says at length is cut.
func TestWithin(t *testing.T) {
	t.Parallel()
	end := make(chan struct{})
	defer close(end)
	_, err := within(time.Millisecond, func(context.Context) ([]byte, error) {
		<-end
		return nil, nil
	})
	require.EqualError(t, err, "it did not answer in 1ms")
	_, err = within(time.Minute, func(ctx context.Context) ([]byte, error) { return nil, errors.New(strings.Repeat("x", 1<<20)) })
	require.Len(t, err.Error(), 2<<10)
}
