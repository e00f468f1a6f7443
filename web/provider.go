package web

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
	"waybill/auth"
)

// SignIn is the authorization code flow of an OpenID provider (auth.People, auth.Service).
type SignIn interface {
	// Begin returns where to send the browser.
	Begin(ctx context.Context, redirect string) (to string, f auth.Flow, err error)
	// FinishSignIn redeems what the browser came back with for a session's token.
	FinishSignIn(ctx context.Context, redirect string, f auth.Flow, r auth.Returned) (secret string, t auth.Token, err error)
}

const (
	flowCookie = "waybill_signin"
	flowPath   = "/login/callback"
	flowLife   = 10 * time.Minute
	maxFlow    = 2 << 10 // bytes of what a provider sends back, each
)

// callback is where the provider sends browsers back to; it must know the address.
func (w *Web) callback(c *gin.Context) string {
	base := strings.TrimSuffix(w.cfg.ExternalURL, "/")
	if base == "" {
		base = "http://" + c.Request.Host
		if c.Request.TLS != nil {
			base = "https://" + c.Request.Host
		}
	}
	return base + flowPath
}

// beginSignIn sends the browser to the provider. It is asked for by the form, so that no other page can begin one.
func (w *Web) beginSignIn(c *gin.Context) {
	c.Request.Body = http.MaxBytesReader(c.Writer, c.Request.Body, maxToken)
	if !w.formFresh(c) {
		w.showLogin(c, http.StatusForbidden, "The form was too old; try again.")
		return
	}
	to, flow, err := w.cfg.SignIn.Begin(c.Request.Context(), w.callback(c))
	if err != nil {
		w.fail(c, err)
		return
	}
	text, err := json.Marshal(signingIn{flow, w.wanted(c)})
	if err != nil {
		w.fail(c, err)
		return
	}
	w.setFlow(c, w.flow.seal(string(text), w.cfg.Now().Add(flowLife)), flowLife)
	// A browser holds form-action against what a form's answer redirects to; a page that goes on by itself is none.
	c.Header("Refresh", "0; url="+to)
	w.showLogin(c, http.StatusOK, "Going on to your organisation's sign-in …")
}

// signingIn is a flow, and where its reader goes when it is through: the cookie that says so is Strict, and would stay behind.
type signingIn struct {
	Flow auth.Flow
	Next string
}

// setFlow is SameSite=Lax where the session is Strict: it must come along when the provider sends the browser back.
func (w *Web) setFlow(c *gin.Context, value string, life time.Duration) {
	http.SetCookie(c.Writer, &http.Cookie{Name: flowCookie, Value: value, Path: flowPath, MaxAge: int(life.Seconds()), HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: w.secureCookies(c)})
}

func (w *Web) finishSignIn(c *gin.Context) {
	begun := w.openFlow(c)
	w.setFlow(c, "", -time.Hour) // once only, however it ends
	returned := auth.Returned{State: c.Query("state"), Code: c.Query("code"), Issuer: c.Query("iss"), Error: c.Query("error")}
	if max(len(returned.State), len(returned.Code), len(returned.Issuer), len(returned.Error)) > maxFlow {
		w.showLogin(c, http.StatusBadRequest, "The provider's answer is too long.")
		return
	}
	secret, t, err := w.cfg.SignIn.FinishSignIn(c.Request.Context(), w.callback(c), begun.Flow, returned)
	switch kind := artifact.KindOf(err); {
	case kind == artifact.Unauthentic || kind == artifact.Denied || kind == artifact.TooMany:
		w.showLogin(c, statuses[kind], messageOf(err))
		return
	case err != nil:
		w.fail(c, err)
		return
	}
	life := t.ExpiresAt.Sub(w.cfg.Now())
	w.setCookie(c, cookieName, w.session.seal(secret, t.ExpiresAt), life)
	// A redirect would still count as coming from the provider, and the session's cookie, which is Strict, stay behind.
	c.Header("Refresh", "0; url="+cmp.Or(begun.Next, "/"))
	w.render(c, http.StatusOK, "signedin", "Signed in", nil)
}

// messageOf is what of an error people are meant to read.
func messageOf(err error) string {
	var known *artifact.Error
	if errors.As(err, &known) {
		return known.Message
	}
	return err.Error()
}

func (w *Web) openFlow(c *gin.Context) (s signingIn) {
	cookie, err := c.Cookie(flowCookie)
	if err != nil {
		return s
	}
	if text, ok := w.flow.open(cookie, w.cfg.Now()); !ok || json.Unmarshal([]byte(text), &s) != nil {
		return signingIn{}
	}
	return s
}
