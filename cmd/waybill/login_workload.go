package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"waybill/server"
)

const (
	githubIssuer  = "https://token.actions.githubusercontent.com"
	maxIDToken    = 16 << 10
	kubernetesJWT = "/var/run/secrets/waybill/token" // where docs/identity.md has it projected
	askTimeout    = 30 * time.Second
)

// workload is how a job says who it is.
type workload struct {
	file     string
	audience string
}

// idToken returns the token that the job has, or can ask for, of the issuer that runs it.
func (w workload) idToken(ctx context.Context, c *client, offered server.SignIn) (string, error) {
	switch {
	case w.file != "":
		return readIDToken(w.file)
	case os.Getenv("ACTIONS_ID_TOKEN_REQUEST_URL") != "":
		audience, err := w.audienceFor(githubIssuer, offered)
		if err != nil {
			return "", err
		}
		return githubToken(ctx, c.http, audience)
	case os.Getenv("WAYBILL_ID_TOKEN") != "": // the name that docs/identity.md gives GitLab's id_tokens
		return os.Getenv("WAYBILL_ID_TOKEN"), nil
	}
	if _, err := os.Stat(kubernetesJWT); err == nil {
		return readIDToken(kubernetesJWT)
	}
	return "", usagef(`there is no token of this job to show: on GitHub Actions give the job "permissions: {id-token: write}", on GitLab CI declare id_tokens: WAYBILL_ID_TOKEN, on Kubernetes project a token to %s, or name a file with --id-token-file`, kubernetesJWT)
}

// audienceFor returns what a token must be for: as the flag says, or as the server does of the issuer, or of its only one.
func (w workload) audienceFor(issuer string, offered server.SignIn) (string, error) {
	if w.audience != "" {
		return w.audience, nil
	}
	for _, o := range offered.Workloads {
		if o.Issuer == issuer || len(offered.Workloads) == 1 {
			return o.Audience, nil
		}
	}
	return "", usagef("the server trusts no issuer %s, so what audience it wants is not known; give --audience, or ask an admin to add the issuer", issuer)
}

func readIDToken(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", usagef("read the ID token: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxIDToken+1))
	if err != nil {
		return "", fmt.Errorf("read the ID token: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || len(text) > maxIDToken {
		return "", usagef("%s holds no ID token: it has %d bytes; want 1 to %d", file, len(text), maxIDToken)
	}
	return token, nil
}

// githubToken asks the runner for a token ("Security hardening with OpenID Connect", GitHub Docs).
func githubToken(ctx context.Context, h *http.Client, audience string) (string, error) {
	u, err := url.Parse(os.Getenv("ACTIONS_ID_TOKEN_REQUEST_URL"))
	if err != nil {
		return "", fmt.Errorf("ACTIONS_ID_TOKEN_REQUEST_URL: %w", err)
	}
	q := u.Query()
	q.Set("audience", audience)
	u.RawQuery = q.Encode()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	r.Header.Set("Authorization", "Bearer "+os.Getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN"))
	answer, err := h.Do(r)
	if err != nil {
		return "", fmt.Errorf("ask the runner for an ID token: %w", err)
	}
	defer answer.Body.Close()
	var body struct {
		Value string `json:"value"`
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, 2*maxIDToken)).Decode(&body); err != nil || answer.StatusCode != http.StatusOK || body.Value == "" {
		return "", errors.Join(fmt.Errorf("ask the runner for an ID token: it answers %s", answer.Status), err)
	}
	return body.Value, nil
}

// exchange trades a token of a provider for one of the server.
func (c *client) exchange(ctx context.Context, idToken string) (server.Exchanged, error) {
	var out server.Exchanged
	err := c.post(ctx, "/token/exchange", server.ExchangeRequest{Token: idToken}, &out)
	return out, err
}
