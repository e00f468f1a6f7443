package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	gcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"waybill/artifact"
	"waybill/policy"
	"waybill/postgres"
	"waybill/scanner"
)

// Where images lie that are no server's, spelled as containers-transports(5) does.
const (
	transportLayout   = "oci:"
	transportArchive  = "docker-archive:"
	transportRegistry = "docker://"
)

// elsewhere says whether an image is named by where it lies, and not by its place in the server's registry.
func elsewhere(ref string) bool {
	return strings.HasPrefix(ref, transportLayout) || strings.HasPrefix(ref, transportArchive) || strings.HasPrefix(ref, transportRegistry)
}

// anywhere judges images that no server of ours has, on this machine and with the scanner beside this program.
type anywhere struct {
	repository string // that they would be in; empty: as they are called where they are
	database   string // the folder of an advisory database; empty: nothing is known of vulnerabilities
	policies   []policy.Versioned
	client     *scanner.Client
	folder     string
}

// newAnywhere makes what close removes. database is an archive as `waybill db import` takes it, or empty.
func newAnywhere(ctx context.Context, policies []policy.Versioned, repository, database string) (a *anywhere, err error) {
	program, err := scanner.Find(os.Getenv("WAYBILL_SCANNER_PROGRAM"))
	if err != nil {
		return nil, err
	}
	a = &anywhere{repository: repository, policies: policies}
	temp := os.TempDir()
	if os.Getuid() == 0 && !postgres.Reachable(temp) {
		temp = "/var/tmp" // the scanner runs as another user, who must reach it
	}
	if a.folder, err = os.MkdirTemp(temp, "waybill-policy-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if err := os.Chmod(a.folder, 0o711); err != nil { // the scanner's user passes through it
		return nil, err
	}
	a.client = scanner.New(scanner.Config{Program: program, Version: version, Folder: a.folder, Logger: slog.New(slog.DiscardHandler)})
	if database == "" {
		return a, nil
	}
	archive, err := os.Open(database)
	if err != nil {
		return nil, usageError{err}
	}
	defer archive.Close()
	a.database = filepath.Join(a.folder, "database")
	if err := os.Mkdir(a.database, 0o755); err != nil {
		return nil, err
	}
	if _, java, err := unpackDatabase(archive, a.database); err != nil {
		return nil, err
	} else if java {
		return nil, usagef("%s is a Java database; --database wants an advisory database", database)
	}
	_, err = a.client.CheckDatabase(ctx, a.database)
	return a, err
}

func (a *anywhere) close() {
	if a.client != nil {
		_ = a.client.Close()
	}
	_ = os.RemoveAll(a.folder)
}

// judge returns the verdict that a push of the image would get.
func (a *anywhere) judge(ctx context.Context, ref string) (artifact.VerdictRecord, error) {
	images := &foundImages{anywhere: a, images: map[artifact.Digest]gcr.Image{}, indexes: map[artifact.Digest]gcr.ImageIndex{}, analyses: map[artifact.Digest]scanner.Analysis{}}
	root, repository, tag, err := images.find(ctx, ref)
	if err != nil {
		return artifact.VerdictRecord{}, fmt.Errorf("%s: %w", ref, err)
	}
	if a.repository != "" {
		repository = a.repository
	}
	s := artifact.Subject{Digest: root}
	if s.Repository, err = artifact.ParseRepository(repository); err != nil {
		return artifact.VerdictRecord{}, usageError{err}
	}
	if t, err := artifact.ParseTag(tag); err == nil {
		s.Reference, s.Tags = tag, []artifact.Tag{t}
	} else {
		s.Reference = root.String()
	}
	stored, err := images.Manifest(ctx, s.Repository, root)
	if err != nil {
		return artifact.VerdictRecord{}, err
	}
	s.Manifest, s.IsImage = stored.Manifest, stored.IsImage
	if s.Manifest.Config != nil && s.Manifest.Config.Size <= artifact.MaxManifest {
		if s.Config, err = images.Blob(ctx, s.Repository, s.Manifest.Config.Digest); err != nil {
			return artifact.VerdictRecord{}, err
		}
	}
	v, err := policy.NewJudge(policy.JudgeConfig{Facts: images, Scans: images, Contents: images, Policies: images, Now: time.Now}).Judge(ctx, s)
	return v.VerdictRecord, err
}

// foundImages is one image or index and all that it leads to, as what a judge reads.
type foundImages struct {
	*anywhere
	images   map[artifact.Digest]gcr.Image
	indexes  map[artifact.Digest]gcr.ImageIndex
	analyses map[artifact.Digest]scanner.Analysis
}

// Bounds of an index, beyond which the judge refuses it anyway.
const (
	maxIndexDepth    = 4
	maxIndexChildren = 200
)

// find reads the image's manifests, and says what it is called.
func (f *foundImages) find(ctx context.Context, ref string) (root artifact.Digest, repository, tag string, err error) {
	switch {
	case strings.HasPrefix(ref, transportRegistry):
		parsed, err := name.ParseReference(strings.TrimPrefix(ref, transportRegistry))
		if err != nil {
			return root, "", "", usageError{err}
		}
		if t, ok := parsed.(name.Tag); ok {
			tag = t.TagStr()
		}
		descriptor, err := remote.Get(parsed, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain))
		if err != nil {
			return root, "", "", err
		}
		if descriptor.MediaType.IsIndex() {
			index, err := descriptor.ImageIndex()
			if err != nil {
				return root, "", "", err
			}
			root, err = f.addIndex(index, 0)
			return root, parsed.Context().RepositoryStr(), tag, err
		}
		image, err := descriptor.Image()
		if err != nil {
			return root, "", "", err
		}
		root, err = f.addImage(image)
		return root, parsed.Context().RepositoryStr(), tag, err
	case strings.HasPrefix(ref, transportArchive):
		path, called, _ := strings.Cut(strings.TrimPrefix(ref, transportArchive), ":")
		var wanted *name.Tag
		if called != "" {
			t, err := name.NewTag(called)
			if err != nil {
				return root, "", "", usageError{err}
			}
			wanted, tag = &t, t.TagStr()
		}
		image, err := tarball.ImageFromPath(path, wanted)
		if err != nil {
			return root, "", "", err
		}
		root, err = f.addImage(image)
		return root, "local/archive", tag, err
	}
	path, tag, _ := strings.Cut(strings.TrimPrefix(ref, transportLayout), ":")
	root, err = f.findInLayout(path, tag)
	return root, "local/layout", tag, err
}

// refName is the annotation by which a layout's index calls its images (OCI image-spec, annotations.md).
const refName = "org.opencontainers.image.ref.name"

func (f *foundImages) findInLayout(path, tag string) (root artifact.Digest, err error) {
	index, err := layout.ImageIndexFromPath(path)
	if err != nil {
		return root, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return root, err
	}
	var found []gcr.Descriptor
	for _, d := range manifest.Manifests {
		if tag == "" || d.Annotations[refName] == tag {
			found = append(found, d)
		}
	}
	switch {
	case len(found) == 0:
		return root, fmt.Errorf("the layout has no image that is called %q", tag)
	case len(found) > 1:
		return root, fmt.Errorf("the layout has %d images; say which by oci:%s:TAG", len(found), path)
	}
	return f.add(index, found[0], 0)
}

func (f *foundImages) add(index gcr.ImageIndex, d gcr.Descriptor, depth int) (artifact.Digest, error) {
	if d.MediaType.IsIndex() {
		child, err := index.ImageIndex(d.Digest)
		if err != nil {
			return artifact.Digest{}, err
		}
		return f.addIndex(child, depth)
	}
	image, err := index.Image(d.Digest)
	if err != nil {
		return artifact.Digest{}, err
	}
	return f.addImage(image)
}

func (f *foundImages) addImage(image gcr.Image) (artifact.Digest, error) {
	body, err := image.RawManifest()
	if err != nil {
		return artifact.Digest{}, err
	}
	digest := artifact.DigestOf(body)
	f.images[digest] = image
	return digest, nil
}

func (f *foundImages) addIndex(index gcr.ImageIndex, depth int) (artifact.Digest, error) {
	body, err := index.RawManifest()
	if err != nil {
		return artifact.Digest{}, err
	}
	digest := artifact.DigestOf(body)
	f.indexes[digest] = index
	manifest, err := index.IndexManifest()
	if err != nil || depth >= maxIndexDepth || len(manifest.Manifests) > maxIndexChildren {
		return digest, err
	}
	for _, d := range manifest.Manifests {
		if _, err := f.add(index, d, depth+1); err != nil {
			return digest, err
		}
	}
	return digest, nil
}

// Policies are those of the file.
func (f *foundImages) Policies(context.Context) ([]policy.Versioned, error) { return f.policies, nil }

// Manifest returns one that was found.
func (f *foundImages) Manifest(_ context.Context, repository artifact.Repository, digest artifact.Digest) (s artifact.StoredManifest, err error) {
	s = artifact.StoredManifest{Repository: repository, Digest: digest}
	var manifest interface {
		MediaType() (types.MediaType, error)
		RawManifest() ([]byte, error)
	}
	image, isImage := f.images[digest]
	if isImage {
		manifest = image
	} else if index, ok := f.indexes[digest]; ok {
		manifest = index
	} else {
		return s, artifact.Errorf(artifact.NotFound, "there is no manifest %s", digest)
	}
	mediaType, err := manifest.MediaType()
	if err != nil {
		return s, err
	}
	if s.Body, err = manifest.RawManifest(); err != nil {
		return s, err
	}
	if s.Manifest, err = artifact.ParseManifest(string(mediaType), s.Body); err != nil || !isImage {
		return s, err
	}
	var config []byte
	if s.Manifest.Config != nil && s.Manifest.Config.Size <= artifact.MaxManifest {
		if config, err = image.RawConfigFile(); err != nil {
			return s, err
		}
	}
	s.IsImage = s.Manifest.IsImage(config)
	return s, nil
}

// Blob returns an image's config.
func (f *foundImages) Blob(_ context.Context, _ artifact.Repository, digest artifact.Digest) ([]byte, error) {
	for _, image := range f.images {
		if config, err := image.ConfigName(); err == nil && config.String() == digest.String() {
			return image.RawConfigFile()
		}
	}
	return nil, artifact.Errorf(artifact.NotFound, "there is no config %s", digest)
}

// Layer has the scanner read a layer, once.
func (f *foundImages) Layer(ctx context.Context, _ artifact.Repository, d artifact.Descriptor) (artifact.LayerFacts, error) {
	if known, ok := f.analyses[d.Digest]; ok {
		return known.Facts, nil
	}
	hash, err := gcr.NewHash(d.Digest.String())
	if err != nil {
		return artifact.LayerFacts{}, err
	}
	for _, image := range f.images {
		layer, err := image.LayerByDigest(hash)
		if err != nil {
			continue // of another image
		}
		r, err := layer.Compressed()
		if err != nil && d.IsForeign() {
			break
		} else if err != nil {
			return artifact.LayerFacts{}, err
		}
		analysis, err := f.analyse(ctx, r, d)
		if err != nil {
			return artifact.LayerFacts{}, err
		}
		f.analyses[d.Digest] = analysis
		return analysis.Facts, nil
	}
	return artifact.LayerFacts{}, artifact.Errorf(artifact.NotFound, "layer %s is not there", d.Digest)
}

func (f *foundImages) analyse(ctx context.Context, r io.ReadCloser, d artifact.Descriptor) (scanner.Analysis, error) {
	defer r.Close()
	file, err := os.CreateTemp(f.folder, "layer-")
	if err != nil {
		return scanner.Analysis{}, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	n, err := io.Copy(file, io.LimitReader(r, d.Size+1))
	if err == nil && n != d.Size {
		err = fmt.Errorf("layer %s is not of the %d bytes that the manifest says", d.Digest, d.Size)
	}
	if err != nil {
		return scanner.Analysis{}, err
	}
	return f.client.Analyse(ctx, file, d)
}

// Scan matches an image with the database that was given. Without one it is pending, and never clean.
func (f *foundImages) Scan(ctx context.Context, s artifact.Subject, _ bool) (artifact.Scan, bool, error) {
	if f.database == "" {
		return artifact.Scan{Digest: s.Digest, State: artifact.ScanPending, Reason: "no advisory database was given; --database FILE names one"}, false, nil
	}
	request := scanner.MatchRequest{Database: f.database, Config: s.Config, Name: s.Repository.String(), Digest: s.Digest}
	for _, d := range s.Manifest.Layers {
		analysis, ok := f.analyses[d.Digest]
		if !ok {
			return artifact.Scan{Digest: s.Digest, State: artifact.ScanFailed, Reason: "a layer lies elsewhere, and what is not here cannot be scanned"}, false, nil
		}
		request.Layers = append(request.Layers, analysis.Blob)
	}
	result, err := f.client.Match(ctx, request)
	if err != nil {
		return artifact.Scan{Digest: s.Digest, State: artifact.ScanFailed, Reason: err.Error()}, false, ctx.Err()
	}
	return artifact.Scan{Digest: s.Digest, State: artifact.Scanned, ScannedAt: time.Now(), Packages: result.Packages, Findings: result.Findings,
		Counts: artifact.CountFindings(result.Findings)}, false, nil
}

// policiesOf are a file's policies, as they are without a server.
func policiesOf(file string, src []byte) ([]policy.Versioned, error) {
	documents, err := policy.Parse(file, src)
	if err == nil && len(documents) == 0 {
		err = errors.New("the file has no policy")
	}
	if err != nil {
		return nil, usageError{err}
	}
	return policy.Replace(nil, documents), nil
}
