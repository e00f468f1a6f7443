package auth

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"waybill/artifact"
)

// EnsureAdmin makes the first admin token when there is no token at all, and keeps it in a file of mode 0600. It returns
// the token only then, so that it is shown once. A crash between file and row leaves a file that the next call replaces.
func (s *Service) EnsureAdmin(ctx context.Context, path string) (string, error) {
	all, err := s.cfg.Store.Tokens(ctx)
	if err != nil || len(all) > 0 {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return "", err
	}
	secret, t, hash, err := s.prepareAdmin()
	if err != nil {
		return "", err
	}
	if err := WriteSecret(path, []byte(secret+"\n")); err != nil {
		return "", err
	}
	return secret, s.cfg.Store.CreateToken(ctx, t, hash)
}

func (s *Service) prepareAdmin() (secret string, t Token, hash []byte, err error) {
	secret, id, err := newSecret()
	if err != nil {
		return "", Token{}, nil, err
	}
	now := s.cfg.Now().UTC()
	t = Token{ID: id, Name: "first-admin", Role: artifact.Admin, CreatedBy: artifact.System.Name, CreatedAt: now, ExpiresAt: now.Add(365 * 24 * time.Hour)}
	return secret, t, hashOf(secret), nil
}
