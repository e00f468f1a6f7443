package promotion

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"waybill/artifact"
	"waybill/policy"
)

// ExpressionGate asks for a CEL expression to be true of a promotion. Its variables are those of expressionVariables.
type ExpressionGate struct {
	CEL       string
	Message   string
	condition policy.Condition
}

// AttestationGate asks for a signed statement about the digest: of a predicate type, by one of keys, with a predicate of
// which a CEL expression is true.
type AttestationGate struct {
	Type      string
	Keys      []string `json:",omitempty"` // public, PKIX in PEM; neither these nor identities: the service's own
	CEL       string   `json:",omitempty"` // over predicate; "": whatever it says
	Message   string   `json:",omitempty"`
	condition policy.Condition

	Identities []policy.Identity `json:",omitempty"` // of certificates
	at         policy.Node
}

// Bounds of gates.
const (
	maxAttestations = 10
	maxKeys         = 10
	maxGateMessage  = 500 // bytes
)

var expressionVariables = []string{"promotion", "reached", "approvals", "scans", "now"}

// NewExpressionGate compiles an expression.
func NewExpressionGate(text, message string) (ExpressionGate, error) {
	g := ExpressionGate{CEL: text, Message: message}
	if len(message) > maxGateMessage {
		return g, fmt.Errorf("the message has %d bytes; at most %d are taken", len(message), maxGateMessage)
	}
	var err error
	g.condition, err = policy.NewCondition(text, "a promotion that may be made", expressionVariables...)
	if message == "" {
		g.Message = "this is not true: " + strings.Join(strings.Fields(text), " ")
	}
	return g, err
}

func (g ExpressionGate) unmet(environment artifact.Environment, e Evidence, a Asked) []artifact.Reason {
	ok, err := g.condition.Holds(e.variables(environment, a))
	if ok {
		return nil
	}
	unmet := artifact.Reason{Rule: "expression", Message: g.Message}
	if err != nil {
		unmet.Message += fmt.Sprintf(" (the expression cannot be evaluated: %v)", err)
	}
	switch {
	case g.condition.Names("now"):
		unmet.Awaits = artifact.AwaitsTime
	case g.condition.Names("approvals") || g.condition.Names("reached"):
		unmet.Awaits = artifact.AwaitsPeople
	case g.condition.Names("scans"):
		unmet.Awaits = artifact.AwaitsWork
	}
	return []artifact.Reason{unmet}
}

// variables are what an expression may name; docs/promotion.md lists them.
func (e Evidence) variables(environment artifact.Environment, a Asked) map[string]any {
	reached := map[string]time.Time{}
	for _, r := range e.Reached {
		reached[r.String()] = e.Since[r]
	}
	approvals := []map[string]any{}
	for _, one := range e.Approvals {
		if one.Environment == environment {
			approvals = append(approvals, map[string]any{"actor": one.Actor, "role": string(one.Role), "reason": one.Reason, "at": one.At})
		}
	}
	scans := []map[string]any{}
	for _, s := range e.Scans {
		findings := []map[string]any{}
		for _, f := range s.Findings {
			findings = append(findings, map[string]any{"class": f.Class, "id": f.ID, "severity": string(f.Severity), "rank": int64(f.Severity.Rank()),
				"package": f.Package, "installed": f.Installed, "fixed": f.Fixed, "path": f.Path})
		}
		scans = append(scans, map[string]any{"digest": s.Digest.String(), "state": string(s.State), "scannedAt": s.ScannedAt, "findings": findings})
	}
	return map[string]any{"now": a.At, "reached": reached, "approvals": approvals, "scans": scans,
		"promotion": map[string]any{"repository": a.Repository.String(), "digest": a.Digest.String(), "version": a.Version, "environment": environment.String(),
			"actor": a.Actor, "reason": a.Reason}}
}

// NewAttestationGate compiles what is asked of a predicate: a result, an expression, or nothing.
func NewAttestationGate(predicateType string, keys []string, result, text, message string) (AttestationGate, error) {
	g := AttestationGate{Type: predicateType, CEL: text, Message: message}
	switch {
	case predicateType == "" || len(predicateType) > 500:
		return g, fmt.Errorf("type is %.60q; want a predicate type, such as https://in-toto.io/attestation/test-result/v0.1", predicateType)
	case result != "" && text != "":
		return g, fmt.Errorf("result and cel stand together; cel can ask for the result too: predicate.result == %q", result)
	case len(result) > 100 || len(message) > maxGateMessage:
		return g, fmt.Errorf("the result has %d bytes and the message %d; at most 100 and %d are taken", len(result), len(message), maxGateMessage)
	case len(keys) > maxKeys:
		return g, fmt.Errorf("there are %d keys; at most %d are taken", len(keys), maxKeys)
	}
	for i, key := range keys {
		block, rest := pem.Decode([]byte(key))
		if block == nil || block.Type != "PUBLIC KEY" || strings.TrimSpace(string(rest)) != "" {
			return g, fmt.Errorf("key %d is no public key in PEM; want one that begins with -----BEGIN PUBLIC KEY-----, as cosign writes it", i+1)
		}
		if _, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil {
			return g, fmt.Errorf("key %d: %w", i+1, err)
		}
		g.Keys = append(g.Keys, string(pem.EncodeToMemory(block)))
	}
	if result != "" {
		g.CEL = fmt.Sprintf("predicate.result == %q", result)
	}
	if g.CEL == "" {
		return g, nil
	}
	var err error
	g.condition, err = policy.NewCondition(g.CEL, "a predicate", "predicate")
	return g, err
}

// unmet looks at the predicates of statements of the type, whose signatures were verified with the keys.
func (g AttestationGate) unmet(predicates []map[string]any, against []string) []artifact.Reason {
	what := "attestation " + g.Type
	by := "by the service's own key"
	if len(g.Keys) > 0 {
		by = "by a key that the pipeline names"
	}
	if len(g.Identities) > 0 {
		by = "by a key or an identity that the pipeline names"
	}
	if len(predicates) == 0 {
		message := fmt.Sprintf("it has no %s that is signed %s; attach one, such as with cosign attest", what, by)
		if len(against) > 0 {
			message += " (what is there does not count: " + strings.Join(against[:min(3, len(against))], "; ") + ")"
		}
		return []artifact.Reason{artifact.Reason{Rule: "attestations", Awaits: artifact.AwaitsPeople, Message: message, Evidence: against}.Bounded()}
	}
	var failed error
	for _, p := range predicates {
		if g.CEL == "" {
			return nil
		}
		ok, err := g.condition.Holds(map[string]any{"predicate": p})
		if ok {
			return nil
		}
		failed = err
	}
	message := g.Message
	if message == "" {
		message = "this is not true of its predicate: " + strings.Join(strings.Fields(g.CEL), " ")
	}
	if failed != nil {
		message += fmt.Sprintf(" (the expression cannot be evaluated: %v)", failed)
	}
	return []artifact.Reason{{Rule: "attestations", Awaits: artifact.AwaitsPeople, Message: fmt.Sprintf("%s is there, but %s; attach one of which it is", what, message)}}
}
