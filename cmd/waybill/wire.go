package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"waybill/artifact"
	"waybill/auth"
	"waybill/blob"
	"waybill/builder"
	"waybill/jobs"
	"waybill/kms"
	"waybill/ledger"
	"waybill/mirror"
	"waybill/policy"
	"waybill/postgres"
	"waybill/promotion"
	"waybill/registry"
	"waybill/scanner"
	"waybill/server"
	"waybill/signer"
	"waybill/storage"
	"waybill/web"
)

// adminTokenFile is where the first admin token is kept, in the data folder.
const adminTokenFile = "admin.token"

// app is everything, put together.
type app struct {
	server        *server.Server
	jobs          *jobs.Client
	deliverer     *jobs.Deliverer
	inspector     *jobs.Inspector
	scanner       *scanner.Client
	kms           *kms.Client
	buildkit      *builder.BuildKit
	mirrors       *mirror.Service
	pulls         *storage.Pulls
	accounts      *storage.Accounts
	database      *postgres.DB
	embedded      *postgres.Embedded // nil with database.url
	newAdminToken string
	logger        *slog.Logger
}

// wire is the only place that sees every package. What it opens, close closes.
func wire(ctx context.Context, cfg Config, logger *slog.Logger) (_ *app, err error) {
	a := &app{logger: logger}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	k, files, err := a.found(ctx, cfg)
	if err != nil {
		return nil, err
	}
	db := a.database
	tokens, browsers, err := openIdentity(cfg.Identity, db, a.embedded == nil, k.issuer, logger)
	if err != nil {
		return nil, err
	}
	if a.newAdminToken, err = tokens.EnsureAdmin(ctx, filepath.Join(cfg.Data, adminTokenFile)); err != nil {
		return nil, fmt.Errorf("first admin token: %w", err)
	}
	contents := &contents{DB: db}
	scans, advisories, err := a.scanning(ctx, cfg, files, contents)
	if err != nil {
		return nil, err
	}
	vex := &laterVEX{}
	d, err := a.deciding(cfg, k, files, contents, scans, vex)
	if err != nil {
		return nil, err
	}
	judge, many, gate, promotions, trust := d.judge, d.many, d.gate, d.promotions, d.trust
	pushes := &mirrorPushes{}
	if a.mirrors, err = mirror.New(mirror.Config{Sources: cfg.sources(), Rows: db, Pushes: pushes, Logger: logger, Now: time.Now}); err != nil {
		return nil, err
	}
	rules := storage.NewRules(storage.RulesConfig{Documents: db, Usage: db, Total: cfg.Registry.Quota, Now: time.Now})
	images := registry.New(registry.Config{Bytes: files, Blobs: db, Uploads: db, Manifests: db, Judge: recordJudge{judge}, Gate: gate, Names: promotions,
		Inspector: a.inspector, Upstream: a.mirrors, Rules: rules, MutableTags: cfg.Registry.MutableTags, Logger: logger, Now: time.Now, Heard: db.Heard})
	contents.registry, pushes.Registry, scans.Busy = images, images, images.Busy
	db.OnWithdrawn(images.Withdrawn)
	care := a.keeping(cfg, files, images, promotions)
	signing := signer.NewService(k.signer, signerStore{images, db, a.embedded == nil})
	attester := &jobs.Attester{Judge: judge, Service: signing, Store: db, SBOM: sboms{images, db}.SBOM, Product: cfg.product(), Busy: images.Busy, Logger: logger}
	scans.Attest = attester.Bring
	attached, err := openAttached(cfg, k.signer, advisories, images, db, logger)
	if err != nil {
		return nil, err
	}
	vex.documents = attached.vex
	builds, runs, err := a.building(cfg, tokens.Stands, builder.Config{Store: buildStore{db}, Bases: bases{images, judge, db, cfg.mirrorNames()}, Publisher: publisher{images, db},
		Fetcher: &builder.Fetcher{Allowed: cfg.Builder.Git}, Limits: cfg.Builder.limits(), Hosts: cfg.hosts(),
		Folder: filepath.Join(cfg.Data, "tmp"), Version: version, ID: "https://waybill.dev/builder", Logger: logger, Now: time.Now})
	if err != nil {
		return nil, err
	}
	copier, err := mirror.NewCopier(mirror.CopierConfig{Targets: cfg.targets(), Promoted: db, Bytes: files, Logger: logger})
	if err != nil {
		return nil, err
	}
	if a.deliverer, err = cfg.deliverer(db, logger); err != nil {
		return nil, err
	}
	signs := &jobs.Signer{Judge: judge, Service: signing, Describe: describe(db, scans, sboms{images, db}), Described: (&jobs.Rejudger{Store: db, Judge: judge, Logger: logger}).Rescanned, Attest: attester.Attest, Busy: images.Busy, Logger: logger}
	a.jobs, err = jobs.New(ctx, jobs.Config{
		Deliverer: a.deliverer,
		Pool:      db.Pool, Alone: a.embedded != nil, Logger: logger,
		Scanner:    scans,
		Advisories: attached.puller,
		Builder:    &jobs.Builder{Build: runs.Work, Tidy: runs.Tidy, Limit: cfg.Builder.BuildKit.Timeout + time.Hour, Most: cfg.Builder.BuildKit.Builds},
		Rescanner:  &jobs.Rescanner{Scanner: scans, Store: db, Attest: func(ctx context.Context) error { return a.jobs.AttestScans(ctx) }},
		Rejudger: &jobs.Rejudger{Store: db, Judge: many, Busy: images.Busy, Logger: logger,
			Sign: unsigned(db.Unsigned, func(ctx context.Context, all []artifact.Reference) error { return a.jobs.Sign(ctx, all) })},
		Signer:     signs,
		Resigner:   &jobs.Resigner{Signer: signs, Attest: attester.Again, Store: db, Logger: logger},
		Attester:   attester,
		Backfiller: &jobs.Backfiller{Signer: signs, Attester: attester, Store: db, Logger: logger},
		Replicator: &jobs.Replicator{Copy: copier.Copy, Save: db.SaveReplication, Logger: logger},
		Housekeeper: &jobs.Housekeeper{
			Checkpoint: func(ctx context.Context) error { _, err := db.Checkpoint(ctx, k.ledger); return err },
		},
		Witnesser: cfg.witnesser(db, k.ledger, logger),
		Collector: &jobs.Collector{Collect: func(ctx context.Context) error { _, err := care.Collect(ctx, artifact.System, false); return err }},
		Keeper:    &jobs.Keeper{Run: func(ctx context.Context) error { _, err := care.Run(ctx, artifact.System.Name, false); return err }},
	})
	if err != nil {
		return nil, err
	}
	a.follow(copier, advisories)
	waiving := policy.NewWaiving(policy.WaivingConfig{Store: db, Policies: db, MaxLife: cfg.Policy.WaiverLife, Max: cfg.Policy.Waivers, Now: time.Now})
	applied, tried, attestations := trusting{documents{db, promotions}, trust}, trial{db, judge, many}, attestations{db, files, k.signer}
	api := server.NewAPI(server.APIConfig{Version: version, Authenticator: tokens, Tokens: tokens, Identities: tokens, Documents: applied, Promotions: promotions, Gate: gate,
		Content: contents, Facts: judge.Turns(a.inspector), Judge: judge, Records: records{db}, SBOMs: sboms{images, db}, Attestations: attestations, VEX: attached.vex, Replications: db, Webhooks: db, Advisories: attached.pulls, Builder: builderAPI{builds, runs, db},
		Ledger: ledgerAPI{db, k.ledger}, Keys: keysAPI{k.signer, k.ledger, db}, Collector: care, Checker: care, Retention: care, Accounts: a.accounts, Runs: db, Trial: tried,
		Waiving: waiving, Pulls: db, Exports: ledgerAPI{db, k.ledger}, Secret: k.session, MaxContext: int64(cfg.Builder.Context), Logger: logger, Now: time.Now})
	pages, err := web.New(web.Config{Store: db, Gate: gate, Authenticate: tokens.Authenticate, SignIn: browsers, End: tokens.End, Environments: promotions.Environments, Promotions: promotions, Tokens: tokens, Accounts: a.accounts, Upkeep: upkeepPages{care, db}, Advisories: attached.pulls, Facts: judge.Turns(a.inspector), Ledger: ledgerPages{ledgerAPI{db, k.ledger}},
		Policies: policyPages{applied, tried, waiving}, Builds: buildPages{runs, attestations}, SessionKey: k.session, Description: api.Description, Blob: images.Blob, ExternalURL: cfg.ExternalURL, Logger: logger})
	if err != nil {
		return nil, err
	}
	a.server = server.New(server.Config{Registry: images, Authenticator: tokens, AccessTokens: k.issuer, ExternalURL: cfg.ExternalURL, Public: cfg.Public.Repositories, Proxies: cfg.Identity.TrustedProxies, Ready: db.Ping, Writable: files.Writable, Pulled: a.pulls.Note, Limits: cfg.HTTP.limits(), Secret: k.session,
		Missing: pages.Missing, Stopping: pages.Close, Mount: []func(*gin.Engine){api.Mount, pages.Mount}, Metrics: a.metrics(), Logger: logger, Now: time.Now})
	return a, nil
}

// decisions are what decides.
type decisions struct {
	judge, many *policy.Judge
	gate        *promotion.Gate
	promotions  *promotion.Service
	trust       signer.Trust
}

// deciding makes what judges, and what promotes.
func (a *app) deciding(cfg Config, k *keys, files *blob.File, contents *contents, scans *jobs.Scanner, vex *laterVEX) (d decisions, err error) {
	if d.trust, _, err = cfg.trust(); err != nil {
		return d, err
	}
	db, others := a.database, signer.NewOthers(contents, d.trust, k.signer.PEMs)
	d.judge = policy.NewJudge(policy.JudgeConfig{Facts: a.inspector, Scans: scans, VEX: vex, Contents: contents, Policies: db, Referrers: db, Signatures: others, Holders: db, Waivers: db, Weights: db, Now: time.Now})
	d.many = d.judge.Many(postgres.Cold{DB: db}, coldContents{postgres.Cold{DB: db}, files})
	d.gate = promotion.NewGate(db)
	d.promotions = promotion.NewService(promotion.Config{Store: db, Judge: d.judge, Attestations: signer.NewAttestations(contents, k.signer), Signatures: others, Now: time.Now})
	return d, nil
}

// keeping makes what keeps the store in order: collection, checks, retention, and the accounts of what is stored.
func (a *app) keeping(cfg Config, files *blob.File, images *registry.Registry, promotions *promotion.Service) *upkeep {
	db, logger := a.database, a.logger
	collector := registry.NewCollector(registry.CollectorConfig{Files: files, Rows: db, Grace: cfg.Registry.GCGrace, Logger: logger, Now: time.Now})
	checker := registry.NewChecker(registry.CheckerConfig{Files: files, Rows: db, Logger: logger, Now: time.Now})
	a.pulls = storage.NewPulls(db, logger)
	a.accounts = storage.NewAccounts(storage.AccountsConfig{Store: db, Total: cfg.Registry.Quota, Logger: logger})
	keeper := storage.NewKeeper(storage.KeeperConfig{Store: db, Blob: images.Blob, Environments: promotions.Environments, Flush: a.pulls.Flush, Logger: logger})
	return &upkeep{collector, checker, keeper, a.accounts, &storage.Book{Store: db, Logger: logger, Now: time.Now}}
}

// follow has jobs inserted in the transactions that they follow from.
func (a *app) follow(copier *mirror.Copier, advisories *advisories) {
	db := a.database
	db.OnAttached, db.OnBuild, db.OnBuilt = a.jobs.Attached, a.jobs.Build, a.jobs.Built
	db.OnAccepted, db.OnPolicy, db.OnWaiver, db.OnPromoted = a.jobs.Accepted, a.jobs.Applied, a.jobs.Waived, replicate(copier, db, a.jobs)
	advisories.rescan, db.OnKeyRevoked = a.jobs.RescanAll, a.jobs.KeyRevoked
	if a.deliverer.WantsScans() {
		db.OnScanned = a.jobs.Scanned(a.deliverer)
	}
}

// found opens what everything stands on: the database, the keys, the bytes, the scanner.
func (a *app) found(ctx context.Context, cfg Config) (k *keys, files *blob.File, err error) {
	if err := a.open(ctx, cfg); err != nil {
		return nil, nil, err
	}
	folder := filepath.Join(cfg.Data, "keys")
	if k, err = openKeys(folder); err != nil {
		return nil, nil, err
	}
	if files, err = blob.NewFile(filepath.Join(cfg.Data, "blobs")); err != nil {
		return nil, nil, err
	}
	if a.scanner, err = openScanner(cfg, a.logger); err != nil {
		return nil, nil, err
	}
	if a.kms, err = openKMS(cfg.Signer, a.logger); err != nil {
		return nil, nil, err
	}
	if err := firstStart(ctx, a.database, k); err != nil {
		return nil, nil, err
	}
	// After the ledger, which has who put a key in force.
	k.signer, err = openSigner(ctx, cfg.Signer, folder, a.kms, a.database, a.logger)
	return k, files, err
}

// scanning makes what inspects layers and scans images.
func (a *app) scanning(ctx context.Context, cfg Config, files *blob.File, contents *contents) (*jobs.Scanner, *advisories, error) {
	db := a.database
	a.inspector = &jobs.Inspector{Layers: db, Blobs: files, Scanner: a.scanner, Logger: a.logger}
	if a.embedded == nil {
		a.inspector.Lock = layerLock(db, cfg.Scanner.Processes)
	}
	advisories := &advisories{db: db, scanner: a.scanner, folder: filepath.Join(cfg.Data, "advisories")}
	scans := &jobs.Scanner{Store: db, Inspector: a.inspector, Client: a.scanner, Config: contents.Blob, Folder: advisories.path, Logger: a.logger}
	return scans, advisories, advisories.prefer(ctx)
}

// building makes what builds, and remembers who asked.
func (a *app) building(cfg Config, stands func(context.Context, artifact.Principal) error, service builder.Config) (*builder.Service, *builder.Runs, error) {
	a.buildkit = cfg.Builder.BuildKit.open(cfg.Data, false, a.logger)
	service.Engine = a.buildkit
	contexts, err := builder.OpenFolder(filepath.Join(cfg.Data, "blobs", "contexts"))
	if err != nil {
		return nil, nil, err
	}
	builds := builder.NewService(service)
	return builds, builder.NewRuns(builder.RunsConfig{Service: builds, Ready: a.buildkit.Ready, Stands: stands, Store: runStore{a.database}, Contexts: contexts, Logger: a.logger,
		MaxLog: int64(cfg.Builder.BuildKit.Log)}), nil
}

func (a *app) metrics() *prometheus.Registry {
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		&scanMetrics{db: a.database, logger: a.logger, now: time.Now},
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "waybill_database_connections_in_use", Help: "Connections to the database that a request or a job holds."},
			func() float64 { return float64(a.database.Held()) }))
	return metrics
}

// openIdentity returns who says who somebody is, and where people sign in with a browser; nil where they do not.
func openIdentity(cfg IdentityConfig, db *postgres.DB, replicas bool, issuer *auth.Issuer, logger *slog.Logger) (*auth.Service, web.SignIn, error) {
	providers, people, err := cfg.providers()
	if err != nil {
		return nil, nil, err
	}
	config := auth.Config{Store: db, Issuer: issuer, Providers: providers, People: people, FailedLogins: cfg.FailedLogins, Logger: logger, Now: time.Now}
	if replicas {
		config.Failures = db
	}
	s := auth.NewService(config)
	if people == nil {
		return s, nil, nil
	}
	return s, struct {
		*auth.People
		*auth.Service
	}{people, s}, nil
}

// open connects to the configured database, or starts the private one.
func (a *app) open(ctx context.Context, cfg Config) (err error) {
	url, owner := cfg.Database.URL, cfg.Database.OwnerURL
	if url == "" {
		if a.embedded, err = postgres.StartEmbedded(ctx, filepath.Join(cfg.Data, "postgres"), a.logger); err != nil {
			return err
		}
		url, owner = a.embedded.ServiceURL(), a.embedded.URL()
	}
	a.database, err = postgres.Open(ctx, postgres.Config{URL: url, OwnerURL: owner, MaxConnections: cfg.Database.Connections, Timeout: cfg.Database.Timeout})
	return err
}

// run serves until ctx is done or the private database ends for good.
func (a *app) run(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if a.embedded != nil {
		go func() {
			select {
			case <-a.embedded.Done():
				cancel(a.embedded.Err())
			case <-ctx.Done():
			}
		}()
	}
	err := a.server.Run(ctx, l)
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}

// tell has webhooks told of what is decided, until what it returns is called.
func (a *app) tell(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.jobs.Tell(ctx, a.deliverer)
	}()
	return func() { cancel(); <-done }
}

// stopping is how long running jobs may go on at a stop; they are tried again at the next start.
const stopping = 10 * time.Second

// close stops what is left to stop, in order: fetches, workers, the programs that they use, what pulls are still to be written, database.
func (a *app) close() {
	ctx, cancel := context.WithTimeout(context.Background(), stopping)
	defer cancel()
	if a.mirrors != nil {
		a.mirrors.Close()
	}
	if a.jobs != nil {
		if err := a.jobs.Stop(ctx); err != nil {
			a.logger.Warn("jobs were cut short; they go on at the next start", "error", err)
		}
	}
	if a.buildkit != nil {
		a.buildkit.Close()
	}
	if a.scanner != nil {
		_ = a.scanner.Close()
	}
	if a.kms != nil {
		a.kms.Close()
	}
	if a.inspector != nil {
		a.inspector.Wait()
	}
	if a.pulls != nil {
		a.pulls.Close()
	}
	if a.accounts != nil {
		a.accounts.Close()
	}
	if a.database != nil {
		a.database.Close()
	}
	if a.embedded != nil {
		a.embedded.Stop()
	}
}

// sources are the registries to mirror.
func (cfg *Config) sources() []mirror.Source {
	var all []mirror.Source
	for _, m := range cfg.Mirrors {
		all = append(all, mirror.Source{Remote: m.remote(), TTL: m.TTL})
	}
	return all
}

// targets are the registries to copy to.
func (cfg *Config) targets() []mirror.Target {
	var all []mirror.Target
	for _, r := range cfg.Replication {
		t := mirror.Target{Remote: r.remote(), Repositories: r.Repositories, Prefix: r.Prefix}
		for _, name := range r.Environments {
			if e, err := artifact.ParseEnvironment(name); err == nil { // as loadConfig checked
				t.Environments = append(t.Environments, e)
			}
		}
		all = append(all, t)
	}
	return all
}

// keys are all that the service holds of secrets; each is made once.
type keys struct {
	signer  *signer.Keys // nil until the database is there
	ledger  *ledger.Signer
	issuer  *auth.Issuer
	session []byte
}

func openKeys(folder string) (*keys, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	var (
		k   keys
		err error
	)
	if k.ledger, err = ledger.OpenSigner(filepath.Join(folder, "ledger.key")); err != nil {
		return nil, err
	}
	if k.issuer, err = auth.NewIssuer(filepath.Join(folder, "access-token.key"), "waybill"); err != nil {
		return nil, err
	}
	k.session, err = sessionKey(filepath.Join(folder, "session.key"))
	return &k, err
}

func sessionKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if err == nil && len(key) == 32 {
		return key, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("session key: %w", err)
	}
	key = make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	return key, auth.WriteSecret(path, key)
}

func openScanner(cfg Config, logger *slog.Logger) (*scanner.Client, error) {
	program, err := scanner.Find(cfg.Scanner.Program)
	if err != nil {
		return nil, err
	}
	temp := filepath.Join(cfg.Data, "tmp")
	if err := os.MkdirAll(temp, 0o711); err != nil {
		return nil, err
	}
	scanner.CleanFolders(temp)
	builder.CleanFolders(temp)
	if os.Getuid() == 0 && !postgres.Reachable(temp) {
		temp = os.TempDir() // the scanner runs as another user, who must reach it
	}
	return scanner.New(scanner.Config{Program: program, Version: version, Folder: temp, Processes: cfg.Scanner.Processes, Memory: cfg.Scanner.Memory << 20,
		Timeout: cfg.Scanner.Timeout, Layers: cfg.Layers.limits(), Logger: logger}), nil
}

// firstStart puts the default policy and pipeline in force where there are none, and ties the ledger to its key.
func firstStart(ctx context.Context, db *postgres.DB, k *keys) error {
	if err := db.CreateLedger(ctx, k.ledger.PublicKey()); err != nil {
		return fmt.Errorf("create ledger: %w", err)
	}
	current, err := db.CurrentDocuments(ctx, "")
	if err != nil || len(current) > 0 {
		return err
	}
	policies, err := policy.Parse("baseline", policy.Baseline())
	if err != nil {
		return err
	}
	if _, _, err := db.ApplyDocument(ctx, "Policy", policies[0].Name(), policies[0].Hash(), string(policy.Baseline()), artifact.System.Name); err != nil {
		return err
	}
	pipelines, err := promotion.Parse("default", promotion.Default())
	if err != nil {
		return err
	}
	_, _, err = db.ApplyDocument(ctx, "Pipeline", pipelines[0].Name(), pipelines[0].Hash(), string(promotion.Default()), artifact.System.Name)
	return err
}

// attached is what scans take from registries: advisories, and what is said of findings.
type attached struct {
	pulls  *advisoryPulls
	puller *jobs.AdvisoryPuller // nil without a source
	vex    *vexDocuments
}

func openAttached(cfg Config, own *signer.Keys, advisories *advisories, images *registry.Registry, db *postgres.DB, logger *slog.Logger) (a attached, err error) {
	if a.pulls, err = newAdvisoryPulls(advisories, cfg.Advisories, images, db, logger); err != nil {
		return a, err
	}
	if cfg.Advisories.Source != "" || cfg.Advisories.Java != "" {
		a.puller = &jobs.AdvisoryPuller{Pull: a.pulls.Scheduled, Interval: cfg.Advisories.Interval}
	}
	a.vex, err = newVEXDocuments(cfg.VEX, own, images, db, logger)
	return a, err
}
