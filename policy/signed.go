package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"waybill/artifact"
)

// SignatureQuestion asks who signed a digest, or what was attested of it.
type SignatureQuestion struct {
	Authorities
	Attestation bool     `json:"attestation,omitempty"`
	Types       []string `json:"types,omitempty"` // of attestations: patterns of predicate types, without their scheme
}

// ID is the same for questions that ask the same.
func (q SignatureQuestion) ID() string {
	b, _ := json.Marshal(q) // of texts and lists of texts, which always encode
	return artifact.DigestOf(b).String()
}

// ExactType is the pattern that only one predicate type fits.
func ExactType(predicateType string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(predicate(predicateType))
}

// maxType bounds a predicate type, in bytes: patterns are matched with what anybody wrote.
const maxType = 500

// Wants reports whether a predicate type is one that is asked for.
func (q SignatureQuestion) Wants(predicateType string) bool {
	return len(predicateType) <= maxType && anyGlob(q.Types, predicate(predicateType))
}

// Statement is a signature, or a signed statement, that was verified.
type Statement struct {
	Signer        string            // who signed, in words
	PredicateType string            // of an attestation
	Predicate     map[string]any    // likewise
	Certificate   map[string]string // what the certificate says besides, by the names of docs/policy.md; nil of a key
}

// Signed is what was found of signatures.
type Signed struct {
	Statements []Statement
	Against    []string // why what else is there does not count, each reason once
}

// maxAgainst bounds how many different reasons are told.
const maxAgainst = 8

// Fail adds a reason why something does not count.
func (s *Signed) Fail(why string) {
	if len(s.Against) < maxAgainst && !slices.Contains(s.Against, why) {
		s.Against = append(s.Against, why)
	}
}

func (s *Signed) add(other Signed) {
	s.Statements = append(s.Statements, other.Statements...)
	for _, why := range other.Against {
		s.Fail(why)
	}
}

// asking are the rules that ask of signatures, with what their parameters ask; nil: nothing.
var asking = map[string]func(with Node, given bool) *SignatureQuestion{
	"require-provenance": asksProvenance,
	"require-signature":  asksSignature,
}

// Signatures finds what others signed. signer.Others is one.
type Signatures interface {
	// Signed returns what is attached to a digest and verified by one of the authorities, and why the rest does not count.
	// What is malformed, too large or by somebody else counts for nothing and is no error; an error is no answer.
	Signed(ctx context.Context, repository artifact.Repository, digest artifact.Digest, q SignatureQuestion) (Signed, error)
}

// Holders gives the indexes that lead to a manifest, newest first, at most n.
type Holders interface {
	Holders(ctx context.Context, repository artifact.Repository, manifest artifact.Digest, n int) ([]artifact.Digest, error)
}

// maxHolders bounds how many indexes may speak for one image.
const maxHolders = 50

// questions are what the rules for a repository ask of signatures, each once.
func (s Set) questions(r artifact.Repository) []SignatureQuestion {
	all := map[string]SignatureQuestion{}
	for _, p := range s.policies {
		if !p.Matches(r) {
			continue
		}
		for _, rule := range p.rules {
			if rule.asks != nil {
				all[rule.asks.ID()] = *rule.asks
			}
		}
	}
	return slices.Collect(maps.Values(all))
}

// signed answers what rules ask of signatures on an image, or on an index that holds it: whoever signs an index signs
// what it names.
func (j *judging) signed(ctx context.Context, s artifact.Subject) (map[string]Signed, error) {
	questions := j.set.questions(s.Repository)
	if len(questions) == 0 || j.cfg.Signatures == nil {
		return nil, nil
	}
	subjects := []artifact.Digest{s.Digest}
	if j.asked.Digest != s.Digest {
		subjects = append(subjects, j.asked.Digest)
	} else if j.cfg.Holders != nil {
		holders, err := j.cfg.Holders.Holders(ctx, s.Repository, s.Digest, maxHolders)
		if err != nil {
			return nil, err
		}
		subjects = append(subjects, holders...)
	}
	answers := map[string]Signed{}
	for _, q := range questions {
		var all Signed
		for _, subject := range subjects {
			one, err := j.answer(ctx, s.Repository, subject, q)
			if err != nil {
				return nil, fmt.Errorf("look for signatures on %s@%s: %w", s.Repository, subject, err)
			}
			all.add(one)
		}
		answers[q.ID()] = all
	}
	return answers, nil
}

// answer asks once of each digest: an index is asked about for each of its images.
func (j *judging) answer(ctx context.Context, r artifact.Repository, d artifact.Digest, q SignatureQuestion) (Signed, error) {
	key := d.String() + " " + q.ID()
	if known, ok := j.answers[key]; ok {
		return known, nil
	}
	found, err := j.cfg.Signatures.Signed(ctx, r, d, q)
	if err == nil {
		if j.answers == nil {
			j.answers = map[string]Signed{}
		}
		j.answers[key] = found
	}
	return found, err
}

// moment is when a rule about signatures is asked.
type moment string

// The moments. A signature comes after the push of what it is of, so that a push can only be asked for it when the digest
// was pushed before, by itself.
const (
	atPromotion moment = "promotion"
	atPush      moment = "push"
)

func (m *moment) check(with Node) error {
	if *m == "" {
		*m = atPromotion
	}
	if *m != atPromotion && *m != atPush {
		return with.At("$.at").Errorf("at is %q; want promotion or push", *m)
	}
	return nil
}

// lacking is what an image that is not signed as it should be comes to. Neither a promotion nor Waybill's own signature is to be had;
// a push that gives it a name is refused where the rule is asked at pushes.
func (m moment) lacking(img Image, message string, evidence []string) []finding {
	missing := finding{message: message, evidence: evidence, promotion: true, unsigned: true}
	if m != atPush || len(img.Names) == 0 {
		return []finding{missing}
	}
	var found []finding
	for _, tag := range img.Names {
		found = append(found, finding{tag: tag.String(), evidence: evidence,
			message: fmt.Sprintf("%s; push it by its digest, have it signed, then push the tag %s", message, tag)})
	}
	return found
}

// against says why nothing that is there counts; nothing is what to say when nothing is there.
func (s Signed) against(what, nothing string, a Authorities) string {
	if len(s.Against) == 0 {
		return nothing
	}
	const most = 3
	told := strings.Join(s.Against[:min(most, len(s.Against))], "; ")
	if more := len(s.Against) - most; more > 0 {
		told += fmt.Sprintf("; and %d more reasons", more)
	}
	return fmt.Sprintf("it has no %s by %s: %s", what, a, told)
}
