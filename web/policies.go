package web

import (
	"cmp"
	"context"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"waybill/artifact"
	"waybill/policy"
)

// Policies are the use cases of policies. Apply alone changes something.
type Policies interface {
	// InForce returns the policies in force, by name.
	InForce(ctx context.Context) ([]PolicyVersion, error)
	// Versions returns the versions of a policy, newest first, at most n of those before one (0: any).
	Versions(ctx context.Context, name string, before, n int) ([]PolicyVersion, error)
	// Version returns one version of a policy, or a NotFound error.
	Version(ctx context.Context, name string, version int) (PolicyVersion, error)
	// Check parses a policy and refuses what Apply would.
	Check(ctx context.Context, text []byte) (policy.Document, error)
	// Impact is policy.Judge.Impact of one policy.
	Impact(ctx context.Context, changed policy.Document, sees func(artifact.Repository) bool, tell func(*policy.ImpactChange, int)) (policy.Impact, error)
	// Apply puts a policy in force; false when what is in force means the same.
	Apply(ctx context.Context, p artifact.Principal, text []byte) (PolicyVersion, bool, error)
	// Waivers returns those in force that p may know of, newest first.
	Waivers(ctx context.Context, p artifact.Principal, n int) ([]artifact.Waiver, error)
}

// PolicyVersion is a version of a policy.
type PolicyVersion struct {
	Name      string
	Version   int
	Hash      artifact.Digest
	AppliedBy string
	AppliedAt time.Time
	Body      string // YAML
}

// Bounds of what pages of policies show.
const (
	maxPolicyText = 32 << 10 // bytes of a text that can be edited on a page
	maxDiffText   = 128 << 10
	maxDiffLines  = 400
	maxDiffSize   = 24 << 10 // bytes of the lines
	versionRows   = 20
	waiverRows    = 50
	maxWaivers    = 1000
	impactRows    = 50
	shownReasons  = 4 // of an image whose verdict would change
)

// policiesPage is every policy in force, in words.
type policiesPage struct {
	Policies    []policyCard
	PolicyPages pages
	Waivers     []artifact.Waiver
	WaiverPages pages
	Previews    bool
	Now         time.Time
}

// policyCard is a policy with what it says.
type policyCard struct {
	PolicyVersion
	policy.Words
}

// policyCards is how many policies a page shows.
const policyCards = 12

func (w *Web) policies(c *gin.Context, p artifact.Principal) error {
	ctx, query := c.Request.Context(), c.Request.URL.Query()
	if !p.Can(artifact.ActionLook, artifact.Repository{}) {
		return p.Refusal(artifact.ActionLook, artifact.Repository{})
	}
	if c.Query("new") != "" {
		return w.newPolicy(c, p)
	}
	all, err := w.cfg.Policies.InForce(ctx)
	if err != nil {
		return err
	}
	page := policiesPage{Previews: p.Can(artifact.ActionAudit, artifact.Repository{}), Now: w.cfg.Now()}
	all, page.PolicyPages = paged(all, policyCards, query)
	for _, one := range all {
		card, err := w.inWords(one)
		if err != nil {
			return err
		}
		page.Policies = append(page.Policies, card)
	}
	waivers, err := w.cfg.Policies.Waivers(ctx, p, maxWaivers)
	if err != nil {
		return err
	}
	page.Waivers, page.WaiverPages = pagedBy("waivers", waivers, waiverRows, query)
	w.render(c, http.StatusOK, "policies", "Policies", page)
	return nil
}

// inWords parses a policy that was applied, and so parses; an older release may have taken what this one does not.
func (w *Web) inWords(v PolicyVersion) (policyCard, error) {
	all, err := policy.Parse(v.Name, []byte(v.Body))
	if err != nil || len(all) != 1 {
		return policyCard{PolicyVersion: v}, err
	}
	return policyCard{v, all[0].Words()}, nil
}

// policyPage is one policy: its rules, its text, its versions.
type policyPage struct {
	form
	policyCard
	Current     int // version in force
	Unread      string
	Versions    []versionRow
	Older       string
	Compared    *comparedPolicy
	Waivers     []artifact.Waiver
	WaiverPages pages
	Previews    bool
	Long        bool // its text is longer than a page has
	Rows        int  // of the field of its text
	Now         time.Time
}

// versionRow is a version with what it changed.
type versionRow struct {
	PolicyVersion
	Changes []policy.Change
	First   bool
}

// comparedPolicy is two versions, line by line.
type comparedPolicy struct {
	From, To PolicyVersion
	Changes  []policy.Change
	Lines    []diffLine
	Long     bool
}

func (w *Web) policy(c *gin.Context, p artifact.Principal) error {
	ctx := c.Request.Context()
	if !p.Can(artifact.ActionLook, artifact.Repository{}) {
		return p.Refusal(artifact.ActionLook, artifact.Repository{})
	}
	name := c.Param("name")
	numbers := map[string]int{}
	for _, key := range []string{"version", "from", "to", "before"} {
		n, err := strconv.Atoi(c.DefaultQuery(key, "0"))
		if err != nil || n < 0 {
			return artifact.Errorf(artifact.Invalid, "%s %.40q: want the number of a version", key, c.Query(key))
		}
		numbers[key] = n
	}
	versions, err := w.cfg.Policies.Versions(ctx, name, 0, 1)
	if err != nil {
		return err
	}
	if len(versions) == 0 {
		return artifact.Errorf(artifact.NotFound, "No policy named %.100q was ever applied.", name)
	}
	page := &policyPage{Current: versions[0].Version, Previews: p.Can(artifact.ActionAudit, artifact.Repository{}), Now: w.cfg.Now()}
	shown := versions[0]
	if n := numbers["version"]; n > 0 && n != shown.Version {
		if shown, err = w.cfg.Policies.Version(ctx, name, n); err != nil {
			return err
		}
	}
	if page.policyCard, err = w.inWords(shown); err != nil {
		page.Unread = messageOf(err)
	}
	page.Long, page.Rows = tooLong(shown.Body), rowsOf(shown.Body)
	if page.Versions, page.Older, err = w.versions(ctx, name, numbers["before"]); err != nil {
		return err
	}
	if numbers["from"] > 0 && numbers["to"] > 0 {
		if page.Compared, err = w.comparePolicies(ctx, name, numbers["from"], numbers["to"]); err != nil {
			return err
		}
	}
	waivers, err := w.cfg.Policies.Waivers(ctx, p, maxWaivers)
	if err != nil {
		return err
	}
	waivers = slices.DeleteFunc(waivers, func(one artifact.Waiver) bool {
		return !slices.ContainsFunc(page.Rules, func(r policy.RuleWords) bool { return r.Name == one.Rule })
	})
	page.Waivers, page.WaiverPages = pagedBy("waivers", waivers, waiverRows, c.Request.URL.Query())
	w.render(c, http.StatusOK, "policy", "Policy "+name, page)
	return nil
}

// versions returns a page of versions, and the query of the next.
func (w *Web) versions(ctx context.Context, name string, before int) (rows []versionRow, older string, err error) {
	all, err := w.cfg.Policies.Versions(ctx, name, before, versionRows+1)
	if err != nil {
		return nil, "", err
	}
	for i, v := range all[:min(len(all), versionRows)] {
		row := versionRow{PolicyVersion: v, First: v.Version == 1}
		if i+1 < len(all) {
			if row.Changes, err = policy.Diff([]byte(all[i+1].Body), []byte(v.Body)); err != nil {
				return nil, "", err
			}
		}
		rows = append(rows, row)
	}
	if len(all) > versionRows {
		older = "?before=" + strconv.Itoa(all[versionRows-1].Version) + "#versions"
	}
	return rows, older, nil
}

func (w *Web) comparePolicies(ctx context.Context, name string, from, to int) (_ *comparedPolicy, err error) {
	d := &comparedPolicy{}
	if d.From, err = w.cfg.Policies.Version(ctx, name, from); err != nil {
		return nil, err
	}
	if d.To, err = w.cfg.Policies.Version(ctx, name, to); err != nil {
		return nil, err
	}
	if d.Changes, err = policy.Diff([]byte(d.From.Body), []byte(d.To.Body)); err != nil {
		return nil, err
	}
	d.Lines, d.Long = diffLines(d.From.Body, d.To.Body)
	return d, nil
}

// draftPage is a policy that is edited, with what it would change.
type draftPage struct {
	form
	Text      string
	Rows      int
	Name      string // in the text, or of the page that it was edited on
	Base      int    // version that it was edited from; 0: none
	Problem   string // why it was not applied, or what is wrong with the text
	At        *textPlace
	Previewed artifact.Digest // of the text that was previewed
	Preview   *preview
	Applies   bool
}

// textPlace is where in a text something is wrong.
type textPlace struct {
	Line, Column int
	Lines        []diffLine // around it; the one with a sign is it
	Pointer      string     // white space up to the column
}

// preview is what a policy would come to.
type preview struct {
	policy.Impact
	Name         string
	Next         int            // version that it would be
	InForce      *PolicyVersion // nil: it would be a new one
	Same         bool           // it means what is in force
	Environments []environmentCount
	Changes      []policy.ImpactChange
	Pages        pages
	Earlier      int // number of the page before; 0: none
	Later        int
	Meaning      []policy.Change
	Lines        []diffLine
	Long         bool
	Took         time.Duration
}

type environmentCount struct {
	Environment string
	Denied      int
}

// firstPolicy is what a new policy begins with.
const firstPolicy = `apiVersion: waybill/v1
kind: Policy
metadata: {name: shop}
spec:
  match: {repositories: ["shop/**"]}
  rules:
    - {rule: max-severity, action: warn, with: {severity: critical, fixable: true}}
`

func (w *Web) newPolicy(c *gin.Context, p artifact.Principal) error {
	if !p.Can(artifact.ActionAudit, artifact.Repository{}) {
		return p.Refusal(artifact.ActionAudit, artifact.Repository{})
	}
	page := &draftPage{Text: firstPolicy, Applies: p.Can(artifact.ActionManage, artifact.Repository{})}
	w.showDraft(c, http.StatusOK, page)
	return nil
}

func (w *Web) showDraft(c *gin.Context, status int, page *draftPage) {
	title := "New policy"
	if page.Name != "" {
		title = "Edit policy " + page.Name
	}
	page.Rows = rowsOf(page.Text)
	w.render(c, status, "draft", title, page)
}

// tooLong reports whether a text is longer than a page has room for, as it is escaped.
func tooLong(text string) bool {
	return len(text) > maxPolicyText || len(template.HTMLEscapeString(text)) > 2*maxPolicyText
}

// rowsOf is how tall a field is for a text.
func rowsOf(text string) int { return min(max(strings.Count(text, "\n")+2, 10), 40) }

var documentName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)

// draft previews what an edited policy would change, or applies what was previewed.
func (w *Web) draft(c *gin.Context, p artifact.Principal) error {
	if !p.Can(artifact.ActionAudit, artifact.Repository{}) {
		return p.Refusal(artifact.ActionAudit, artifact.Repository{})
	}
	ctx := c.Request.Context()
	// What a browser sends of a field has CRLF for each end of a line (HTML, "form submission").
	page := &draftPage{Text: strings.ReplaceAll(c.PostForm("text"), "\r\n", "\n"), Name: c.PostForm("name"), Applies: p.Can(artifact.ActionManage, artifact.Repository{})}
	if !documentName.MatchString(page.Name) {
		page.Name = ""
	}
	page.Base, _ = strconv.Atoi(c.PostForm("base"))
	if tooLong(page.Text) {
		page.Problem, page.Text = "The text is longer than a page takes; use waybill policy impact FILE and waybill apply -f FILE.", ""
		w.showDraft(c, http.StatusRequestEntityTooLarge, page)
		return nil
	}
	parsed, err := w.cfg.Policies.Check(ctx, []byte(page.Text))
	var wrong *artifact.Error
	if errors.As(err, &wrong) && wrong.Kind != artifact.Unavailable {
		page.Problem, page.At = positioned(page.Text, wrong.Message)
		w.showDraft(c, http.StatusBadRequest, page)
		return nil
	} else if err != nil {
		return err
	}
	page.Name = parsed.Name()
	digest := artifact.DigestOf([]byte(page.Text))
	if c.PostForm("do") == "apply" {
		done, err := w.applyDraft(c, p, page, digest)
		if done || err != nil {
			return err
		}
	}
	page.Previewed = digest
	status := http.StatusOK
	if page.Problem != "" {
		status = http.StatusConflict
	}
	page.Preview, err = w.preview(c, p, page, parsed)
	if artifact.KindOf(err) == artifact.Conflict {
		page.Problem, page.Preview, status = messageOf(err), nil, http.StatusConflict
	} else if err != nil {
		return err
	}
	w.showDraft(c, status, page)
	return nil
}

// applyDraft applies a text that was previewed as it is; of another it says why not, and is not done.
func (w *Web) applyDraft(c *gin.Context, p artifact.Principal, page *draftPage, digest artifact.Digest) (done bool, err error) {
	ctx := c.Request.Context()
	if !page.Applies {
		return false, p.Refusal(artifact.ActionManage, artifact.Repository{})
	}
	if c.PostForm("previewed") != digest.String() {
		page.Problem = "It was not applied: the text is another than was previewed. This is what it would change now."
		return false, nil
	}
	current, err := w.cfg.Policies.Versions(ctx, page.Name, 0, 1)
	if err != nil {
		return false, err
	}
	if len(current) > 0 && current[0].Version != page.Base {
		page.Problem = "It was not applied: " + nameOf(current[0].AppliedBy) + " applied version " + strconv.Itoa(current[0].Version) + " meanwhile. This is what your text would change now."
		return false, nil
	}
	v, changed, err := w.cfg.Policies.Apply(ctx, p, []byte(page.Text))
	var refused *artifact.Error
	if errors.As(err, &refused) && refused.Kind == artifact.Conflict {
		page.Problem = refused.Message
		return false, nil
	} else if err != nil {
		return false, err
	}
	if !changed {
		return true, w.done(c, "/policies/"+url.PathEscape(v.Name), "Version %d of %s means the same already; nothing was changed.", v.Version, v.Name)
	}
	return true, w.done(c, "/policies/"+url.PathEscape(v.Name), "Applied version %d of %s. What is stored is judged by it within moments.", v.Version, v.Name)
}

func (w *Web) preview(c *gin.Context, p artifact.Principal, page *draftPage, parsed policy.Document) (*preview, error) {
	ctx := c.Request.Context()
	v := &preview{Name: parsed.Name(), Next: 1}
	current, err := w.cfg.Policies.Versions(ctx, v.Name, 0, 1)
	if err != nil {
		return nil, err
	}
	before := ""
	if page.Base = 0; len(current) > 0 {
		v.InForce, v.Next, before, page.Base = &current[0], current[0].Version+1, current[0].Body, current[0].Version
		v.Same = current[0].Hash == parsed.Hash()
	}
	if v.Meaning, err = policy.Diff([]byte(before), []byte(page.Text)); err != nil {
		return nil, err
	}
	if v.Lines, v.Long = diffLines(before, page.Text); v.InForce == nil {
		v.Lines = nil
	}
	begun := time.Now()
	v.Impact, err = w.cfg.Policies.Impact(artifact.TakesTime(ctx), parsed, func(r artifact.Repository) bool { return p.Can(artifact.ActionAudit, r) }, func(change *policy.ImpactChange, _ int) {
		if change != nil {
			one := *change
			one.Reasons = slices.Clone(one.Reasons[:min(len(one.Reasons), shownReasons+1)])
			v.Changes = append(v.Changes, one)
		}
	})
	if err != nil {
		return nil, err
	}
	v.Took = time.Since(begun).Round(time.Millisecond)
	slices.SortStableFunc(v.Changes, func(a, b policy.ImpactChange) int {
		return cmp.Or(cmp.Compare(len(b.Current), len(a.Current)), cmp.Compare(len(b.Promoted), len(a.Promoted)), strings.Compare(string(b.Becomes), string(a.Becomes)))
	})
	for name, n := range v.Impact.Environments {
		v.Environments = append(v.Environments, environmentCount{name, n})
	}
	order, err := w.cfg.Environments(ctx)
	if err != nil {
		return nil, err
	}
	place := func(name string) int {
		return slices.IndexFunc(order, func(e artifact.Environment) bool { return e.String() == name })
	}
	slices.SortFunc(v.Environments, func(a, b environmentCount) int {
		return cmp.Or(cmp.Compare(place(a.Environment), place(b.Environment)), strings.Compare(a.Environment, b.Environment))
	})
	v.Changes, v.Pages = paged(v.Changes, impactRows, url.Values{"page": {c.PostForm("page")}})
	if v.Pages.Before != "" {
		v.Earlier = v.Pages.Number - 1
	}
	if v.Pages.Behind != "" {
		v.Later = v.Pages.Number + 1
	}
	return v, nil
}

var position = regexp.MustCompile(`^[^:\s]+:(\d+):(\d+): *([^\n]*)`)

// positioned splits what is wrong with a text from where it is wrong, and shows the lines there.
func positioned(text, message string) (string, *textPlace) {
	parts := position.FindStringSubmatch(message)
	if parts == nil {
		return message, nil
	}
	at := &textPlace{}
	at.Line, _ = strconv.Atoi(parts[1])
	at.Column, _ = strconv.Atoi(parts[2])
	lines := strings.Split(text, "\n")
	for n := max(at.Line-3, 0); n < min(at.Line+2, len(lines)); n++ {
		shown := diffLine{New: n + 1, Text: clipped(lines[n])}
		if n+1 == at.Line {
			shown.Sign = "→"
			at.Pointer = strings.Repeat(" ", min(max(at.Column-1, 0), len([]rune(shown.Text))))
		}
		at.Lines = append(at.Lines, shown)
	}
	return parts[3], at
}

// clipped is as much of a line as anybody reads.
func clipped(line string) string {
	if runes := []rune(line); len(runes) > 300 {
		return string(runes[:300]) + "…"
	}
	return line
}
