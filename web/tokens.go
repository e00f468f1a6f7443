package web

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
	"waybill/auth"
)

// Tokens are the use cases of package auth (auth.Service).
type Tokens interface {
	Create(ctx context.Context, actor artifact.Principal, g auth.Grant) (secret string, t auth.Token, err error)
	List(ctx context.Context) ([]auth.Token, error)
	Revoke(ctx context.Context, actor artifact.Principal, id string) error
}

// tokensPage lists tokens, and makes and revokes them.
type tokensPage struct {
	form
	Now     time.Time
	Views   []tokenView
	Query   string
	Tokens  []tokenRow
	Pages   pages
	Made    *madeToken
	Problem string // why what was asked for was not done
	Asked   tokenForm
	Roles   []roleChoice
	Lives   []int // days to choose from

	Environments []environmentChoice
}

// tokenView is a part of all tokens.
type tokenView struct {
	Name, Path string
	Count      int
	Here       bool
}

// tokenRow is a token as a row shows it.
type tokenRow struct {
	auth.Token
	May   []string // what it may, a line for each of its roles
	State string   // valid, expires soon, expired or revoked
	Own   bool     // the reader is signed in with it
}

// Prefix is what the token begins with: what a scanner for secrets finds, and what tells it from others.
func (r tokenRow) Prefix() string { return "wbt_" + r.ID + "_" }

// madeToken is shown once.
type madeToken struct {
	auth.Token
	Secret string
	May    []string
}

// tokenForm is what somebody typed, so that a refusal loses nothing.
type tokenForm struct {
	Name, Role, Repositories string
	Days                     int
}

type roleChoice struct {
	Role   artifact.Role
	Means  string
	Chosen bool
}

type environmentChoice struct {
	Environment artifact.Environment
	Chosen      bool
}

// roleMeans says what each role may, in a few words.
var roleMeans = map[artifact.Role]string{
	artifact.Reader:   "pulls, and looks at everything about what it pulls",
	artifact.Pusher:   "pulls, pushes and builds",
	artifact.Promoter: "pulls, promotes, rolls back and recalls",
	artifact.Approver: "pulls, approves promotions and waives rules",
	artifact.Auditor:  "looks at everything and at the ledger; pulls nothing",
	artifact.Deployer: "pulls what is promoted to its environments, and nothing else",
	artifact.Admin:    "all of it, on the whole server",
}

const (
	tokenRows  = 50
	soon       = 7 * 24 * time.Hour // a token that ends within it is pointed at
	defaultDay = 90
)

// inWords says what a binding gives: "deployer to production, in shop/**".
func inWords(b artifact.Binding) string {
	text := string(b.Role)
	if len(b.Environments) > 0 {
		names := make([]string, len(b.Environments))
		for i, e := range b.Environments {
			names[i] = e.String()
		}
		text += " for " + strings.Join(names, ", ")
	}
	if len(b.Repositories) > 0 {
		return text + ", in " + strings.Join(b.Repositories, ", ")
	}
	if b.Role == artifact.Admin {
		return text + " of the whole server"
	}
	return text + ", in every repository"
}

func (w *Web) tokens(c *gin.Context, p artifact.Principal) error {
	return w.showTokens(c, p, http.StatusOK, &tokensPage{Asked: tokenForm{Role: string(artifact.Reader), Days: defaultDay}})
}

// showTokens fills a page with the list, and renders it. To whom the API does not list tokens the page does not.
func (w *Web) showTokens(c *gin.Context, p artifact.Principal, status int, page *tokensPage) error {
	if !p.Can(artifact.ActionManage, artifact.Repository{}) {
		return artifact.Errorf(artifact.Denied, "%s, a %s, may not see tokens; that takes role %s", p.Name, p.Roles(), artifact.RolesWith(artifact.ActionManage))
	}
	all, err := w.cfg.Tokens.List(c.Request.Context())
	if err != nil {
		return err
	}
	page.Now, page.Lives = w.cfg.Now(), []int{1, 7, 30, 90, 365}
	for _, role := range artifact.Roles {
		page.Roles = append(page.Roles, roleChoice{role, roleMeans[role], string(role) == page.Asked.Role})
	}
	if page.Environments == nil {
		environments, err := w.cfg.Environments(c.Request.Context())
		if err != nil {
			return err
		}
		for _, e := range environments {
			page.Environments = append(page.Environments, environmentChoice{Environment: e})
		}
	}
	show, asked := c.Query("show"), c.Request.URL.Query()
	page.Query = strings.TrimSpace(c.Query("q"))
	var rows []tokenRow
	for _, view := range []tokenView{{Name: "Valid", Path: "/tokens"}, {Name: "Sessions", Path: "/tokens?show=sessions"}, {Name: "Ended", Path: "/tokens?show=ended"}} {
		some := slices.DeleteFunc(slices.Clone(all), func(t auth.Token) bool { return partOf(t, page.Now) != view.Name })
		view.Count = len(some)
		if view.Here = strings.EqualFold(view.Name, show) || view.Name == "Valid" && show != "sessions" && show != "ended"; view.Here {
			for _, t := range some {
				if row := w.tokenRow(t, p, page.Now); row.matches(page.Query) {
					rows = append(rows, row)
				}
			}
		}
		page.Views = append(page.Views, view)
	}
	page.Tokens, page.Pages = paged(rows, tokenRows, asked)
	page.Pages = page.Pages.at("/tokens")
	w.render(c, status, "tokens", "Tokens", page)
	return nil
}

// partOf is the view that a token is in.
func partOf(t auth.Token, now time.Time) string {
	switch {
	case !t.RevokedAt.IsZero() || !now.Before(t.ExpiresAt):
		return "Ended"
	case t.Session != "":
		return "Sessions"
	}
	return "Valid"
}

func (w *Web) tokenRow(t auth.Token, p artifact.Principal, now time.Time) tokenRow {
	row := tokenRow{Token: t, State: "valid", Own: t.Principal().Name == p.Name}
	for _, b := range t.Principal().Bindings() {
		row.May = append(row.May, inWords(b))
	}
	switch {
	case !t.RevokedAt.IsZero():
		row.State = "revoked"
	case !now.Before(t.ExpiresAt):
		row.State = "expired"
	case t.ExpiresAt.Sub(now) < soon && t.Session == "":
		row.State = "expires soon"
	}
	return row
}

func (r tokenRow) matches(query string) bool {
	text := strings.ToLower(strings.Join(append([]string{r.Name, r.ID, r.Session, r.CreatedBy}, r.May...), " "))
	return strings.Contains(text, strings.ToLower(query))
}

// createToken makes a token and answers with it: the secret is in this answer, and nowhere else.
func (w *Web) createToken(c *gin.Context, p artifact.Principal) error {
	page := &tokensPage{Asked: tokenForm{Name: strings.TrimSpace(c.PostForm("name")), Role: c.PostForm("role"), Repositories: c.PostForm("repositories")}}
	g := auth.Grant{Name: page.Asked.Name, Role: artifact.Role(page.Asked.Role), Repositories: strings.Fields(page.Asked.Repositories)}
	days, err := strconv.Atoi(c.PostForm("days"))
	if page.Asked.Days = days; err != nil || days < 1 {
		page.Asked.Days, page.Problem = defaultDay, fmt.Sprintf("A token is valid for a number of days, not %.20q.", c.PostForm("days"))
		return w.showTokens(c, p, http.StatusBadRequest, page)
	}
	g.Expires = w.cfg.Now().Add(time.Duration(min(days, 100_000)) * 24 * time.Hour)
	if g.Name == "" {
		g.Name = page.Asked.Role
	}
	known, err := w.cfg.Environments(c.Request.Context())
	if err != nil {
		return err
	}
	chosen := c.PostFormArray("environments")
	for _, e := range known {
		page.Environments = append(page.Environments, environmentChoice{e, slices.Contains(chosen, e.String())})
	}
	for _, name := range chosen {
		e, err := artifact.ParseEnvironment(name)
		if err != nil {
			return err
		}
		g.Environments = append(g.Environments, e)
	}
	secret, t, err := w.cfg.Tokens.Create(c.Request.Context(), p, g)
	if artifact.KindOf(err) == artifact.Invalid {
		page.Problem = messageOf(err)
		return w.showTokens(c, p, http.StatusBadRequest, page)
	} else if err != nil {
		return err
	}
	page.Made = &madeToken{Token: t, Secret: secret}
	for _, b := range t.Principal().Bindings() {
		page.Made.May = append(page.Made.May, inWords(b))
	}
	page.Asked, page.Environments = tokenForm{Role: string(artifact.Reader), Days: defaultDay}, nil
	return w.showTokens(c, p, http.StatusOK, page)
}

func (w *Web) revokeToken(c *gin.Context, p artifact.Principal) error {
	id := c.PostForm("id")
	err := w.cfg.Tokens.Revoke(c.Request.Context(), p, id)
	switch artifact.KindOf(err) {
	case artifact.Conflict, artifact.NotFound:
		return w.showTokens(c, p, statuses[artifact.KindOf(err)], &tokensPage{Problem: messageOf(err), Asked: tokenForm{Role: string(artifact.Reader), Days: defaultDay}})
	}
	if err != nil {
		return err
	}
	return w.done(c, "/tokens", "Revoked token %.40s: nobody uses it from now on.", id)
}
