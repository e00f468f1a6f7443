package server

import (
	"context"
	"time"

	"waybill/artifact"
	"waybill/auth"
)

// VersionInfo is the answer to GET /version.
type VersionInfo struct {
	Version string `json:"version"`
	API     string `json:"api"` // the version of this API, v1
}

type versionOutput struct{ Body VersionInfo }

func (a *API) version(context.Context, artifact.Principal, *struct{}) (*versionOutput, error) {
	return &versionOutput{Body: VersionInfo{Version: a.cfg.Version, API: "v1"}}, nil
}

// TokenRequest asks for a token.
type TokenRequest struct {
	Name         string        `json:"name,omitempty" maxLength:"100" doc:"For people and the ledger; without one, the role"`
	Role         artifact.Role `json:"role" enum:"reader,pusher,promoter,approver,auditor,deployer,admin"`
	Repositories []string      `json:"repositories,omitempty" maxItems:"100" doc:"Globs; none means every repository"`
	Environments []string      `json:"environments,omitempty" maxItems:"100" doc:"Of a deployer (which needs one) or a promoter"`
	Expires      time.Time     `json:"expires,omitzero" doc:"When the token ends; without it, in 90 days"`
}

// Token is what is known of a token; its secret is stored nowhere.
type Token struct {
	ID           string                 `json:"id"`
	Name         string                 `json:"name"`
	Role         artifact.Role          `json:"role"`
	Repositories []string               `json:"repositories,omitempty"`
	Environments []artifact.Environment `json:"environments,omitempty"`
	More         []artifact.Binding     `json:"more,omitempty" doc:"Further roles of a session, each with where it counts"`
	CreatedBy    string                 `json:"createdBy"`
	Session      string                 `json:"session,omitempty" doc:"Who a provider vouched for; absent of a token that an admin made"`
	CreatedAt    time.Time              `json:"createdAt"`
	ExpiresAt    time.Time              `json:"expiresAt"`
	RevokedAt    time.Time              `json:"revokedAt,omitzero"`
	LastUsedAt   time.Time              `json:"lastUsedAt,omitzero"`
}

// TokenCreated is a new token with its secret: the only time that it is shown.
type TokenCreated struct {
	Secret    string    `json:"token"`
	ID        string    `json:"id"`
	ExpiresAt time.Time `json:"expiresAt"`
}

// TokenList is the answer to GET /tokens.
type TokenList struct {
	Tokens []Token `json:"tokens"`
}

// defaultTokenLife is how long a token lasts that was asked for without an end.
const defaultTokenLife = 90 * 24 * time.Hour

type (
	createTokenInput  struct{ Body TokenRequest }
	createTokenOutput struct{ Body TokenCreated }
	listTokensOutput  struct{ Body TokenList }
	tokenInput        struct {
		ID string `path:"id" maxLength:"100"`
	}
)

func (a *API) createToken(ctx context.Context, p artifact.Principal, in *createTokenInput) (*createTokenOutput, error) {
	r := in.Body
	g := auth.Grant{Name: r.Name, Role: r.Role, Repositories: r.Repositories, Expires: r.Expires}
	if g.Name == "" {
		g.Name = string(r.Role)
	}
	if g.Expires.IsZero() {
		g.Expires = a.cfg.Now().Add(defaultTokenLife)
	}
	for _, name := range r.Environments {
		e, err := artifact.ParseEnvironment(name)
		if err != nil {
			return nil, err
		}
		g.Environments = append(g.Environments, e)
	}
	secret, t, err := a.cfg.Tokens.Create(ctx, p, g)
	if err != nil {
		return nil, err
	}
	return &createTokenOutput{Body: TokenCreated{Secret: secret, ID: t.ID, ExpiresAt: t.ExpiresAt}}, nil
}

func (a *API) listTokens(ctx context.Context, _ artifact.Principal, _ *struct{}) (*listTokensOutput, error) {
	all, err := a.cfg.Tokens.List(ctx)
	if err != nil {
		return nil, err
	}
	list := TokenList{Tokens: make([]Token, 0, len(all))}
	for _, t := range all {
		list.Tokens = append(list.Tokens, Token(t))
	}
	return &listTokensOutput{Body: list}, nil
}

func (a *API) revokeToken(ctx context.Context, p artifact.Principal, in *tokenInput) (*struct{}, error) {
	return nil, a.cfg.Tokens.Revoke(ctx, p, in.ID)
}

// orEmpty makes a list that prints as [] in JSON, not as null.
func orEmpty[T any](all []T) []T {
	if all == nil {
		return []T{}
	}
	return all
}
