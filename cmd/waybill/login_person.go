package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"waybill/server"
)

// signInTimeout is how long a person may take in the browser.
const signInTimeout = 10 * time.Minute

// personToken signs a person in at the provider that the server names, as a native application does (RFC 8252), and
// returns the provider's ID token.
func personToken(ctx context.Context, p server.PeopleSignIn, device bool, tell io.Writer) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, signInTimeout)
	defer cancel()
	ctx = oidc.ClientContext(ctx, &http.Client{Timeout: askTimeout})
	provider, err := oidc.NewProvider(ctx, p.Issuer)
	if err != nil {
		return "", fmt.Errorf("the provider that the server names: %w", err)
	}
	c := &oauth2.Config{ClientID: p.ClientID, Endpoint: provider.Endpoint(), Scopes: p.Scopes}
	c.Endpoint.AuthStyle = oauth2.AuthStyleInParams // a public client has no secret to send in a header
	nonce := rand.Text()
	var got *oauth2.Token
	if device {
		got, err = byDevice(ctx, c, tell)
		nonce = "" // this flow has none (RFC 8628)
	} else {
		got, err = byBrowser(ctx, c, nonce, tell)
	}
	if err != nil {
		return "", err
	}
	raw, _ := got.Extra("id_token").(string)
	token, err := provider.Verifier(&oidc.Config{ClientID: p.ClientID}).Verify(ctx, raw)
	if err != nil {
		return "", fmt.Errorf("the provider's answer: %w", err)
	}
	if nonce != "" && subtle.ConstantTimeCompare([]byte(token.Nonce), []byte(nonce)) != 1 {
		return "", errors.New("the provider's answer is not of this sign-in; try again")
	}
	return raw, nil
}

// byDevice has the person type a code on any machine with a browser.
func byDevice(ctx context.Context, c *oauth2.Config, tell io.Writer) (*oauth2.Token, error) {
	if c.Endpoint.DeviceAuthURL == "" {
		return nil, usagef("the provider does not offer sign-in with a code (RFC 8628); leave --device out, or use a token")
	}
	verifier := oauth2.GenerateVerifier()
	asked, err := c.DeviceAuth(ctx, oauth2.S256ChallengeOption(verifier))
	if err != nil {
		return nil, fmt.Errorf("ask the provider for a code: %w", err)
	}
	fmt.Fprintf(tell, "Open %s on any machine and enter the code %s\n", printable(asked.VerificationURI), printable(asked.UserCode))
	got, err := c.DeviceAccessToken(ctx, asked, oauth2.VerifierOption(verifier))
	if err != nil {
		return nil, fmt.Errorf("wait for the sign-in: %w", err)
	}
	return got, nil
}

// byBrowser sends the person's browser to the provider, and takes what it comes back with on a port of this machine.
func byBrowser(ctx context.Context, c *oauth2.Config, nonce string, tell io.Writer) (*oauth2.Token, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the browser: %w", err)
	}
	c.RedirectURL = fmt.Sprintf("http://%s/callback", l.Addr())
	state, verifier := rand.Text(), oauth2.GenerateVerifier()
	codes := make(chan string, 1)
	h := &http.Server{ReadHeaderTimeout: askTimeout, MaxHeaderBytes: 16 << 10, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if r.URL.Path != "/callback" || subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(state)) != 1 {
			http.Error(w, "this is not the sign-in that is waited for", http.StatusNotFound)
			return
		}
		fmt.Fprintln(w, "Go back to the terminal; this page can be closed.")
		select {
		case codes <- q.Get("code"):
		default: // one is enough
		}
	})}
	go func() { _ = h.Serve(l) }() // it ends with Shutdown below
	defer func() { _ = h.Shutdown(context.WithoutCancel(ctx)) }()
	address := c.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier))
	fmt.Fprintf(tell, "Sign in with a browser on this machine; without one, use --device:\n%s\n", address)
	openBrowser(ctx, address)
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the browser: %w", ctx.Err())
	case code := <-codes:
		if code == "" {
			return nil, errors.New("the provider did not sign you in; its page says why")
		}
		got, err := c.Exchange(ctx, code, oauth2.VerifierOption(verifier))
		if err != nil {
			return nil, fmt.Errorf("redeem the sign-in: %w", err)
		}
		return got, nil
	}
}

// openBrowser does what it can: the address is printed as well.
func openBrowser(ctx context.Context, address string) {
	program := ""
	switch {
	case runtime.GOOS == "darwin":
		program = "open"
	case os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != "":
		program = "xdg-open"
	}
	if program != "" {
		_ = exec.CommandContext(ctx, program, address).Start()
	}
}
