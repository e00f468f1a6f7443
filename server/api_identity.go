package server

import (
	"context"
	"maps"
	"slices"
	"time"

	"waybill/artifact"
	"waybill/auth"
)

// Identities exchange tokens of OpenID providers (auth.Service).
type Identities interface {
	// Exchange returns a token for one of a provider that is trusted.
	Exchange(ctx context.Context, idToken string) (secret string, t auth.Token, err error)
	// Trusted are the issuers of workloads, with the audience that each must be asked for.
	Trusted() map[string]string
	// SignIn says where people sign in with the command line; ok is false where they do with a token only.
	SignIn() (issuer, clientID string, scopes []string, ok bool)
}

// ExchangeRequest has a token of an OpenID provider.
type ExchangeRequest struct {
	Token string `json:"token" minLength:"1" maxLength:"16384" doc:"An OpenID Connect ID token, of GitHub Actions, GitLab CI, a Kubernetes service account or any issuer that identity names"`
}

// Exchanged is a token for who was vouched for: the only time that it is shown.
type Exchanged struct {
	Secret       string                 `json:"token"`
	ID           string                 `json:"id"`
	Principal    string                 `json:"principal" doc:"As the ledger has it: workload:ISSUER#SUBJECT or user:ISSUER#SUBJECT"`
	Role         artifact.Role          `json:"role"`
	Repositories []string               `json:"repositories,omitempty"`
	Environments []artifact.Environment `json:"environments,omitempty"`
	More         []artifact.Binding     `json:"more,omitempty" doc:"Further roles, each with where it counts"`
	ExpiresAt    time.Time              `json:"expiresAt"`
}

// SignIn says how people and workloads sign in here.
type SignIn struct {
	People    *PeopleSignIn    `json:"people,omitempty" doc:"Absent where people sign in with a token only"`
	Workloads []WorkloadSignIn `json:"workloads" doc:"Issuers whose tokens are exchanged"`
}

// PeopleSignIn is what a public client (RFC 8252) needs.
type PeopleSignIn struct {
	Issuer   string   `json:"issuer"`
	ClientID string   `json:"clientID"`
	Scopes   []string `json:"scopes"`
}

// WorkloadSignIn is an issuer and the audience that its tokens must be for.
type WorkloadSignIn struct {
	Issuer   string `json:"issuer"`
	Audience string `json:"audience"`
}

type (
	exchangeInput  struct{ Body ExchangeRequest }
	exchangeOutput struct {
		CacheControl string `header:"Cache-Control"`
		Body         Exchanged
	}
	signInOutput struct{ Body SignIn }
)

func (a *API) exchange(ctx context.Context, _ artifact.Principal, in *exchangeInput) (*exchangeOutput, error) {
	secret, t, err := a.cfg.Identities.Exchange(ctx, in.Body.Token)
	if err != nil {
		return nil, err
	}
	return &exchangeOutput{CacheControl: "no-store", Body: Exchanged{Secret: secret, ID: t.ID, Principal: t.Session, Role: t.Role, Repositories: t.Repositories, Environments: t.Environments, More: t.More, ExpiresAt: t.ExpiresAt}}, nil
}

func (a *API) signIn(context.Context, artifact.Principal, *struct{}) (*signInOutput, error) {
	out := SignIn{Workloads: []WorkloadSignIn{}}
	trusted := a.cfg.Identities.Trusted()
	for _, issuer := range slices.Sorted(maps.Keys(trusted)) {
		out.Workloads = append(out.Workloads, WorkloadSignIn{issuer, trusted[issuer]})
	}
	if issuer, clientID, scopes, ok := a.cfg.Identities.SignIn(); ok {
		out.People = &PeopleSignIn{issuer, clientID, scopes}
	}
	return &signInOutput{Body: out}, nil
}
