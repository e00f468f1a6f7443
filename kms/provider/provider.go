// Package provider is what runs in waybill-kms: sigstore's clients of each KMS. Who we are there is in the variables that the
// provider's own tools read.
package provider

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	sigstore "github.com/sigstore/sigstore/pkg/signature/kms"
	_ "github.com/sigstore/sigstore/pkg/signature/kms/aws" // each of these registers itself
	_ "github.com/sigstore/sigstore/pkg/signature/kms/azure"
	_ "github.com/sigstore/sigstore/pkg/signature/kms/gcp"
	_ "github.com/sigstore/sigstore/pkg/signature/kms/hashivault"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"waybill/kms"
)

// Run answers what a server of the same version asks on in, until that ends.
func Run(in io.Reader, out io.WriteCloser, version string) error {
	return kms.Serve(in, out, &service{version: version, timeout: kms.Timeout, opened: map[opening]sigstore.SignerVerifier{}})
}

// opening is what a client of a KMS is opened for: a key, and how it signs.
type opening struct {
	reference string
	hash      crypto.Hash
}

// maxOpened bounds how many clients are kept: a server signs with one key, and rotates to others.
const maxOpened = 16

// service is a kms.Service.
type service struct {
	version string
	timeout time.Duration

	mu     sync.Mutex
	opened map[opening]sigstore.SignerVerifier
}

func (s *service) Hello(_ struct{}, answer *kms.Hello) error {
	*answer = kms.Hello{Protocol: kms.Protocol, Version: s.version}
	return nil
}

// PublicKey asks the KMS anew: clients remember what it said before.
func (s *service) PublicKey(request kms.PublicKeyRequest, answer *kms.PublicKey) error {
	der, err := within(s.timeout, func(ctx context.Context) ([]byte, error) {
		s.forget(request.Reference)
		key, err := s.open(opening{request.Reference, crypto.SHA256})
		if err != nil {
			return nil, err
		}
		public, err := key.PublicKey(options.WithContext(ctx))
		if err != nil {
			return nil, err
		}
		return x509.MarshalPKIXPublicKey(public)
	})
	answer.DER = der
	return err
}

func (s *service) Sign(request kms.SignRequest, answer *kms.Signature) error {
	if hashed := request.Hash == crypto.SHA256 && len(request.Content) == request.Hash.Size(); !hashed && request.Hash != 0 || len(request.Content) > kms.MaxMessage {
		return fmt.Errorf("a request to sign %d bytes by hash function %d", len(request.Content), request.Hash)
	}
	raw, err := within(s.timeout, func(ctx context.Context) ([]byte, error) {
		key, err := s.open(opening{request.Reference, request.Hash})
		if err != nil {
			return nil, err
		}
		if request.Hash == 0 {
			return key.SignMessage(bytes.NewReader(request.Content), options.WithContext(ctx))
		}
		return key.SignMessage(nil, options.WithContext(ctx), options.WithDigest(request.Content))
	})
	if err != nil {
		s.forget(request.Reference) // its credentials may be others by now
	}
	answer.Raw = raw
	return err
}

// open returns the client that a key was opened with before, or opens one. It lives on, so that its context never ends.
func (s *service) open(o opening) (sigstore.SignerVerifier, error) {
	s.mu.Lock()
	key, is := s.opened[o]
	s.mu.Unlock()
	if is {
		return key, nil
	}
	if err := kms.Check(o.reference); err != nil {
		return nil, err
	}
	key, err := sigstore.Get(context.Background(), o.reference, o.hash)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.opened) >= maxOpened {
		clear(s.opened)
	}
	s.opened[o] = key
	return key, nil
}

func (s *service) forget(reference string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.opened, opening{reference, crypto.SHA256})
	delete(s.opened, opening{reference, 0})
}

// within waits for so long only: not every client lets go when its context ends.
func within(timeout time.Duration, ask func(context.Context) ([]byte, error)) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	type outcome struct {
		b   []byte
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		defer cancel()
		b, err := ask(ctx)
		done <- outcome{b, err}
	}()
	select {
	case o := <-done:
		if o.err != nil {
			o.err = errors.New(kms.Shorten(o.err.Error()))
		}
		return o.b, o.err
	case <-ctx.Done():
		return nil, fmt.Errorf("it did not answer in %s", timeout)
	}
}
