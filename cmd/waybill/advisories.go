package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	gcr "github.com/google/go-containerregistry/pkg/v1"

	"waybill/artifact"
	"waybill/mirror"
	"waybill/postgres"
	"waybill/registry"
	"waybill/signer"
)

// advisoryLayer is the media type of the one layer that trivy-db is published as, and javaLayer that of trivy-java-db.
const (
	advisoryLayer = "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip"
	javaLayer     = "application/vnd.aquasec.trivy.javadb.layer.v1.tar+gzip"
)

// advisoryPulls bring the advisory database from a registry: another, or this one, where there is no way out.
type advisoryPulls struct {
	*advisories
	cfg      AdvisoriesConfig
	verifier *signer.Verifier // nil: signatures are not asked for
	images   *registry.Registry
	db       *postgres.DB
	logger   *slog.Logger

	counting  sync.Mutex
	counted   artifact.ScanCoverage
	countedAt time.Time
	countTook time.Duration
}

func newAdvisoryPulls(a *advisories, cfg AdvisoriesConfig, images *registry.Registry, db *postgres.DB, logger *slog.Logger) (*advisoryPulls, error) {
	p := &advisoryPulls{advisories: a, cfg: cfg, images: images, db: db, logger: logger}
	if cfg.Key != "" {
		pem, err := os.ReadFile(cfg.Key)
		if err != nil {
			return nil, fmt.Errorf("advisories.key: %w", err)
		}
		if p.verifier, err = signer.NewVerifier(pem); err != nil {
			return nil, fmt.Errorf("advisories.key %s: %w", cfg.Key, err)
		}
	}
	return p, nil
}

// imageSource is a registry that a database can be pulled from.
type imageSource interface {
	Image(ctx context.Context, repository, reference string) (gcr.Image, artifact.Digest, error)
}

// pullTime bounds one pull.
const pullTime = 10 * time.Minute

// Pull brings the database that source names (empty: the configured ones) into use, unless it is in use already, and
// records how that went.
func (p *advisoryPulls) Pull(ctx context.Context, actor artifact.Principal, source string) (d artifact.AdvisoryDatabase, err error) {
	switch {
	case source != "":
		return p.pullOne(ctx, actor, source)
	case p.cfg.Source == "" && p.cfg.Java == "":
		return d, artifact.Errorf(artifact.Invalid, "no source is given, and the server's configuration has none (advisories.source, advisories.java); name one, such as ghcr.io/aquasecurity/trivy-db:2")
	}
	var errs [2]error
	if p.cfg.Java != "" {
		_, errs[0] = p.pullOne(ctx, actor, p.cfg.Java)
	}
	if p.cfg.Source != "" {
		d, errs[1] = p.pullOne(ctx, actor, p.cfg.Source)
	}
	return d, errors.Join(errs[:]...)
}

func (p *advisoryPulls) pullOne(ctx context.Context, actor artifact.Principal, source string) (artifact.AdvisoryDatabase, error) {
	timed, cancel := context.WithTimeout(ctx, pullTime)
	defer cancel()
	java := source == p.cfg.Java
	d, err := p.pull(timed, actor, source, &java)
	attempt := artifact.AdvisoryPull{Source: source, At: time.Now().UTC(), Actor: actor.Name}
	if err != nil {
		attempt.Problem = err.Error()
		p.logger.WarnContext(ctx, "the advisory database is not pulled", "source", source, "error", err)
	}
	save := p.db.SaveAdvisoryPull
	if java {
		save = p.db.SaveJavaPull
	}
	return d, errors.Join(err, save(context.WithoutCancel(ctx), attempt))
}

// Scheduled is a pull of each as the job does it; it warns of an advisory database that has grown old.
func (p *advisoryPulls) Scheduled(ctx context.Context) error {
	_, err := p.Pull(ctx, artifact.System, "")
	if d, have, dbErr := p.db.AdvisoryDatabase(ctx); dbErr == nil && have {
		if age := time.Since(d.UpdatedAt); age > p.cfg.MaxAge {
			p.logger.WarnContext(ctx, "the advisory database is old; scans do not know of newer vulnerabilities", "built", d.UpdatedAt, "age", age.Round(time.Hour))
		}
	}
	return err
}

// LastPull returns the newest attempt.
func (p *advisoryPulls) LastPull(ctx context.Context) (artifact.AdvisoryPull, bool, error) {
	return p.db.AdvisoryPull(ctx)
}

// LastJavaPull is LastPull of a Java database.
func (p *advisoryPulls) LastJavaPull(ctx context.Context) (artifact.AdvisoryPull, bool, error) {
	return p.db.JavaPull(ctx)
}

// Source, JavaSource and MaxAge are what is configured.
func (p *advisoryPulls) Source() string        { return p.cfg.Source }
func (p *advisoryPulls) JavaSource() string    { return p.cfg.Java }
func (p *advisoryPulls) MaxAge() time.Duration { return p.cfg.MaxAge }

// pull brings one database; java says which kind it is once that is known.
func (p *advisoryPulls) pull(ctx context.Context, actor artifact.Principal, source string, java *bool) (artifact.AdvisoryDatabase, error) {
	from, repository, reference, err := p.from(source)
	if err != nil {
		return artifact.AdvisoryDatabase{}, err
	}
	image, digest, err := from.Image(ctx, repository, reference)
	if err != nil {
		return artifact.AdvisoryDatabase{}, err
	}
	if err := p.verify(ctx, from, repository, digest); err != nil {
		return artifact.AdvisoryDatabase{}, err
	}
	manifest, err := image.Manifest()
	if err != nil {
		return artifact.AdvisoryDatabase{}, err
	}
	if len(manifest.Layers) != 1 || manifest.Layers[0].MediaType != advisoryLayer && manifest.Layers[0].MediaType != javaLayer {
		return artifact.AdvisoryDatabase{}, artifact.Errorf(artifact.Invalid, "%s is no advisory database; want an artifact of one layer of type %s, as trivy-db is published, or %s, as trivy-java-db is",
			source, advisoryLayer, javaLayer)
	}
	layerDigest, err := artifact.ParseDigest(manifest.Layers[0].Digest.String())
	if err != nil {
		return artifact.AdvisoryDatabase{}, err
	}
	inForce := p.db.AdvisoryDatabase
	if *java = manifest.Layers[0].MediaType == javaLayer; *java {
		inForce = p.db.JavaDatabase
	}
	current, have, err := inForce(ctx)
	if err != nil || have && current.Digest == layerDigest {
		return current, err
	}
	layer, err := image.LayerByDigest(manifest.Layers[0].Digest)
	if err != nil {
		return current, err
	}
	r, err := layer.Compressed() // which verifies the digest
	if err != nil {
		return current, artifact.Errorf(artifact.Unavailable, "read %s: %w", source, err)
	}
	defer r.Close()
	// Who could put an older database in force could hide what is known since.
	return p.put(ctx, actor, io.LimitReader(r, manifest.Layers[0].Size+1), true)
}

// verify asks for a signature where a key is configured, whoever pulls whatever from wherever.
func (p *advisoryPulls) verify(ctx context.Context, from imageSource, repository string, digest artifact.Digest) error {
	if p.verifier == nil {
		return nil
	}
	tag, err := signer.SignatureTag(digest)
	if err != nil {
		return err
	}
	signatures, _, err := from.Image(ctx, repository, tag.String())
	if err != nil {
		return artifact.Errorf(artifact.Denied, "the signature of %s@%s is not there, and advisories.key asks for one: %w", repository, digest, err)
	}
	if err := p.verifier.Verify(digest, signatures); err != nil {
		return artifact.Errorf(artifact.Denied, "%s@%s is not signed by advisories.key: %w", repository, digest, err)
	}
	return nil
}

// from tells apart HOST/REPOSITORY:TAG and REPOSITORY:TAG of this registry, as Docker does: a host has a dot or a port,
// or is localhost. Credentials go to the configured sources' hosts, and to no other.
func (p *advisoryPulls) from(source string) (from imageSource, repository, reference string, err error) {
	host, rest, _ := strings.Cut(source, "/")
	elsewhere := rest != "" && (strings.ContainsAny(host, ".:") || host == "localhost")
	if !elsewhere {
		rest = source
	}
	ref, err := artifact.ParseReference(rest)
	if err != nil {
		return nil, "", "", err
	}
	reference = ref.Tag.String()
	if !ref.Digest.IsZero() {
		reference = ref.Digest.String()
	}
	if !elsewhere {
		return ownImages{p.images, p.db}, ref.Repository.String(), reference, nil
	}
	remote := mirror.Remote{Name: host, URL: "https://" + host}
	for _, configured := range []string{p.cfg.Source, p.cfg.Java} {
		if name, _, _ := strings.Cut(configured, "/"); name == host {
			remote = p.cfg.remote(host)
		}
	}
	images, err := mirror.NewImages(remote)
	return images, ref.Repository.String(), reference, err
}

// ownImages reads from this registry.
type ownImages struct {
	images *registry.Registry
	db     *postgres.DB
}

func (o ownImages) Image(ctx context.Context, repository, reference string) (gcr.Image, artifact.Digest, error) {
	r, err := artifact.ParseRepository(repository)
	if err != nil {
		return nil, artifact.Digest{}, err
	}
	digest, err := artifact.ParseDigest(reference)
	if err != nil {
		tag, tagErr := artifact.ParseTag(reference)
		if tagErr != nil {
			return nil, digest, tagErr
		}
		if digest, err = o.db.ResolveTag(ctx, r, tag); err != nil {
			return nil, digest, err
		}
	}
	image, err := o.images.Image(ctx, r, digest)
	return image, digest, err
}
