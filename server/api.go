package server

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"
	"github.com/gin-gonic/gin"

	"waybill/artifact"
	"waybill/auth"
	"waybill/policy"
	"waybill/promotion"
	"waybill/registry"
	"waybill/storage"
)

// apiRoot is where the REST API lives; openAPIPath is its description, without the extension.
const (
	apiRoot     = "/api/v1"
	openAPIPath = apiRoot + "/openapi"
)

// Bounds of what the API reads. Manifests and layers have their own, on /v2.
const (
	maxJSON     = 1 << 20 // bytes of a JSON or YAML body
	maxArchive  = 2 << 30 // bytes of an advisory database archive
	maxPageSize = 1000    // ledger entries in one answer
)

// APIConfig names everything the API calls. Each interface is what this package needs of it and no more; package
// cmd/waybill wires the real ones in.
type APIConfig struct {
	Version string // of the program, for GET /version

	Authenticator Authenticator // the same that guards /v2
	Tokens        Tokens
	Identities    Identities
	Documents     Documents
	Promotions    Promotions
	Gate          PullGate
	Content       Content
	Facts         policy.Facts
	Judge         VerdictJudge
	Records       Records
	SBOMs         SBOMs
	Attestations  Attestations
	VEX           VEX
	Replications  Replications
	Webhooks      Webhooks
	Advisories    Advisories
	MaxContext    int64 // bytes of a build context; 0: 4 GiB
	Builder       Builder
	Ledger        Ledger
	Keys          Keys
	Collector     Collector
	Checker       Checker
	Retention     Retention
	Accounts      Accounts
	Runs          Runs
	Trial         Trial
	Waiving       Waiving
	Pulls         Pulls
	Exports       Exports
	Secret        []byte // as that of Config

	Logger *slog.Logger     // nil: slog.Default
	Now    func() time.Time // nil: time.Now
}

// Promotions are the use cases of package promotion.
type Promotions interface {
	Promote(ctx context.Context, p artifact.Principal, r promotion.Request) (promotion.Result, error)
	RollbackTo(ctx context.Context, p artifact.Principal, r promotion.Request) (promotion.Result, error)
	Copies(ctx context.Context, p artifact.Principal, r artifact.Repository, d artifact.Digest) (recalls, others []artifact.Repository, err error)
	Recall(ctx context.Context, p artifact.Principal, r artifact.Repository, d artifact.Digest, reason, advisory string) error
	CreateRelease(ctx context.Context, p artifact.Principal, name, reason string, versions []promotion.Request) (artifact.Release, error)
	Release(ctx context.Context, p artifact.Principal, name string) (artifact.Release, error)
	// Releases returns n releases of which p sees all, newest first, behind one; behind last there may be more.
	Releases(ctx context.Context, p artifact.Principal, after artifact.Release, n int) (all []artifact.Release, last artifact.Release, more bool, err error)
	PromoteRelease(ctx context.Context, p artifact.Principal, name string, r promotion.Request) ([]promotion.Result, error)
	Retire(ctx context.Context, p artifact.Principal, e artifact.Environment, reason string) (int, error)
	Approve(ctx context.Context, p artifact.Principal, r promotion.Request) (artifact.Approval, error)
	RevokeApproval(ctx context.Context, p artifact.Principal, id int64) (artifact.Approval, error)
	Waiting(ctx context.Context, sees func(artifact.Repository) bool) ([]promotion.Waiting, error)
	ResolveService(ctx context.Context, name string) (artifact.Repository, error)
	Pipeline(ctx context.Context, r artifact.Repository) (promotion.Pipeline, error)
}

// PullGate is the pull decision (promotion.Gate), which also says what a deployer may know of.
type PullGate interface {
	Pull(ctx context.Context, p artifact.Principal, r artifact.Repository, d artifact.Digest) error
	Filter(ctx context.Context, p artifact.Principal, r artifact.Repository, all []artifact.Digest) (map[artifact.Digest]bool, error)
	Repositories(ctx context.Context, p artifact.Principal, all []artifact.Repository) ([]artifact.Repository, error)
}

// Content reads what lies in the registry, without asking who may: every use here is behind API.look.
type Content interface {
	policy.Contents
	// ResolveTag returns the digest of a tag, or a NotFound error.
	ResolveTag(ctx context.Context, r artifact.Repository, t artifact.Tag) (artifact.Digest, error)
	// DigestsByPrefix returns the manifests of a repository whose hexadecimal digits begin so, the first few.
	DigestsByPrefix(ctx context.Context, r artifact.Repository, hex string) ([]artifact.Digest, error)
	// Repositories returns every repository's name, sorted.
	Repositories(ctx context.Context) ([]artifact.Repository, error)
	// TagsOf returns the tags that stand at a digest, sorted.
	TagsOf(ctx context.Context, r artifact.Repository, d artifact.Digest) ([]artifact.Tag, error)
}

// VerdictJudge judges what is stored, now (policy.Judge).
type VerdictJudge interface {
	JudgeStored(ctx context.Context, r artifact.Repository, d artifact.Digest) (policy.Verdict, error)
}

// Records are the rows that were written about a digest.
type Records interface {
	// RefusedVerdict returns the newest stored verdict that the reference, a tag or digest as the pusher spelled it,
	// got in a repository; NotFound when there is none. It answers for pushes that left no manifest.
	RefusedVerdict(ctx context.Context, r artifact.Repository, reference string) (artifact.VerdictRecord, error)
	// DeniedPush returns what is known of a digest that a repository refused and does not have, or a NotFound error; DeniedTag
	// the digest that was pushed last with a tag and refused.
	DeniedPush(ctx context.Context, r artifact.Repository, d artifact.Digest) (artifact.DeniedPush, error)
	DeniedTag(ctx context.Context, r artifact.Repository, t artifact.Tag) (digest artifact.Digest, ok bool, err error)
	// DeniedByPrefix returns those of which hexadecimal digits begin so, the first few.
	DeniedByPrefix(ctx context.Context, r artifact.Repository, hex string) ([]artifact.Digest, error)
	// Recalled returns who recalled a digest, and why; ok is false when nobody did.
	Recalled(ctx context.Context, r artifact.Repository, d artifact.Digest) (actor, reason string, ok bool, err error)
	// Scan returns the newest scan of an image; of one never scanned, a pending one.
	Scan(ctx context.Context, d artifact.Digest) (artifact.Scan, error)
	// Signatures returns what the service signed about a digest.
	Signatures(ctx context.Context, r artifact.Repository, d artifact.Digest) ([]SignatureRecord, error)
	// Status returns every cell of the board as it is now.
	Status(ctx context.Context) ([]artifact.Status, error)
	// Withdrawn returns the environments that ran nothing at an instant because what they had run was recalled.
	Withdrawn(ctx context.Context, at time.Time) ([]artifact.Withdrawn, error)
	// History returns the promotions, rollbacks and recalls of a repository (the zero one: of all) in the order in
	// which they happened.
	History(ctx context.Context, r artifact.Repository) ([]artifact.Promotion, error)
	// TurnedBad returns what is known of a promoted digest that the policies of now deny; ok is false when none does.
	TurnedBad(ctx context.Context, r artifact.Repository, d artifact.Digest) (t artifact.TurnedBad, ok bool, err error)
	// Affected returns the images that have the finding of an id: those of the next n digests after one, in their order,
	// and the last of these; zero when there are no more.
	Affected(ctx context.Context, id string, after artifact.Digest, n int) (all []artifact.Affected, last artifact.Digest, err error)
	// TagHistory returns what a tag stood at, the oldest first.
	TagHistory(ctx context.Context, r artifact.Repository, t artifact.Tag) ([]artifact.TagChange, error)
}

// SignatureRecord is one thing the service signed. Predicate is empty for the cosign signature.
type SignatureRecord struct {
	Predicate  string          `json:"predicate,omitempty"`
	KeyID      string          `json:"keyID"`
	PolicyHash artifact.Digest `json:"policyHash"`
	SignedAt   time.Time       `json:"signedAt"`
	Manifest   artifact.Digest `json:"manifest"`
	Name       string          `json:"name,omitempty" doc:"Of a verification summary the environment"`
}

// Tokens are the use cases of package auth (auth.Service).
type Tokens interface {
	Create(ctx context.Context, actor artifact.Principal, g auth.Grant) (secret string, t auth.Token, err error)
	List(ctx context.Context) ([]auth.Token, error)
	Revoke(ctx context.Context, actor artifact.Principal, id string) error
}

// Documents stores policies, pipelines and rules for repositories by version.
type Documents interface {
	// Fit refuses documents that cannot be in force together, or with the others that are.
	Fit(ctx context.Context, all []ParsedDocument) error
	Apply(ctx context.Context, actor artifact.Principal, d ParsedDocument) (Applied, error)
	Current(ctx context.Context) ([]Document, error)
	// DocumentVersions returns the versions of a document, newest first, at most n of those before one (0: any).
	DocumentVersions(ctx context.Context, kind, name string, before, n int) ([]Document, error)
	// DocumentVersion returns one version of a document, or a NotFound error.
	DocumentVersion(ctx context.Context, kind, name string, version int) (Document, error)
}

// Advisories holds the advisory database that scans match with.
type Advisories interface {
	// Import reads an archive of one of Trivy's databases to its end, checks it and puts it in use.
	Import(ctx context.Context, actor artifact.Principal, archive io.Reader) error
	// Pull brings the database that a source names (empty: the configured one) into use, and records how that went.
	Pull(ctx context.Context, actor artifact.Principal, source string) (artifact.AdvisoryDatabase, error)
	// LastPull returns the newest attempt; false when there was none.
	LastPull(ctx context.Context) (artifact.AdvisoryPull, bool, error)
	// Source is where it is pulled from by itself, if anywhere, and MaxAge how old it should be at most.
	Source() string
	MaxAge() time.Duration
	// Interval is how often both are pulled by themselves, and Key the id of the key that must have signed them; empty: none.
	Interval() time.Duration
	Key() string
	// NextPull is when it is pulled by itself next, at the latest; the zero time when it is not.
	NextPull(ctx context.Context) (time.Time, error)
	// Matched counts images by how far they are with the database in use.
	Matched(ctx context.Context) (artifact.ScanCoverage, error)
	// AdvisoryDatabases and JavaDatabases return the newest that were in use, the newest first, at most n.
	AdvisoryDatabases(ctx context.Context, n int) ([]artifact.AdvisoryDatabase, error)
	JavaDatabases(ctx context.Context, n int) ([]artifact.AdvisoryDatabase, error)
	// AdvisoryDatabase returns the one in use; false when there is none.
	AdvisoryDatabase(ctx context.Context) (artifact.AdvisoryDatabase, bool, error)

	// JavaDatabase, JavaSource and LastJavaPull are the same of the Java database.
	JavaDatabase(ctx context.Context) (artifact.AdvisoryDatabase, bool, error)
	JavaSource() string
	LastJavaPull(ctx context.Context) (artifact.AdvisoryPull, bool, error)
}

// Builder is the build use case of package builder.
type Builder interface {
	// Build reads the context to its end, builds it unless its inputs were built before, and publishes the image. Lines
	// for people go to log as they come.
	Build(ctx context.Context, p artifact.Principal, r BuildRequest, log BuildLog) (Built, error)
	// Run returns one request for a build, or a NotFound error; Runs some, newest first.
	Run(ctx context.Context, id string) (artifact.Build, error)
	Runs(ctx context.Context, f artifact.BuildFilter) ([]artifact.Build, error)
	// Follow tells what a build says behind a piece of its log, until it has ended.
	Follow(ctx context.Context, id string, after int64, tell func(seq int64, e BuildEvent)) (artifact.Build, error)
	// Cancel ends a build that has not ended; Conflict when it has.
	Cancel(ctx context.Context, id, by string) error
	// BuiltOn returns what images were built on: the next n behind one, in their order. BasesOf is that of one image.
	BuiltOn(ctx context.Context, after artifact.BuiltOn, n int) ([]artifact.BuiltOn, error)
	BasesOf(ctx context.Context, r artifact.Repository, d artifact.Digest) ([]artifact.BuiltOn, error)
}

// BuildLog is where a build's caller hears of it.
type BuildLog interface {
	io.Writer                     // of lines
	Begun(id string, joined bool) // before anything else; joined: others asked for the same first
	Report(event any)             // of BuildKit: a SolveStatus of its client
}

// BuildRequest asks for a build. Context is the build context as a tar stream, bounded and from a client: hostile.
type BuildRequest struct {
	Repository artifact.Repository
	Tags       []artifact.Tag
	Dockerfile string // path in the context; empty: Dockerfile
	Args       map[string]string
	Target     string // stage; empty: the last
	Platform   string // os/arch[/variant], several with commas; empty: linux/amd64
	Labels     map[string]string
	Git        string // where to fetch the context from; empty: it is sent
	Check      bool   // build again, compare, and publish nothing
	SourceURI  string // for the provenance, as the client says
	Commit     string
	Tree       string
	Context    io.Reader
	Secrets    map[string][]byte // by id; neither stored nor logged
}

// Ledger reads the append-only log.
type Ledger interface {
	// Entries returns up to limit entries from an index on.
	Entries(ctx context.Context, from int64, limit int) ([]LedgerEntry, error)
	// FindEntries returns entries as lists show them, newest first.
	FindEntries(ctx context.Context, f artifact.LedgerFilter) ([]artifact.LedgerLine, error)
	// Checkpoint signs (or returns) a checkpoint of the whole log as it is now.
	Checkpoint(ctx context.Context) (LedgerCheckpoint, error)
	// Witnessed returns the newest checkpoint that witnesses have cosigned; NotFound when there is none.
	Witnessed(ctx context.Context) (LedgerCheckpoint, error)
	// Proof returns the inclusion proof of an entry in the tree of a size: RFC 6962, section 2.1.1.
	Proof(ctx context.Context, index, size int64) ([][]byte, error)
	// Consistency returns the proof that the tree of newer entries extends that of older: RFC 6962, section 2.1.2.
	Consistency(ctx context.Context, older, newer int64) ([][]byte, error)
	// Tile returns what C2SP tlog-tiles has at a path, tile/…: bytes that never change. NotFound of a path that is no
	// tile's, and until the log has all of it.
	Tile(ctx context.Context, path string) ([]byte, error)
	// Audit recomputes the tree from the rows and names those that do not fit.
	Audit(ctx context.Context) (LedgerReport, error)
}

// Collector removes what nothing needs (registry.Collector).
type Collector interface {
	Collect(ctx context.Context, p artifact.Principal, dryRun bool) (registry.Collected, error)
}

// Checker reads every blob (registry.Checker).
type Checker interface {
	Check(ctx context.Context, p artifact.Principal, quarantine bool, report registry.CheckReport) (registry.Checked, error)
}

// Retention removes what nobody needs (storage.Keeper).
type Retention interface {
	Run(ctx context.Context, actor string, dryRun bool) (storage.Report, error)
}

// API is the REST API. Mount puts it on an engine; it holds no state of its own.
type API struct {
	cfg         APIConfig
	huma        huma.API
	cursors     cursors
	description func() ([]byte, error) // made once
}

// NewAPI returns the API over what the config names.
func NewAPI(cfg APIConfig) *API {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &API{cfg: cfg, cursors: newCursors(cfg.Secret)}
}

// Mount adds every route to the engine. The whole table is here; what each asks of the caller stands beside it.
func (a *API) Mount(engine *gin.Engine) {
	a.huma = humagin.New(engine, a.humaConfig())

	register(a, public, get("version", "/version", "Version of the program", "Service"), a.version)
	register(a, public, get("keys", "/keys", "Public keys of signatures and of the ledger", "Service"), a.keys)
	a.mountKeys()

	a.mountTokens()

	a.mountDocuments()
	a.mountPolicies()

	register(a, needs(artifact.ActionManage), takesTime(body(post("import-advisories", "/advisories", "Import a Trivy database archive", "Advisories"), "application/octet-stream")), a.importAdvisories)
	register(a, needs(artifact.ActionManage), takesTime(post("pull-advisories", "/advisories/pulls", "Pull the advisory database from a registry", "Advisories")), a.pullAdvisories)
	register(a, needs(artifact.ActionLook), get("advisories", "/advisories", "The advisory database in use, its age, and how many images were matched with it", "Advisories"), a.advisories)
	register(a, needs(artifact.ActionLook), get("advisory-history", "/advisories/history", "The databases that were in force: when each was built and imported, and by whom", "Advisories"), a.advisoryHistory)

	register(a, looks, get("list-repositories", "/repositories", "Repositories that the caller may see", "Images"), a.repositories)
	register(a, looks, get("inspect", "/inspect", "What the bytes of an image say", "Images"), a.inspect)
	register(a, looks, get("verdict", "/verdict", "Whether a digest is allowed, and every reason", "Images"), a.verdict)
	register(a, looks, get("scan", "/scan", "Findings and packages of an image", "Images"), a.scan)
	register(a, looks, get("compare", "/compare", "What two digests differ in: packages, findings, config, files and size", "Images"), a.compare)
	register(a, looks, get("sbom", "/sbom", "What is in an image, as CycloneDX or SPDX", "Images"), a.sbom)
	register(a, looks, get("attestations", "/attestations", "What is signed about a digest, and by whom", "Images"), a.attestations)
	register(a, looks, get("provenance", "/provenance", "How a digest was built", "Images"), a.provenance)
	register(a, looks, get("cve", "/cves/{id}", "Which images have a vulnerability, where they run, and since when", "Images"), a.cve)
	register(a, looks, get("show", "/show", "The whole story of a digest", "Images"), a.show)
	register(a, looks, get("verify", "/verify", "A bundle that proves signature and promotion offline", "Images"), a.verify)

	register(a, needs(artifact.ActionPromote), post("promote", "/promotions", "Promote a version to an environment", "Promotion"), a.promote)
	register(a, needs(artifact.ActionPromote), post("roll-back", "/rollbacks", "Make an environment's previous digest its current one", "Promotion"), a.rollback)
	register(a, needs(artifact.ActionPromote), post("recall", "/recalls", "Take a digest out of every environment at once", "Promotion"), a.recall)
	register(a, needs(artifact.ActionApprove), post("approve", "/approvals", "Approve that a version goes to an environment", "Promotion"), a.approve)
	register(a, needs(artifact.ActionLook), get("list-approvals", "/approvals", "What waits for approvals", "Promotion"), a.approvals)
	register(a, needs(artifact.ActionApprove), remove("revoke-approval", "/approvals/{approval}", "Revoke an approval", "Promotion"), a.revokeApproval)
	register(a, needs(artifact.ActionManage), post("retire-environment", "/environments/retire", "Let go of whatever an environment that no pipeline names may pull", "Promotion"), a.retire)
	register(a, needs(artifact.ActionPromote), post("create-release", "/releases", "Put versions of services together, to be promoted as one", "Promotion"), a.createRelease)
	register(a, needs(artifact.ActionLook), get("list-releases", "/releases", "Releases, newest first", "Promotion"), a.releases)
	register(a, needs(artifact.ActionLook), get("get-release", "/releases/{release}", "What is in a release", "Promotion"), a.release)
	register(a, needs(artifact.ActionPromote), post("promote-release", "/releases/{release}/promotions", "Promote all of a release to an environment, or nothing", "Promotion"), a.promoteRelease)
	register(a, audits, get("webhook-deliveries", "/webhooks/deliveries", "Messages to webhooks, newest first", "Service"), a.deliveries)
	register(a, looks, get("status", "/status", "What runs where, now or at a time", "Promotion"), a.status)
	register(a, looks, get("history", "/history", "Promotions, rollbacks and recalls of a service", "Promotion"), a.history)

	register(a, needs(artifact.ActionAudit), takesTime(archive(get("export", "/export", "Everything about a digest or a period, as one signed archive", "Ledger"))), a.export)
	register(a, needs(artifact.ActionAudit), get("pulls", "/pulls", "Who pulled what on which day", "Ledger"), a.pulls)
	register(a, needs(artifact.ActionAudit), table(get("pulls-table", "/pulls.csv", "Who pulled what on which day, all of it, as a table", "Ledger")), a.pullsTable)
	register(a, needs(artifact.ActionLook), get("replications", "/replications", "How far the copies to other registries are", "Promotion"), a.replications)
	register(a, needs(artifact.ActionLook), get("tag-history", "/tags/history", "What a tag stood at, and who moved it", "Images"), a.tagHistory)

	a.mountLedger(engine)
	a.mountStorage()
	a.mountBuilds()

	a.mountDescription(engine)
}

func (a *API) mountDocuments() {
	register(a, needs(artifact.ActionManage), body(post("apply-documents", "/documents", "Apply policies, pipelines and rules for repositories: all are checked before any is applied", "Documents"), "application/yaml"), a.applyDocuments)
	register(a, needs(artifact.ActionLook), get("list-documents", "/documents", "Policies, pipelines and rules for repositories in force", "Documents"), a.listDocuments)
	register(a, needs(artifact.ActionLook), get("get-document", "/documents/{kind}/{name}", "One document, the version in force or another", "Documents"), a.getDocument)
	register(a, needs(artifact.ActionLook), get("document-history", "/documents/{kind}/{name}/history", "The versions of a document: who applied each, when, and what it changed", "Documents"), a.documentHistory)
}

func (a *API) mountLedger(engine *gin.Engine) {
	register(a, audits, get("ledger-entries", "/ledger/entries", "Entries of the ledger, in order", "Ledger"), a.ledgerEntries)
	register(a, audits, get("ledger-search", "/ledger/search", "Entries of the ledger by who, what and when, newest first", "Ledger"), a.findEntries)
	register(a, audits, table(get("ledger-search-table", "/ledger/search.csv", "Entries of the ledger by who, what and when, all of them, as a table", "Ledger")), a.findEntriesTable)
	register(a, audits, get("ledger-checkpoint", "/ledger/checkpoint", "A signed checkpoint of the ledger", "Ledger"), a.ledgerCheckpoint)
	register(a, audits, get("ledger-proof", "/ledger/proof", "The inclusion proof of an entry", "Ledger"), a.ledgerProof)
	register(a, audits, get("ledger-consistency", "/ledger/consistency", "The proof that the ledger extends what it was at a size", "Ledger"), a.ledgerConsistency)
	engine.GET(tileRoot+"/checkpoint", a.plain(audits, a.tileCheckpoint))
	engine.GET(tileRoot+"/witnessed", a.plain(audits, a.tileWitnessed))
	engine.GET(tileRoot+"/tile/*path", a.plain(audits, a.tile))
	register(a, audits, takesTime(get("audit", "/audit", "Recompute the ledger and name rows that do not fit", "Ledger")), a.audit)
}

func (a *API) mountPolicies() {
	register(a, needs(artifact.ActionLook), get("list-policies", "/policies", "Policies in force: what each rule asks, in words, and of what", "Policies"), a.listPolicies)
	register(a, needs(artifact.ActionLook), takesTime(body(post("test-policy", "/policies/test", "Judge stored images under policies that are not in force", "Policies"), "application/yaml")), a.testPolicy)
	register(a, needs(artifact.ActionAudit), takesTime(streams(body(post("policy-impact", "/policies/impact", "Which images and environments policies would change the verdict of, and why", "Policies"), "application/yaml"), "ImpactEvent")), a.impact)
	register(a, needs(artifact.ActionApprove), post("create-waiver", "/waivers", "Waive a rule, for a digest or a pattern of repositories, for a while", "Policies"), a.createWaiver)
	register(a, needs(artifact.ActionLook), get("list-waivers", "/waivers", "Waivers in force, and those that ended", "Policies"), a.waivers)
	register(a, needs(artifact.ActionApprove), remove("revoke-waiver", "/waivers/{waiver}", "End a waiver at once", "Policies"), a.revokeWaiver)
}

func (a *API) mountTokens() {
	register(a, public, get("sign-in", "/identity", "How people and workloads sign in here", "Tokens"), a.signIn)
	register(a, public, post("exchange-token", "/token/exchange", "Exchange a token of a trusted OpenID provider for a token of this server", "Tokens"), a.exchange)
	register(a, needs(artifact.ActionManage), post("create-token", "/tokens", "Make a token; it is shown this once", "Tokens"), a.createToken)
	register(a, needs(artifact.ActionManage), get("list-tokens", "/tokens", "Tokens, without their secrets", "Tokens"), a.listTokens)
	register(a, needs(artifact.ActionManage), remove("revoke-token", "/tokens/{id}", "Revoke a token at once", "Tokens"), a.revokeToken)
}

func (a *API) mountStorage() {
	register(a, needs(artifact.ActionLook), get("storage", "/storage", "What repositories hold, alone and together with others, and their quotas", "Storage"), a.storage)
	register(a, needs(artifact.ActionManage), get("storage-runs", "/storage/runs", "What garbage collections, checks and runs of retention came to, newest first", "Storage"), a.storageRuns)
	register(a, needs(artifact.ActionManage), takesTime(post("collect-garbage", "/gc", "Remove what nothing needs, or say what that is", "Storage")), a.collectGarbage)
	register(a, needs(artifact.ActionManage), takesTime(streams(post("check-blobs", "/fsck", "Read every blob; answers progress and findings and then the result", "Storage"), "CheckEvent")), a.checkBlobs)
	register(a, needs(artifact.ActionManage), takesTime(post("retention", "/retention", "Remove what no rule keeps, or say what that is, and why the rest stays", "Storage")), a.retention)
}

func (a *API) mountBuilds() {
	register(a, needs(artifact.ActionBuild), takesTime(streams(body(post("build", "/builds", "Build a context once; answers log lines and then the result", "Builds"), "application/x-tar"), "BuildEvent")), a.build)
	register(a, needs(artifact.ActionLook), get("list-builds", "/builds", "Builds, newest first", "Builds"), a.builds)
	register(a, needs(artifact.ActionLook), get("get-build", "/builds/{build}", "How far a build is", "Builds"), a.buildRun)
	register(a, needs(artifact.ActionLook), eventStream(get("follow-build", "/builds/{build}/log", "What a build says, until it has ended", "Builds")), a.buildLog)
	register(a, needs(artifact.ActionBuild), post("cancel-build", "/builds/{build}/cancel", "End a build", "Builds"), a.cancelBuild)
	register(a, needs(artifact.ActionLook), get("bases", "/bases", "What images were built on, and what is wrong with that by now", "Builds"), a.bases)
}

// humaConfig is huma's default without what reaches out of the process: its documentation pages load scripts from
// elsewhere, and its hooks write links to a server name that it guesses.
func (a *API) humaConfig() huma.Config {
	cfg := huma.DefaultConfig("Waybill", a.cfg.Version)
	cfg.Info.Description = "Build once, check, scan, sign and promote container images by digest."
	cfg.OpenAPIPath, cfg.DocsPath, cfg.SchemasPath = "", "", ""
	cfg.CreateHooks = nil
	cfg.RejectUnknownQueryParameters = true
	cfg.Transformers = []huma.Transformer{a.finish}
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token": {Type: "http", Scheme: "bearer", Description: "A Waybill token: wbt_…"},
		"basic": {Type: "http", Scheme: "basic", Description: "Any user name, and the token as password"},
	}
	return cfg
}

// mountDescription serves the OpenAPI document, which is complete only once every route is registered. It is made
// when first asked for: a start should not wait for it.
func (a *API) mountDescription(engine *gin.Engine) {
	delete(a.huma.OpenAPI().Components.Schemas.Map(), "ErrorModel")
	serve := func(contentType string, make func() ([]byte, error)) gin.HandlerFunc {
		once := sync.OnceValues(make)
		return func(c *gin.Context) {
			b, err := once()
			if err != nil {
				a.cfg.Logger.ErrorContext(c.Request.Context(), "OpenAPI document", "error", err)
				c.Status(http.StatusInternalServerError)
				return
			}
			c.Data(http.StatusOK, contentType, b)
		}
	}
	a.description = sync.OnceValues(func() ([]byte, error) { return json.Marshal(a.huma.OpenAPI()) })
	engine.GET(openAPIPath+".json", serve("application/openapi+json", a.description))
	engine.GET(openAPIPath+".yaml", serve("application/openapi+yaml", a.huma.OpenAPI().YAML))
}

// Description returns the OpenAPI document as it is served, in JSON, once the API is mounted.
func (a *API) Description() ([]byte, error) { return a.description() }
