package ledger

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"waybill/artifact"
)

// Records is what decisions wrote beside their entries.
type Records struct {
	Promotions  []artifact.Promotion // in ascending order of ID
	Deployments []artifact.Deployment
	Recalled    []Recalled // by digest
	Grants      []GrantedRoot
	Strays      []Stray
	Documents   []AppliedDocument
	Waivers     []RecordedWaiver
	Keys        []artifact.SigningKey // by the order in which they came in force
	Approvals   []Recorded
	Releases    []Recorded
	Tokens      []Recorded // those of sessions go when they have ended
	Signatures  []Signature
	Unpushed    []Unpushed
}

// Unpushed is an image or index that somebody is said to have pushed, and no entry says that of them: whose approval counts depends on it.
type Unpushed struct {
	Repository artifact.Repository
	Digest     artifact.Digest
	By         string
}

// Signature is one that counts for gates: of a digest, by a key, and what carries it.
type Signature struct {
	Repository artifact.Repository
	Digest     artifact.Digest
	Key        string
	Manifest   artifact.Digest
}

// Recalled is a digest that was withdrawn, with what was said of that.
type Recalled struct {
	artifact.Reference
	Actor, Reason, Advisory string
	At                      time.Time
}

// GrantedRoot is a digest whose closure an environment may pull.
type GrantedRoot struct {
	Repository  artifact.Repository
	Environment artifact.Environment
	Root        artifact.Digest
}

// Stray is a manifest or blob of an image that an environment may pull, though it is no part of the root that it is said to
// come with.
type Stray struct {
	GrantedRoot
	Digest artifact.Digest
}

// AppliedDocument is a version of a policy, a pipeline or rules for repositories.
type AppliedDocument struct {
	Kind    string // Policy, Pipeline or Repositories
	Name    string
	Version int
	Hash    artifact.Digest // of what it means
	Text    artifact.Digest // of the text, which is what counts
	By      string
}

// RecordedWaiver is a waiver, ended or not, with the entry that it names. Hash is of all that was decided.
type RecordedWaiver struct {
	ID          int64
	Hash        artifact.Digest
	LedgerIndex int64
	Revoked     bool
}

func (d AppliedDocument) key() string {
	return fmt.Sprintf("%s %s@%d", strings.ToLower(d.Kind), d.Name, d.Version)
}

// recordAudit compares records with the entries that made them, each as it passes.
type recordAudit struct {
	Records
	problem    func(format string, args ...any)
	promotions map[int64][]artifact.Promotion // by the entry they name
	documents  map[string]AppliedDocument
	recalled   map[artifact.Reference]Recalled
	waivers    map[int64]RecordedWaiver // by the entry they name
	revoked    map[string]bool          // waivers, by their id
	keys       *keyAudit
	approvals  *recordedAudit
	releases   *recordedAudit
	tokens     *recordedAudit
	signed     map[Signature]bool // that an entry records
	last       Entry              // the one before, at lastIndex
	lastIndex  int64
}

func newRecordAudit(r Records, problem func(string, ...any)) *recordAudit {
	a := &recordAudit{Records: r, problem: problem, promotions: map[int64][]artifact.Promotion{}, documents: map[string]AppliedDocument{}, recalled: map[artifact.Reference]Recalled{},
		waivers: map[int64]RecordedWaiver{}, revoked: map[string]bool{}, keys: newKeyAudit(r.Keys, problem), approvals: newRecordedAudit("approval", r.Approvals, problem),
		releases: newRecordedAudit("release", r.Releases, problem), tokens: newRecordedAudit("token", r.Tokens, problem)}
	a.tokens.passing, a.signed = true, map[Signature]bool{}
	for _, s := range r.Signatures {
		a.signed[s] = false
	}
	for _, p := range r.Promotions {
		a.promotions[p.LedgerIndex] = append(a.promotions[p.LedgerIndex], p)
	}
	for _, d := range r.Documents {
		a.documents[d.key()] = d
	}
	for _, one := range r.Recalled {
		a.recalled[one.Reference] = one
	}
	for _, w := range r.Waivers {
		if _, two := a.waivers[w.LedgerIndex]; two {
			problem("waiver %d names entry %d, as another does", w.ID, w.LedgerIndex)
		}
		a.waivers[w.LedgerIndex], a.revoked[fmt.Sprint(w.ID)] = w, w.Revoked
	}
	return a
}

// entry takes from the records what the entry accounts for.
func (a *recordAudit) entry(index int64, e Entry) {
	defer func() { a.last, a.lastIndex = e, index }()
	switch e.Kind {
	case KindPromotion, KindRollback, KindRetire:
		a.moved(index, e)
	case KindRecall:
		a.recall(index, e)
	case KindWaiverCreated:
		w, ok := a.waivers[index]
		switch {
		case !ok:
			a.problem("entry %d: waiver %s was created, but is not there", index, e.Subject)
		case fmt.Sprint(w.ID) != e.Subject || len(e.Evidence) != 1 || w.Hash != e.Evidence[0]:
			a.problem("waiver %d is not what entry %d recorded", w.ID, index)
		}
		delete(a.waivers, index)
	case KindWaiverRevoked:
		if !a.revoked[e.Subject] {
			a.problem("entry %d: waiver %s was revoked, and its record does not say so", index, e.Subject)
		}
	case KindPolicyApplied, KindPipelineApplied, KindStorageApplied:
		a.applied(index, e)
	case KindKeyRotated:
		a.keys.rotated(index, e)
	case KindKeyRevoked:
		a.keys.revoked(index, e)
	case KindApproval:
		a.approvals.entryMade(index, e)
	case KindApprovalRevoked:
		a.approvals.entryRevoked(index, e)
	case KindRelease:
		a.releases.entryMade(index, e)
	case KindTokenCreated:
		a.tokens.entryMade(index, e)
	case KindTokenRevoked:
		a.tokens.entryRevoked(index, e)
	case KindSigned:
		a.sign(e)
	}
}

func (a *recordAudit) sign(e Entry) {
	if len(e.Evidence) != 1 {
		return
	}
	s := Signature{e.Repository, e.Digest, e.Subject, e.Evidence[0]}
	if _, counts := a.signed[s]; counts {
		a.signed[s] = true
	}
}

func (a *recordAudit) applied(index int64, e Entry) {
	kind, _, _ := strings.Cut(e.Kind, ".")
	key := kind + " " + e.Subject + "@" + e.Version
	d, ok := a.documents[key]
	switch {
	case !ok:
		a.problem("entry %d: %s was applied, but is not there", index, key)
	case d.Hash != e.Digest:
		a.problem("entry %d: %s was applied with hash %s, but the stored one has %s", index, key, e.Digest, d.Hash)
	case len(e.Evidence) > 0 && d.Text != e.Evidence[0]: // entries of older ledgers do not say
		a.problem("entry %d: the text of %s is not the one that was applied", index, key)
	case d.By != e.Actor:
		a.problem("entry %d: %s was applied by %s, and its record says %s", index, key, e.Actor, d.By)
	}
	delete(a.documents, key)
}

func (a *recordAudit) moved(index int64, e Entry) {
	rows := a.promotions[index]
	delete(a.promotions, index)
	if len(rows) != 1 {
		a.problem("entry %d: it records one %s, and %d rows of promotions name it", index, e.Kind, len(rows))
	}
	var overridden []string
	if o := a.last; o.Kind == KindOverride && a.lastIndex == index-1 && o.Repository == e.Repository && o.Digest == e.Digest && o.Environment == e.Environment {
		overridden = o.Reasons
	}
	for _, p := range rows {
		a.compare(index, p, e, actions[e.Kind], e.Environment)
		if !sameReasons(p.Overridden, overridden) {
			a.problem("promotion %d is not what entry %d recorded: the gates that it overrode are not those of the entry before", p.ID, index)
		}
	}
}

// sameReasons compares reasons with those of an entry, which may have left out some; see Entry.Leaf.
func sameReasons(all, recorded []string) bool {
	n := len(recorded) - 1
	return slices.Equal(all, recorded) || n >= 0 && n < len(all) && recorded[n] == moreReasons(len(all)-n) && slices.Equal(all[:n], recorded[:n])
}

func (a *recordAudit) recall(index int64, e Entry) {
	rows := a.promotions[index]
	delete(a.promotions, index)
	var withdrawn []artifact.Environment
	for _, p := range rows {
		withdrawn = append(withdrawn, p.Environment)
		a.compare(index, p, e, "recall", p.Environment)
	}
	slices.SortFunc(withdrawn, func(x, y artifact.Environment) int { return strings.Compare(x.String(), y.String()) })
	if !slices.Equal(withdrawn, e.Environments) {
		a.problem("entry %d: it records a recall from %v, and the rows of promotions that name it one from %v", index, e.Environments, withdrawn)
	}
	ref := artifact.Reference{Repository: e.Repository, Digest: e.Digest}
	r, ok := a.recalled[ref]
	if !ok {
		a.problem("entry %d: %s was recalled, but the record of recalls does not have it", index, ref)
	} else if r.Actor != e.Actor || r.Reason != e.Reason || r.Advisory != e.Subject || !Instant(r.At).Equal(e.At) {
		a.problem("the record of the recall of %s is not what entry %d recorded", ref, index)
	}
	delete(a.recalled, ref)
}

func (a *recordAudit) compare(index int64, p artifact.Promotion, e Entry, action string, environment artifact.Environment) {
	if differ := differences(p, e, action, environment); len(differ) > 0 {
		a.problem("promotion %d is not what entry %d recorded: %s", p.ID, index, strings.Join(differ, "; "))
	}
}

// actions are what records of promotions call the kinds of their entries.
var actions = map[string]string{KindPromotion: "promote", KindRollback: "rollback", KindRetire: "retire", KindRecall: "recall"}

// CheckPromotion compares the record of a promotion, rollback, recall or retirement with the entry that it names.
func CheckPromotion(p artifact.Promotion, e Entry) error {
	environment := e.Environment
	if e.Kind == KindRecall && slices.Contains(e.Environments, p.Environment) {
		environment = p.Environment
	}
	if differ := differences(p, e, actions[e.Kind], environment); len(differ) > 0 {
		return fmt.Errorf("promotion %d is not what entry %d recorded: %s", p.ID, p.LedgerIndex, strings.Join(differ, "; "))
	}
	return nil
}

func differences(p artifact.Promotion, e Entry, action string, environment artifact.Environment) (differ []string) {
	release, advisory := e.Subject, ""
	if e.Kind == KindRecall {
		release, advisory = "", e.Subject
	}
	for _, c := range []struct{ name, row, entry string }{
		{"action", p.Action, action}, {"repository", p.Repository.String(), e.Repository.String()}, {"environment", p.Environment.String(), environment.String()},
		{"digest", p.Digest.String(), e.Digest.String()}, {"version", p.Version, e.Version}, {"previous", p.Previous.String(), e.Previous.String()},
		{"actor", p.Actor, e.Actor}, {"reason", p.Reason, e.Reason}, {"policy_hash", p.PolicyHash.String(), e.PolicyHash.String()},
		{"release", p.Release, release}, {"advisory", p.Advisory, advisory},
		{"at", Instant(p.At).Format(time.RFC3339Nano), e.At.Format(time.RFC3339Nano)},
	} {
		if c.row != c.entry {
			differ = append(differ, fmt.Sprintf("its %s is %q, not %q", c.name, c.row, c.entry))
		}
	}
	return differ
}

// place is a pointer: what one environment runs of one repository.
type place struct {
	repository  artifact.Repository
	environment artifact.Environment
}

// finish names the records that no entry accounts for, and replays the promotions to what must be current.
func (a *recordAudit) finish() {
	current, granted, recalled := map[place]artifact.Promotion{}, map[GrantedRoot]bool{}, map[artifact.Reference]bool{}
	for _, p := range a.Promotions {
		if _, unaccounted := a.promotions[p.LedgerIndex]; unaccounted {
			a.problem("promotion %d (%s of %s@%s to %s) names entry %d, which records no such decision", p.ID, p.Action, p.Repository, p.Digest, p.Environment, p.LedgerIndex)
		}
		at := place{p.Repository, p.Environment}
		if p.Action != "recall" && p.Action != "retire" {
			current[at] = p
			granted[GrantedRoot{p.Repository, p.Environment, p.Digest}] = true
			continue
		}
		if p.Action == "retire" {
			delete(granted, GrantedRoot{p.Repository, p.Environment, p.Digest})
		} else {
			recalled[artifact.Reference{Repository: p.Repository, Digest: p.Digest}] = true
		}
		if current[at].Digest == p.Digest {
			delete(current, at)
		}
	}
	for _, g := range a.Grants {
		if !granted[g] || recalled[artifact.Reference{Repository: g.Repository, Digest: g.Root}] {
			a.problem("%s may pull %s@%s, and no promotion allows that", g.Environment, g.Repository, g.Root)
		}
	}
	for _, s := range a.Strays {
		a.problem("%s may pull %s@%s with %s, of which it is no part", s.Environment, s.Repository, s.Digest, s.Root)
	}
	a.pointers(current)
	for _, d := range a.Documents {
		if _, unaccounted := a.documents[d.key()]; unaccounted {
			a.problem("%s is there, and no entry records that it was applied", d.key())
		}
	}
	for _, w := range a.Waivers {
		if left, unaccounted := a.waivers[w.LedgerIndex]; unaccounted && left.ID == w.ID {
			a.problem("waiver %d is there, and no entry records that it was created", w.ID)
		}
	}
	a.keys.end()
	for _, all := range []*recordedAudit{a.approvals, a.releases, a.tokens} {
		all.end()
	}
	for _, u := range a.Unpushed {
		a.problem("%s@%s is said to be pushed by %s, and no entry records that", u.Repository, u.Digest, u.By)
	}
	for _, s := range a.Signatures {
		if !a.signed[s] {
			a.problem("%s@%s counts as signed by key %.12s, and no entry records that", s.Repository, s.Digest, s.Key)
		}
	}
	for _, r := range a.Recalled {
		if _, unaccounted := a.recalled[r.Reference]; unaccounted {
			a.problem("%s stands in the record of recalls, and no entry records that", r.Reference)
		}
	}
}

func (a *recordAudit) pointers(current map[place]artifact.Promotion) {
	for _, d := range a.Deployments {
		at := place{d.Repository, d.Environment}
		p, ok := current[at]
		switch {
		case !ok:
			a.problem("%s of %s points at %s, and no promotion put it there", d.Environment, d.Repository, d.Digest)
		case p.Digest != d.Digest || p.Version != d.Version:
			a.problem("%s of %s points at %s (%s), and its last promotion, entry %d, at %s (%s)", d.Environment, d.Repository, d.Digest, d.Version, p.LedgerIndex, p.Digest, p.Version)
		case p.Actor != d.Actor || p.Reason != d.Reason || !p.At.Equal(d.Since):
			a.problem("%s of %s points at what its last promotion, entry %d, put there, and names another's time, actor or reason", d.Environment, d.Repository, p.LedgerIndex)
		}
		delete(current, at)
	}
	for _, p := range a.Promotions { // in order, so that the report is the same each time
		at := place{p.Repository, p.Environment}
		if last, ok := current[at]; ok && last.ID == p.ID {
			a.problem("%s of %s points nowhere, and its last promotion, entry %d, put it at %s", p.Environment, p.Repository, p.LedgerIndex, p.Digest)
		}
	}
}
