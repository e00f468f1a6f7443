package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"waybill/artifact"
	"waybill/server"
	"waybill/signer"
)

// attestationCheck opens the envelopes of an archive, one by one.
type attestationCheck struct {
	x      *exported
	keys   map[string]attestationKey
	listed map[string]listedEnvelope // by its file

	own, others int
	wrong       []error
}

type attestationKey struct {
	*signer.Verifier
	revoked *server.PublicRevocation
}

// listedEnvelope is what the archive says of an envelope.
type listedEnvelope struct {
	artifact.Attached
	of server.ExportedReference
}

func newAttestationCheck(x *exported, summary server.ExportSummary, keys server.PublicKeys) (*attestationCheck, error) {
	a := &attestationCheck{x: x, keys: map[string]attestationKey{}, listed: map[string]listedEnvelope{}}
	trusted := keys.Keys
	if len(trusted) == 0 { // of a server that knows of one key only
		var err error
		if trusted, err = pinned(keys.PublicKeyPEM); err != nil {
			return nil, err
		}
	}
	for _, k := range trusted {
		v, err := signer.NewVerifier([]byte(k.PublicKeyPEM))
		if err != nil {
			return nil, fmt.Errorf("key %.16s: %w", k.ID, err)
		}
		a.keys[v.ID()] = attestationKey{v, k.Revoked}
	}
	for _, d := range summary.Digests {
		list := d.Folder + "/attestations.json"
		content, ok := x.content[list]
		if !ok {
			continue // that it was removed, the listing says
		}
		var all []artifact.Attached
		if err := json.Unmarshal(content, &all); err != nil {
			a.problem(list, "%w", err)
		}
		for _, one := range all {
			file := fmt.Sprintf("%s/attestations/%s-%s.json", d.Folder, one.Envelope.Algorithm(), one.Envelope.Hex())
			a.listed[file] = listedEnvelope{one, d}
		}
	}
	return a, nil
}

func (a *attestationCheck) problem(file, format string, args ...any) {
	a.wrong = append(a.wrong, fmt.Errorf("%s: %w", file, fmt.Errorf(format, args...)))
}

// file checks what is an envelope.
func (a *attestationCheck) file(name string, size int64, r io.Reader) error {
	if !strings.Contains(name, "/attestations/") {
		return nil
	}
	listed, ok := a.listed[name]
	if !ok {
		a.problem(name, "attestations.json does not list it")
		return nil
	}
	delete(a.listed, name)
	if size > maxEnvelope {
		a.problem(name, "it has %d bytes; an envelope has at most %d", size, maxEnvelope)
		return nil
	}
	envelope, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if err := a.check(listed, envelope); err != nil {
		a.problem(name, "%w", err)
	}
	return nil
}

func (a *attestationCheck) check(listed listedEnvelope, envelope []byte) error {
	if h := artifact.NewHash(listed.Envelope.Algorithm()); h != nil {
		h.Write(envelope)
		if got := artifact.DigestFrom(listed.Envelope.Algorithm(), h); got != listed.Envelope {
			return fmt.Errorf("its bytes hash to %s", got)
		}
	}
	if listed.KeyID == "" { // nobody here vouches for it, so nothing is believed
		a.others++
		return nil
	}
	key, ok := a.keys[listed.KeyID]
	if !ok {
		return fmt.Errorf("it is said to be of key %.16s, which is none of those given", listed.KeyID)
	}
	opened, err := key.OpenStatement(envelope)
	switch {
	case err != nil:
		return fmt.Errorf("it does not verify by key %.16s: %w", listed.KeyID, err)
	case opened.PredicateType != listed.PredicateType:
		return fmt.Errorf("it is a statement of type %.200q, and is listed as %.200q", opened.PredicateType, listed.PredicateType)
	case !slices.Contains(opened.Subjects, listed.of.Digest):
		return fmt.Errorf("it is not about %s", listed.of.Digest)
	case key.revoked != nil && !a.proven(listed, key.revoked):
		return fmt.Errorf("it is of key %.16s, which was revoked at %s; no entry of the ledger here proves it to be older than what counts still", listed.KeyID, stamp(key.revoked.At))
	}
	a.own++
	return nil
}

// proven looks for an entry, among those that are in the tree, by which the key signed this before the instant until which that
// counts.
func (a *attestationCheck) proven(l listedEnvelope, revoked *server.PublicRevocation) bool {
	for _, e := range a.x.entries {
		said := strings.Fields(e.Subject)
		if e.Kind == "signed" && e.Repository == l.of.Repository && e.Digest == l.of.Digest && e.At.Before(revoked.Before) && len(said) > 1 && said[0] == l.KeyID &&
			slices.Contains(said[1:], l.PredicateType) && slices.ContainsFunc(l.Manifests, func(m artifact.Digest) bool { return slices.Contains(e.Evidence, m) }) {
			return true
		}
	}
	return false
}

// finish names what is listed and is not there, and returns all that is wrong.
func (a *attestationCheck) finish() []error {
	for _, file := range sortedNames(a.listed) {
		a.problem(file, "attestations.json lists it, and it is not there")
	}
	return a.wrong
}

func sortedNames[V any, K cmp.Ordered](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
