package artifact

import (
	"path"
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

// Principal is who asks. The zero Principal is anonymous and may do nothing.
type Principal struct {
	Name         string        `json:"name"` // for the ledger: token:ci-shop, user:ada, system
	Role         Role          `json:"role"`
	Repositories []string      `json:"repositories,omitempty"` // globs; none means every repository
	Environments []Environment `json:"environments,omitempty"` // of a deployer or promoter; none means none and every one, respectively
}

// System is who acts when Waybill itself does: signs, scans, attaches.
var System = Principal{Name: "system", Role: Admin}

// Anonymous reports whether nobody signed in.
func (p Principal) Anonymous() bool { return p.Role == "" }

// Can reports whether p's role allows an action on a repository. The zero Repository asks whether it does so on
// any, as lists need to know.
func (p Principal) Can(a Action, r Repository) bool {
	return slices.Contains(may[p.Role], a) && (r.IsZero() || p.Sees(r))
}

// RolesWith names the roles that include an action, as a sentence does: "promoter or admin".
func RolesWith(a Action) string {
	var names []string
	for _, role := range Roles {
		if slices.Contains(may[role], a) {
			names = append(names, string(role))
		}
	}
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

// Refusal says what role or binding an action would need that p may not do. It is the same for a repository that is not
// there, so that nobody learns of one that is.
func (p Principal) Refusal(a Action, r Repository) *Error {
	if slices.Contains(may[p.Role], a) {
		return Coded(Denied, "DENIED", "%s may not %s in %s: its role, %s, is bound to %s; that takes one of role %s that is bound to %s", p.Name, a, r, p.Role, strings.Join(p.Repositories, ", "), RolesWith(a), r)
	}
	return Coded(Denied, "DENIED", "%s, a %s, may not %s in %s; that takes role %s, bound to it or to every repository", p.Name, p.Role, a, r, RolesWith(a))
}

// CanPromote reports whether p may promote in r to e.
func (p Principal) CanPromote(r Repository, e Environment) bool {
	return p.Can(ActionPromote, r) && (p.Role == Admin || len(p.Environments) == 0 || slices.Contains(p.Environments, e))
}

// Sees reports whether r is among p's repositories; of a deployer the gate must still say yes.
func (p Principal) Sees(r Repository) bool {
	return len(p.Repositories) == 0 || slices.ContainsFunc(p.Repositories, func(g string) bool { return MatchGlob(g, r.String()) })
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
