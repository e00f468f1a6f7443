package web

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
)

const (
	cookieName  = "waybill_session"
	sessionLife = 12 * time.Hour
	sessionKey  = "session" // in gin's context
	maxToken    = 4 << 10   // bytes of a login form's token
)

// session is who reads.
type session struct {
	principal artifact.Principal
	cookie    string
}

// sealer encrypts what a cookie holds: the reader's token and when the session ends. Revoking the token ends it too.
type sealer struct {
	gcm     cipher.AEAD
	purpose string // the cookie's name: one cannot stand for another
}

func newSealer(key []byte, purpose string) (sealer, error) {
	if len(key) != 32 {
		return sealer{}, errors.New("the session key has 32 bytes")
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return sealer{}, err
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	return sealer{gcm, purpose}, err
}

func (s sealer) seal(token string, until time.Time) string {
	plain := binary.BigEndian.AppendUint64(nil, uint64(until.Unix()))
	return base64.RawURLEncoding.EncodeToString(s.gcm.Seal(nil, nil, append(plain, token...), []byte(s.purpose)))
}

func (s sealer) open(cookie string, now time.Time) (token string, ok bool) {
	sealed, err := base64.RawURLEncoding.DecodeString(cookie)
	if err != nil {
		return "", false
	}
	plain, err := s.gcm.Open(nil, nil, sealed, []byte(s.purpose))
	if err != nil || len(plain) < 8 || now.Unix() >= int64(binary.BigEndian.Uint64(plain)) {
		return "", false
	}
	return string(plain[8:]), true
}

// csrf is a value that only a page of this session has.
func (w *Web) csrf(cookie string) string {
	mac := hmac.New(sha256.New, w.cfg.SessionKey)
	mac.Write([]byte("csrf\x00" + cookie))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// signedIn lets a page be asked for with a session only.
func (w *Web) signedIn(page func(*gin.Context, artifact.Principal) error) gin.HandlerFunc {
	return func(c *gin.Context) {
		s, err := w.reader(c.Request.Context(), c)
		if artifact.KindOf(err) == artifact.Unauthentic {
			w.wants(c)
			c.Redirect(http.StatusSeeOther, "/login")
			return
		}
		if err == nil {
			c.Set(sessionKey, s)
			err = page(c, s.principal)
		}
		if err != nil {
			w.fail(c, err)
		}
	}
}

// maxForm bounds what a form sends, in bytes: a reason and some names.
const maxForm = 16 << 10

// maxDraft bounds a form with the text of a policy, each byte of which may be sent as three.
const maxDraft = 4*maxPolicyText + maxForm

// acts lets something be done with a session only, by a form that one of its pages had.
func (w *Web) acts(do func(*gin.Context, artifact.Principal) error) gin.HandlerFunc {
	return w.actsWith(maxForm, do)
}

// actsWith is acts for a form of so many bytes.
func (w *Web) actsWith(limit int64, do func(*gin.Context, artifact.Principal) error) gin.HandlerFunc {
	return w.signedIn(func(c *gin.Context, p artifact.Principal) error {
		c.Request.Body = http.MaxBytesReader(c.Writer, c.Request.Body, limit)
		s, _ := c.Get(sessionKey)
		if !hmac.Equal([]byte(c.PostForm("csrf")), []byte(w.csrf(s.(session).cookie))) {
			return artifact.Errorf(artifact.Denied, "The form was not one of this session's, or too long; nothing was done. Go back, load the page again and send it anew.")
		}
		return do(c, p)
	})
}

// toldCookie holds what the next page says was done; it is sealed, so that nobody else puts words into our mouth.
const toldCookie = "waybill_told"

// done goes on to a page, which says what was done.
func (w *Web) done(c *gin.Context, to, format string, args ...any) error {
	w.setCookie(c, toldCookie, w.told.seal(fmt.Sprintf(format, args...), w.cfg.Now().Add(time.Minute)), time.Minute)
	c.Redirect(http.StatusSeeOther, to)
	return nil
}

func (w *Web) tellOnce(c *gin.Context) string {
	cookie, err := c.Cookie(toldCookie)
	if err != nil || cookie == "" {
		return ""
	}
	w.setCookie(c, toldCookie, "", -time.Hour)
	text, _ := w.told.open(cookie, w.cfg.Now())
	return text
}

// nextCookie holds where a reader was going who had to sign in first; it is sealed, so that nobody else says where to go.
const (
	nextCookie = "waybill_next"
	maxNext    = 2 << 10 // bytes of a path and its query
)

// wants notes where a browser was going, if that is a page of ours.
func (w *Web) wants(c *gin.Context) {
	to := c.Request.URL.RequestURI()
	elsewhere := !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || strings.HasPrefix(to, `/\`)
	if c.Request.Method == http.MethodGet && to != "/" && len(to) <= maxNext && !elsewhere && strings.Contains(c.GetHeader("Accept"), "text/html") {
		w.setCookie(c, nextCookie, w.next.seal(to, w.cfg.Now().Add(flowLife)), flowLife)
	}
}

// wanted returns where that was, once.
func (w *Web) wanted(c *gin.Context) string {
	cookie, err := c.Cookie(nextCookie)
	if err != nil || cookie == "" {
		return "/"
	}
	w.setCookie(c, nextCookie, "", -time.Hour)
	if to, ok := w.next.open(cookie, w.cfg.Now()); ok {
		return to
	}
	return "/"
}

func (w *Web) reader(ctx context.Context, c *gin.Context) (session, error) {
	cookie, _ := c.Cookie(cookieName) // without one it is empty, and opens as nothing
	p, err := w.holder(ctx, cookie)
	return session{p, cookie}, err
}

// holder is who a session's cookie was given to.
func (w *Web) holder(ctx context.Context, cookie string) (artifact.Principal, error) {
	token, ok := w.session.open(cookie, w.cfg.Now())
	if !ok {
		return artifact.Principal{}, artifact.Errorf(artifact.Unauthentic, "nobody is signed in")
	}
	return w.cfg.Authenticate(ctx, token)
}

// loginPage is the form; Message says why it is shown again. CSRF ties the form to the browser that asked for it.
type loginPage struct {
	Message string
	CSRF    string
	People  bool // whether they can sign in at a provider
}

const formCookie = "waybill_form"

func (w *Web) loginForm(c *gin.Context) { w.showLogin(c, http.StatusOK, "") }

func (w *Web) showLogin(c *gin.Context, status int, message string) {
	nonce := rand.Text()
	w.setCookie(c, formCookie, nonce, time.Hour)
	w.render(c, status, "login", "Sign in", loginPage{Message: message, CSRF: w.csrf(nonce), People: w.cfg.SignIn != nil})
}

func (w *Web) login(c *gin.Context) {
	c.Request.Body = http.MaxBytesReader(c.Writer, c.Request.Body, 2*maxToken)
	if !w.formFresh(c) {
		w.showLogin(c, http.StatusForbidden, "The form was too old; try again.")
		return
	}
	token := strings.TrimSpace(c.PostForm("token"))
	if _, err := w.cfg.Authenticate(c.Request.Context(), token); err != nil || len(token) > maxToken {
		if artifact.KindOf(err) == artifact.TooMany {
			w.showLogin(c, http.StatusTooManyRequests, messageOf(err))
			return
		}
		if artifact.KindOf(err) != artifact.Unauthentic && err != nil {
			w.fail(c, err)
			return
		}
		w.showLogin(c, http.StatusUnauthorized, "That token is not valid: unknown, expired or revoked.")
		return
	}
	w.setCookie(c, cookieName, w.session.seal(token, w.cfg.Now().Add(sessionLife)), sessionLife)
	c.Redirect(http.StatusSeeOther, w.wanted(c))
}

// formFresh reports whether the login form was made for this browser.
func (w *Web) formFresh(c *gin.Context) bool {
	nonce, err := c.Cookie(formCookie)
	return err == nil && hmac.Equal([]byte(c.PostForm("csrf")), []byte(w.csrf(nonce)))
}

func (w *Web) logout(c *gin.Context) {
	cookie, err := c.Cookie(cookieName)
	if err == nil && hmac.Equal([]byte(c.PostForm("csrf")), []byte(w.csrf(cookie))) {
		if token, ok := w.session.open(cookie, w.cfg.Now()); ok && w.cfg.End != nil {
			if err := w.cfg.End(c.Request.Context(), token); err != nil && artifact.KindOf(err) != artifact.Unauthentic {
				w.fail(c, err) // still signed in, and told so
				return
			}
		}
		w.setCookie(c, cookieName, "", -time.Hour)
	}
	c.Redirect(http.StatusSeeOther, "/login")
}

func (w *Web) setCookie(c *gin.Context, name, value string, life time.Duration) {
	http.SetCookie(c.Writer, &http.Cookie{Name: name, Value: value, Path: "/", MaxAge: int(life.Seconds()), HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: w.secureCookies(c)})
}

func (w *Web) secureCookies(c *gin.Context) bool {
	return c.Request.TLS != nil || strings.HasPrefix(w.cfg.ExternalURL, "https://")
}
