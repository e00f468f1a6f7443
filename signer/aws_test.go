package signer_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"waybill/artifact"
	"waybill/kms"
	"waybill/signer"
)

// TestAWSKey: a key in AWS KMS signs, by the service's HTTP API; whoever has the credentials of the variables does, and
// nobody sees them in what is logged or answered. Credentials are of the process, so that this test runs alone.
func TestAWSKey(t *testing.T) {
	var key atomic.Pointer[ecdsa.PrivateKey]
	renew := func() {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		key.Store(k)
	}
	renew()
	var away atomic.Bool
	service := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			KeyId, MessageType, SigningAlgorithm string
			Message                              []byte
		}
		b, _ := io.ReadAll(r.Body)
		_ = json.Unmarshal(b, &in)
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		if away.Load() || in.KeyId != "alias/waybill" || !strings.Contains(r.Header.Get("Authorization"), "Credential=AKIDWAYBILL/") {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"__type":"AccessDeniedException","message":"no"}`)
			return
		}
		algorithms := []string{"ECDSA_SHA_256"}
		switch _, action, _ := strings.Cut(r.Header.Get("X-Amz-Target"), "."); {
		case action == "DescribeKey":
			_ = json.NewEncoder(w).Encode(map[string]any{"KeyMetadata": map[string]any{"KeyId": "1", "SigningAlgorithms": algorithms}})
		case action == "GetPublicKey":
			der, _ := x509.MarshalPKIXPublicKey(&key.Load().PublicKey)
			_ = json.NewEncoder(w).Encode(map[string]any{"KeyId": "1", "PublicKey": der, "SigningAlgorithms": algorithms})
		case action == "Sign" && in.MessageType == "DIGEST" && in.SigningAlgorithm == algorithms[0]:
			raw, _ := ecdsa.SignASN1(rand.Reader, key.Load(), in.Message)
			_ = json.NewEncoder(w).Encode(map[string]any{"KeyId": "1", "Signature": raw})
		default:
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	t.Cleanup(service.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: service.Certificate().Raw}), 0o600))
	for name, value := range map[string]string{"AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "AKIDWAYBILL", "AWS_SECRET_ACCESS_KEY": "s3cret-of-aws", "AWS_CA_BUNDLE": ca, "AWS_EC2_METADATA_DISABLED": "true"} {
		t.Setenv(name, value)
	}
	reference := "awskms://" + strings.TrimPrefix(service.URL, "https://") + "/alias/waybill"
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	remote := kms.New(kms.Config{Program: kmsProgram(t), Version: "test", Logger: logger})
	t.Cleanup(remote.Close)
	rows := &keyRows{}
	open := func(reference string) (*signer.Keys, error) {
		return signer.OpenKeys(t.Context(), signer.KeysConfig{Folder: t.TempDir(), Reference: reference, KMS: remote, Store: rows, Logger: logger})
	}
	keys, err := open(reference)
	require.NoError(t, err)
	first := signing(t, keys).KeyID()
	require.Equal(t, reference, rows.known[0].Reference)
	require.Equal(t, "ecdsa-p256", rows.known[0].Algorithm)

	// The alias points to another key: it signs once it was put in force.
	renew()
	s, err := keys.InForce(t.Context())
	require.NoError(t, err)
	_, err = s.Sign(pass(t, artifact.DigestOf([]byte("image")).String()))
	require.Equal(t, artifact.Unavailable, artifact.KindOf(err), err)
	_, err = rotate(t, keys)
	require.NoError(t, err)
	require.NotEqual(t, first, signing(t, keys).KeyID())

	away.Store(true)
	_, err = keys.Rotate(t.Context(), signer.Rotation{Actor: "user:ada", Reason: "x", Replaces: rows.known[1].ID})
	require.Equal(t, artifact.Unavailable, artifact.KindOf(err), err)
	require.NotContains(t, err.Error()+log.String(), "s3cret-of-aws")
	_, err = open(reference)
	require.NoError(t, err, "a start goes on without its KMS")
	require.Contains(t, log.String(), "cannot be used")
	require.Contains(t, log.String(), "AccessDeniedException", "what the KMS says")
	rows.known = nil
	_, err = open(reference)
	require.ErrorContains(t, err, "cannot be used", "but for the first")
	remote.Close()
	require.NotContains(t, log.String(), "s3cret-of-aws")
}
