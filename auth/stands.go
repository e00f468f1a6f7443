package auth

import (
	"context"

	"waybill/artifact"
)

// Stands refuses what a principal asked for earlier and what begins only now, when it may not ask any more: its token was
// revoked, or has expired. A session that ended by itself is no refusal, since a provider gives one for minutes, and what it
// asked for may wait for longer; one that nobody remembers is.
func (s *Service) Stands(ctx context.Context, p artifact.Principal) error {
	if p.Token == "" {
		return artifact.Errorf(artifact.Denied, "nobody knows by which token %s asked; ask again", p.Name)
	}
	t, _, err := s.cfg.Store.Token(ctx, p.Token)
	switch {
	case artifact.KindOf(err) == artifact.NotFound:
		return artifact.Errorf(artifact.Denied, "token %s of %s is not there any more; ask again with one that is valid", p.Token, p.Name)
	case err != nil:
		return err
	case !t.RevokedAt.IsZero():
		return artifact.Errorf(artifact.Denied, "token %s of %s was revoked meanwhile; ask again with one that is valid", p.Token, p.Name)
	case t.Session == "" && !s.cfg.Now().Before(t.ExpiresAt):
		return artifact.Errorf(artifact.Denied, "token %s of %s expired meanwhile; ask again with one that is valid", p.Token, p.Name)
	}
	return nil
}
