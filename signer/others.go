package signer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"waybill/artifact"
	"waybill/policy"
)

// Bounds of what is looked at for one digest and one question. Anybody who may push can attach as much as he likes; what
// lies past a bound counts for nothing, and the reason says so.
const (
	maxReferrers  = 2000     // artifacts
	maxCandidates = 4000     // layers of those
	maxCandidate  = 4 << 20  // bytes of a layer
	maxRead       = 64 << 20 // bytes of all layers
	maxRemembered = 20_000   // failures that are remembered, of all digests
	maxQuestions  = 1000     // that are remembered, with their keys and trust roots
)

// OthersStore reads what is attached to a digest.
type OthersStore interface {
	// ReferrersLike returns what refers to a digest and has an artifact type that begins with one of the given ones, oldest
	// first, at most n.
	ReferrersLike(ctx context.Context, repository artifact.Repository, subject artifact.Digest, types []string, n int) ([]artifact.Descriptor, error)
	ResolveTag(ctx context.Context, repository artifact.Repository, tag artifact.Tag) (artifact.Digest, error)
	Manifest(ctx context.Context, repository artifact.Repository, digest artifact.Digest) (artifact.StoredManifest, error)
	Blob(ctx context.Context, repository artifact.Repository, digest artifact.Digest) ([]byte, error)
}

// Others finds what others signed (policy.Signatures): at cosign's tags, as OCI 1.1 referrers, and in sigstore bundles. It is
// safe for concurrent use.
type Others struct {
	store OthersStore
	trust Trust
	own   func(context.Context) ([]string, error)

	mu    sync.Mutex // guards what follows
	asked map[string]*question
	known map[[sha256.Size]byte]string // why something does not count, for ever: bytes, keys and trust roots do not change
}

// NewOthers returns those whose signatures are verified with trust, the trust roots of the configuration; own returns the
// service's public keys in PEM, those retired too.
func NewOthers(store OthersStore, trust Trust, own func(context.Context) ([]string, error)) *Others {
	return &Others{store: store, trust: trust, own: own, asked: map[string]*question{}, known: map[[sha256.Size]byte]string{}}
}

// question is one that was asked, with its keys and trust roots read.
type question struct {
	policy.SignatureQuestion
	id         string
	keys       []*trustedKey
	identities []trustedIdentity
	wrong      []string // what of it cannot be used
}

type trustedIdentity struct {
	policy.Identity
	root *TrustRoot
}

func (o *Others) question(ctx context.Context, q policy.SignatureQuestion) (*question, error) {
	keys := q.Keys
	if q.Own && o.own != nil {
		own, err := o.own(ctx)
		if err != nil {
			return nil, err
		}
		keys = append(slices.Clone(keys), own...)
	}
	id := q.ID() + strings.Join(keys, "\n")
	o.mu.Lock()
	defer o.mu.Unlock()
	if known := o.asked[id]; known != nil {
		return known, nil
	}
	asked := &question{SignatureQuestion: q, id: id}
	for _, text := range keys {
		key, err := newTrustedKey(text)
		if err != nil {
			asked.wrong = append(asked.wrong, fmt.Sprintf("key %s cannot be used: %v", policy.KeyName(text), err))
			continue
		}
		asked.keys = append(asked.keys, key)
	}
	for _, i := range q.Identities {
		found, err := o.trust.find(i.TrustRoot)
		if err != nil {
			asked.wrong = append(asked.wrong, err.Error())
			continue
		}
		asked.identities = append(asked.identities, trustedIdentity{i, found})
	}
	if len(o.asked) >= maxQuestions {
		clear(o.asked)
	}
	o.asked[id] = asked
	return asked, nil
}

// Signed implements policy.Signatures. Of signatures the first that counts is enough; of attestations it returns all.
func (o *Others) Signed(ctx context.Context, repository artifact.Repository, digest artifact.Digest, asks policy.SignatureQuestion) (found policy.Signed, err error) {
	q, err := o.question(ctx, asks)
	if err != nil {
		return found, err
	}
	for _, why := range q.wrong {
		found.Fail(why)
	}
	manifests, more, err := o.manifests(ctx, repository, digest, q)
	if err != nil {
		return found, err
	}
	looked, read := 0, int64(0)
	for _, m := range manifests {
		stored, err := o.store.Manifest(ctx, repository, m)
		if artifact.KindOf(err) == artifact.NotFound {
			continue
		} else if err != nil {
			return found, err
		}
		for _, layer := range stored.Manifest.Layers {
			if err := ctx.Err(); err != nil {
				return found, err
			}
			if looked++; looked > maxCandidates || read > maxRead {
				more = true
				break
			}
			n, err := o.layer(ctx, repository, digest, q, layer, &found)
			if read += n; err != nil {
				return found, err
			}
			if len(found.Statements) > 0 && !q.Attestation {
				return found, nil
			}
		}
	}
	if more {
		found.Fail(fmt.Sprintf("more is attached to it than is looked at (%d artifacts, %d layers, %d MiB); delete what is not needed", maxReferrers, maxCandidates, maxRead>>20))
	}
	return found, nil
}

// manifests returns those of artifacts that may hold what is asked for, and whether there are more.
func (o *Others) manifests(ctx context.Context, repository artifact.Repository, digest artifact.Digest, q *question) (all []artifact.Digest, more bool, err error) {
	suffix, types := ".sig", []string{bundleType, cosignReferrer}
	if q.Attestation {
		suffix, types = ".att", []string{bundleType, intotoType, dsseType, cosignAttestation}
	}
	tag, err := cosignTag(digest, suffix)
	if err != nil {
		return nil, false, err
	}
	legacy, err := o.store.ResolveTag(ctx, repository, tag)
	if err == nil {
		all = append(all, legacy)
	} else if artifact.KindOf(err) != artifact.NotFound {
		return nil, false, err
	}
	referrers, err := o.store.ReferrersLike(ctx, repository, digest, types, maxReferrers+1)
	if err != nil {
		return nil, false, err
	}
	if more = len(referrers) > maxReferrers; more {
		referrers = referrers[:maxReferrers]
	}
	for _, d := range referrers {
		// What a referrer says its statement is of is nobody's word, and good enough to pass it over.
		if hint := policy.PredicateHint(d); !q.Attestation || hint == "" || q.Wants(hint) {
			all = append(all, d.Digest)
		}
	}
	return all, more, nil
}

// layer looks at one layer, and returns how many bytes it read.
func (o *Others) layer(ctx context.Context, repository artifact.Repository, digest artifact.Digest, q *question, layer artifact.Descriptor, found *policy.Signed) (int64, error) {
	if layer.Size > maxCandidate {
		found.Fail(fmt.Sprintf("%s has %d bytes; at most %d are read", layer.Digest.Short(), layer.Size, maxCandidate))
		return 0, nil
	}
	key := layerKey(digest, q, layer)
	o.mu.Lock()
	why, known := o.known[key]
	o.mu.Unlock()
	if known {
		if why != "" {
			found.Fail(why)
		}
		return 0, nil
	}
	content, err := o.store.Blob(ctx, repository, layer.Digest)
	if kind := artifact.KindOf(err); kind == artifact.NotFound || kind == artifact.TooLarge {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	statement, err := q.examine(digest, layer, content)
	if err == nil {
		found.Statements = append(found.Statements, statement)
		return int64(len(content)), nil
	}
	if !errors.Is(err, errOther) {
		why = err.Error()
		found.Fail(why)
	}
	o.mu.Lock()
	if len(o.known) >= maxRemembered {
		clear(o.known)
	}
	o.known[key] = why
	o.mu.Unlock()
	return int64(len(content)), nil
}

// layerKey identifies all that the answer about a layer rests on.
func layerKey(digest artifact.Digest, q *question, layer artifact.Descriptor) [sha256.Size]byte {
	b, _ := json.Marshal([]any{digest.String(), q.id, layer.MediaType, layer.Digest.String(), layer.Annotations}) // of texts, which always encode
	return sha256.Sum256(b)
}

// examine verifies what somebody attached. Its error says why it does not count. Libraries read these bytes that others
// wrote for honest ones: should one of them panic, it was no signature.
func (q *question) examine(digest artifact.Digest, layer artifact.Descriptor, content []byte) (statement policy.Statement, err error) {
	defer func() {
		if p := recover(); p != nil {
			statement, err = policy.Statement{}, fmt.Errorf("%s cannot be read: %.200v", layer.Digest.Short(), p)
		}
	}()
	c, err := readCandidate(digest, layer.MediaType, content, layer.Annotations, q.Attestation)
	if err != nil {
		return statement, err
	}
	if q.Attestation && !q.Wants(c.predicateType) {
		return statement, errOther
	}
	var result *verify.VerificationResult
	if c.certificate == nil {
		statement.Signer, result, err = q.byKey(c)
	} else {
		statement.Signer, result, err = q.byIdentity(c)
	}
	if err != nil {
		return policy.Statement{}, err
	}
	if q.Attestation {
		if result.Statement == nil || !q.Wants(result.Statement.GetPredicateType()) {
			return policy.Statement{}, errOther
		}
		statement.PredicateType, statement.Predicate = result.Statement.GetPredicateType(), result.Statement.GetPredicate().AsMap()
	}
	if result.Signature != nil && result.Signature.Certificate != nil {
		statement.Certificate, err = namesOf(result.Signature.Certificate)
	}
	return statement, err
}

// byKey tries each key.
func (q *question) byKey(c *candidate) (who string, result *verify.VerificationResult, err error) {
	for _, k := range q.keys {
		if result, err := k.verify(c); err == nil {
			return "key " + k.name, result, nil
		}
	}
	named := slices.ContainsFunc(q.keys, func(k *trustedKey) bool { return k.name == c.key })
	switch {
	case named:
		return "", nil, fmt.Errorf("it says that key %s signed it, and what it holds is not what that key signed", c.key)
	case len(q.keys) == 0 && c.key != "":
		return "", nil, fmt.Errorf("it is signed by key %s, and the rule names no key", c.key)
	case len(q.keys) == 0:
		return "", nil, errors.New("it is signed by a key, and the rule names no key")
	case c.key != "":
		return "", nil, fmt.Errorf("it is signed by key %s, which is none of the %d in the rule", c.key, len(q.keys))
	}
	return "", nil, fmt.Errorf("it is signed by a key that is none of the %d in the rule, or was changed since", len(q.keys))
}

// byIdentity looks whose the certificate is, then verifies all of it with the trust root that the rule has for that
// identity.
func (q *question) byIdentity(c *candidate) (who string, result *verify.VerificationResult, err error) {
	claimed, err := certificate.SummarizeCertificate(c.certificate)
	if err != nil {
		return "", nil, fmt.Errorf("its certificate says not whose it is: %w", err)
	}
	who = fmt.Sprintf("%.200s of %.200s", claimed.SubjectAlternativeName, claimed.Issuer)
	if len(q.Identities) == 0 {
		return "", nil, fmt.Errorf("it is signed by the certificate identity %s, and the rule names no identity", who)
	}
	err = fmt.Errorf("the certificate identity %.200s from issuer %.200s does not match any of the %d in the rule", claimed.SubjectAlternativeName, claimed.Issuer, len(q.Identities))
	for _, i := range q.identities {
		if !i.Matches(claimed.Issuer, claimed.SubjectAlternativeName) {
			continue
		}
		result, failed := i.root.verifier.Verify(c.entity, verify.NewPolicy(c.artifact(), verify.WithoutIdentitiesUnsafe()))
		if failed != nil {
			err = fmt.Errorf("the signature by %s does not count: %s", who, i.root.why(c, failed))
			continue
		}
		// Once more, of what was verified.
		by := result.Signature
		if by == nil || by.Certificate == nil || !i.Matches(by.Certificate.Issuer, by.Certificate.SubjectAlternativeName) {
			continue
		}
		return who, result, nil
	}
	return "", nil, err
}

// namesOf are what a certificate says, by the names that docs/policy.md has.
func namesOf(s *certificate.Summary) (map[string]string, error) {
	b, err := json.Marshal(s.Extensions)
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	if err := json.Unmarshal(b, &names); err != nil {
		return nil, err
	}
	names["subject"] = s.SubjectAlternativeName
	return names, nil
}

// why says in words why a signature by a certificate was refused with err. It decides nothing.
func (r *TrustRoot) why(c *candidate, err error) string {
	entries, entryErr := c.entity.TlogEntries()
	logs := r.material.RekorLogs()
	if len(logs) > 0 && entryErr == nil {
		if len(entries) == 0 {
			return fmt.Sprintf("it has no transparency log entry, and trust root %s asks for one", r.name)
		}
		known := false
		for _, e := range entries {
			known = known || logs[hex.EncodeToString([]byte(e.LogKeyID()))] != nil
		}
		if !known {
			return fmt.Sprintf("it has no transparency log entry by a log in the trust root %s", r.name)
		}
		for _, e := range entries {
			if at := e.IntegratedTime(); !at.IsZero() && at.After(c.certificate.NotAfter) {
				return fmt.Sprintf("its certificate expired at %s, and it was signed at %s, as the transparency log says", moment(c.certificate.NotAfter), moment(at))
			} else if !at.IsZero() && at.Before(c.certificate.NotBefore) {
				return fmt.Sprintf("its certificate was issued at %s, and it was signed at %s, as the transparency log says", moment(c.certificate.NotBefore), moment(at))
			}
		}
	}
	stamps, _, stampErr := verify.VerifySignedTimestamp(c.entity, r.material)
	if len(logs) == 0 && (stampErr != nil || len(stamps) == 0) {
		return fmt.Sprintf("it has no timestamp by an authority in the trust root %s", r.name)
	}
	for _, s := range stamps {
		if s.Time.After(c.certificate.NotAfter) {
			return fmt.Sprintf("its certificate expired at %s, and it was signed at %s, as the timestamp says", moment(c.certificate.NotAfter), moment(s.Time))
		}
	}
	text := err.Error()
	switch {
	case strings.Contains(text, "not enough verified log entries"):
		return fmt.Sprintf("its transparency log entry was not signed by a log in the trust root %s, or was changed since", r.name)
	case strings.Contains(text, "leaf certificate verification failed"):
		return fmt.Sprintf("its certificate is by no certificate authority in the trust root %s", r.name)
	case strings.Contains(text, "signed certificate timestamp"):
		return fmt.Sprintf("its certificate is in no certificate transparency log of the trust root %s", r.name)
	case strings.Contains(text, "verify signature"):
		return "what it holds is not what was signed"
	}
	return text
}
