package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	gcr "github.com/google/go-containerregistry/pkg/v1"

	"waybill/artifact"
	"waybill/mirror"
	"waybill/postgres"
	"waybill/registry"
	"waybill/signer"
)

// advisoryLayer is the media type of the one layer that trivy-db is published as.
const advisoryLayer = "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip"

// advisoryPulls bring the advisory database from a registry: another, or this one, where there is no way out.
type advisoryPulls struct {
	*advisories
	cfg      AdvisoriesConfig
	verifier *signer.Verifier // nil: signatures are not asked for
	images   *registry.Registry
	db       *postgres.DB
	logger   *slog.Logger
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

// Pull brings the database that source names (empty: the configured one) into use, unless it is in use already, and
// records how that went.
func (p *advisoryPulls) Pull(ctx context.Context, actor artifact.Principal, source string) (artifact.AdvisoryDatabase, error) {
	if source == "" {
		source = p.cfg.Source
	}
	if source == "" {
		return artifact.AdvisoryDatabase{}, artifact.Errorf(artifact.Invalid, "no source is given, and none is configured (advisories.source)")
	}
	timed, cancel := context.WithTimeout(ctx, pullTime)
	defer cancel()
	d, err := p.pull(timed, actor, source)
	attempt := artifact.AdvisoryPull{Source: source, At: time.Now().UTC(), Actor: actor.Name}
	if err != nil {
		attempt.Problem = err.Error()
		p.logger.WarnContext(ctx, "the advisory database is not pulled", "source", source, "error", err)
	}
	return d, errors.Join(err, p.db.SaveAdvisoryPull(context.WithoutCancel(ctx), attempt))
}

// Scheduled is a pull as the job does it; it warns of a database that has grown old.
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

// Source and MaxAge are what is configured.
func (p *advisoryPulls) Source() string        { return p.cfg.Source }
func (p *advisoryPulls) MaxAge() time.Duration { return p.cfg.MaxAge }

func (p *advisoryPulls) pull(ctx context.Context, actor artifact.Principal, source string) (artifact.AdvisoryDatabase, error) {
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
	if len(manifest.Layers) != 1 || manifest.Layers[0].MediaType != advisoryLayer {
		return artifact.AdvisoryDatabase{}, artifact.Errorf(artifact.Invalid, "%s is no advisory database; want an artifact of one layer of type %s, as trivy-db is published", source, advisoryLayer)
	}
	layerDigest, err := artifact.ParseDigest(manifest.Layers[0].Digest.String())
	if err != nil {
		return artifact.AdvisoryDatabase{}, err
	}
	current, have, err := p.db.AdvisoryDatabase(ctx)
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
	return p.put(ctx, actor, io.LimitReader(r, manifest.Layers[0].Size+1), current.UpdatedAt)
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
// or is localhost. Credentials go to the configured source's host, and to no other.
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
	if configured, _, _ := strings.Cut(p.cfg.Source, "/"); configured == host {
		remote = p.cfg.remote(host)
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
