package artifact

import (
	"path"
	"regexp"
	"slices"
	"strings"
)

// Role is what a principal may do; see Principal.Can for what each includes.
type Role string

// The roles.
const (
	Reader   Role = "reader"   // pull and look, in its repositories
	Pusher   Role = "pusher"   // reader, push, build
	Promoter Role = "promoter" // reader, promote, roll back, recall to its environments
	Approver Role = "approver" // reader, approve
	Auditor  Role = "auditor"  // look at everything, the ledger included; pull nothing
	Deployer Role = "deployer" // pull what is promoted to its environments, nothing else
	Admin    Role = "admin"    // everything; a gate is passed only by an override, which stands in the ledger
)

// Roles in the order people read them.
var Roles = []Role{Reader, Pusher, Promoter, Approver, Auditor, Deployer, Admin}

// Action is what a request asks to do with a repository, or with the whole server.
type Action string

// The actions. Pull here is that of any digest; a deployer's pull of a promoted one is decided by the gate
// (promotion.Gate).
const (
	ActionPull    Action = "pull"
	ActionPush    Action = "push"
	ActionDelete  Action = "delete"
	ActionLook    Action = "look" // metadata: verdicts, scans, status
	ActionBuild   Action = "build"
	ActionPromote Action = "promote"
	ActionApprove Action = "approve"
	ActionAudit   Action = "audit"  // the ledger and everybody's doings
	ActionManage  Action = "manage" // policies, pipelines, tokens, advisory database
)

var may = map[Role][]Action{
	Reader:   {ActionPull, ActionLook},
	Pusher:   {ActionPull, ActionLook, ActionPush, ActionBuild},
	Promoter: {ActionPull, ActionLook, ActionPromote},
	Approver: {ActionPull, ActionLook, ActionApprove},
	Auditor:  {ActionLook, ActionAudit},
	Deployer: {},
	Admin: {ActionPull, ActionLook, ActionPush, ActionBuild, ActionDelete, ActionPromote, ActionApprove, ActionAudit,
		ActionManage},
}

// Binding is a role, and where it counts.
type Binding struct {
	Role         Role          `json:"role"`
	Repositories []string      `json:"repositories,omitempty"` // globs; none means every repository
	Environments []Environment `json:"environments,omitempty"` // none means none of a deployer, every one of a promoter or approver
}

// Principal is who asks: Role, Repositories and Environments are its first binding. The zero Principal is anonymous and
// may do nothing.
type Principal struct {
	Name         string        `json:"name"` // for the ledger: token:ci-shop, user:ada, system
	Role         Role          `json:"role"`
	Repositories []string      `json:"repositories,omitempty"`
	Environments []Environment `json:"environments,omitempty"`
	More         []Binding     `json:"more,omitempty"`
	Token        string        `json:"token,omitempty"` // the id of what it signed in with: what begins later asks whether that still holds
}

// tokenID is what ends a token's name in the ledger, after its own.
var tokenID = regexp.MustCompile(`^(token:.*)/[0-9a-f]{12}$`)

// Holder is who a principal's name stands for, where nobody's word may count twice, or for their own work: tokens of one name are one
// holder's, such as one that took another's place.
func Holder(name string) string {
	if m := tokenID.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return name
}

// Bindings are all of p's; what one allows another does not take away.
func (p Principal) Bindings() []Binding {
	return append([]Binding{{p.Role, p.Repositories, p.Environments}}, p.More...)
}

// any reports whether one of p's bindings is such. It does not allocate: every request asks.
func (p Principal) any(is func(Binding) bool) bool {
	return is(Binding{p.Role, p.Repositories, p.Environments}) || slices.ContainsFunc(p.More, is)
}

func (b Binding) includes(a Action) bool { return slices.Contains(may[b.Role], a) }

// Sees reports whether r is among those of the binding.
func (b Binding) Sees(r Repository) bool {
	return len(b.Repositories) == 0 || slices.ContainsFunc(b.Repositories, func(g string) bool { return MatchGlob(g, r.String()) })
}

// System is who acts when Waybill itself does: signs, scans, attaches.
var System = Principal{Name: "system", Role: Admin}

// Anonymous reports whether nobody signed in.
func (p Principal) Anonymous() bool { return p.Role == "" }

// Can reports whether p's role allows an action on a repository. The zero Repository asks whether it does so on
// any, as lists need to know.
func (p Principal) Can(a Action, r Repository) bool {
	return p.any(func(b Binding) bool { return b.includes(a) && (r.IsZero() || b.Sees(r)) })
}

// CanEverywhere reports whether p may do an action on every repository.
func (p Principal) CanEverywhere(a Action) bool {
	return p.any(func(b Binding) bool { return b.includes(a) && len(b.Repositories) == 0 })
}

// Patterns returns those of the repositories where p may do an action, none when that is nowhere or, see CanEverywhere,
// everywhere.
func (p Principal) Patterns(a Action) (patterns []string) {
	if p.CanEverywhere(a) {
		return nil
	}
	for _, b := range p.Bindings() {
		if b.includes(a) {
			patterns = append(patterns, b.Repositories...)
		}
	}
	return patterns
}

// CanTo reports whether p may do an action that moves r to e, such as to promote it or to approve that. The zero
// Environment asks for all of them.
func (p Principal) CanTo(a Action, r Repository, e Environment) bool {
	return p.any(func(b Binding) bool {
		return b.includes(a) && (r.IsZero() || b.Sees(r)) && (b.Role == Admin || len(b.Environments) == 0 || slices.Contains(b.Environments, e))
	})
}

// Is reports whether p has a role, wherever that counts.
func (p Principal) Is(role Role) bool {
	return p.any(func(b Binding) bool { return b.Role == role })
}

// As reports whether p has a role that counts for r and e.
func (p Principal) As(role Role, r Repository, e Environment) bool {
	return p.any(func(b Binding) bool {
		return b.Role == role && b.Sees(r) && (role == Admin || len(b.Environments) == 0 || slices.Contains(b.Environments, e))
	})
}

// Deploys returns the environments whose promoted digests of r p may pull as a deployer; of the zero Repository, those of
// any.
func (p Principal) Deploys(r Repository) (environments []Environment) {
	if len(p.More) == 0 && p.Role == Deployer && (r.IsZero() || p.Sees(r)) {
		return p.Environments
	}
	for _, b := range p.Bindings() {
		if b.Role != Deployer || !r.IsZero() && !b.Sees(r) {
			continue
		}
		for _, e := range b.Environments {
			if !slices.Contains(environments, e) {
				environments = append(environments, e)
			}
		}
	}
	return environments
}

// Roles names p's roles, as a sentence does: "reader and approver".
func (p Principal) Roles() string {
	var names []string
	for _, b := range p.Bindings() {
		if !slices.Contains(names, string(b.Role)) {
			names = append(names, string(b.Role))
		}
	}
	return sentence(names, " and ")
}

func sentence(names []string, last string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + last + names[len(names)-1]
}

// RolesWith names the roles that include an action, as a sentence does: "promoter or admin".
func RolesWith(a Action) string {
	var names []string
	for _, role := range Roles {
		if slices.Contains(may[role], a) {
			names = append(names, string(role))
		}
	}
	return sentence(names, " or ")
}

// Refusal says what role or binding an action would need that p may not do. It is the same for a repository that is not
// there, so that nobody learns of one that is.
func (p Principal) Refusal(a Action, r Repository) *Error {
	where, there, which := " in "+r.String(), r.String(), ", bound to it or to every repository"
	if r.IsZero() { // of no repository in particular
		where, there, which = " everywhere", "every repository", ""
	}
	if patterns := p.Patterns(a); patterns != nil {
		its := "its role, %s, is"
		if len(p.More) > 0 {
			its = "its roles, %s, are"
		}
		return Coded(Denied, "DENIED", "%s may not %s%s: "+its+" bound to %s; that takes one of role %s that is bound to %s", p.Name, a, where, p.Roles(), strings.Join(patterns, ", "), RolesWith(a), there)
	}
	if r.IsZero() {
		where = " here"
	}
	return Coded(Denied, "DENIED", "%s, %s, may not %s%s; that takes role %s%s", p.Name, An(p.Roles()), a, where, RolesWith(a), which)
}

// CanPromote reports whether p may promote in r to e.
func (p Principal) CanPromote(r Repository, e Environment) bool { return p.CanTo(ActionPromote, r, e) }

// Sees reports whether r is among p's repositories; of a deployer the gate must still say yes.
func (p Principal) Sees(r Repository) bool {
	return p.any(func(b Binding) bool { return b.Sees(r) })
}

// MatchGlob reports whether a repository name matches a pattern: ** stands for any number of path components, *, ?
// and [] are as in path.Match within one component.
func MatchGlob(pattern, name string) bool {
	return matchParts(strings.Split(pattern, "/"), strings.Split(name, "/"))
}

func matchParts(pattern, name []string) bool {
	if len(pattern) == 0 {
		return len(name) == 0
	}
	if pattern[0] == "**" {
		// Collapsing ** runs keeps a hostile **/**/**/… from costing exponential time.
		for len(pattern) > 1 && pattern[1] == "**" {
			pattern = pattern[1:]
		}
		for i := 0; i <= len(name); i++ {
			if matchParts(pattern[1:], name[i:]) {
				return true
			}
		}
		return false
	}
	if len(name) == 0 {
		return false
	}
	ok, err := path.Match(pattern[0], name[0])
	return err == nil && ok && matchParts(pattern[1:], name[1:])
}

// ValidGlob reports whether a pattern is one that MatchGlob understands: at most 255 bytes and four **, since each
// multiplies the ways to match.
func ValidGlob(pattern string) bool {
	if pattern == "" || len(pattern) > 255 || strings.Count(pattern, "**") > 4 {
		return false
	}
	for _, part := range strings.Split(pattern, "/") {
		if _, err := path.Match(part, ""); err != nil || part == "" {
			return false
		}
	}
	return true
}
