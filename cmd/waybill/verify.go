package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"waybill/artifact"
	"waybill/ledger"
	"waybill/server"
)

// verification is what verify found: every check, also those after one that failed.
type verification struct {
	Reference   string               `json:"reference"`
	Environment artifact.Environment `json:"environment,omitzero"`
	OK          bool                 `json:"ok"`
	KeysFrom    string               `json:"keysFrom"`
	Checks      []check              `json:"checks"`
}

// check is one thing that was proved, or was not.
type check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

func newVerify() *cobra.Command {
	var environment, keyFile, ledgerKeyFile, bundleFile, exportFile, save string
	var ever bool
	cmd := &cobra.Command{
		Use:   "verify REPO@DIGEST|--export FILE",
		Short: "Check signature and, of an environment, that the digest runs there",
		Long: `Check a digest's signature and, with --environment, that its promotion is in the ledger and that nothing replaced it there
since: the exit status is 0 when it is what the environment runs, and 1 when it was rolled back, recalled or replaced. With
--ever it is enough that it was promoted: such a digest can still be pulled until it is recalled. The server is asked for the
evidence and for nothing else: every check is done here, with two public keys. Give the keys that you trust with --key
and --ledger-key (from "waybill key public" and "waybill key ledger"); without them the server's own are used, which
proves that the evidence fits together and not whose it is. With --bundle the evidence comes from a file that --save
wrote, and no server is asked. With --export every file of an archive that "waybill export" wrote is checked, likewise.`,
		Example: `  waybill verify shop/returns:v456 --environment production
  waybill verify shop/returns@sha256:18d8bca45cf4 --key waybill.pub
  waybill verify shop/returns:v456 --environment production --save evidence.json
  waybill verify --export october.tar.gz --key waybill.pub --ledger-key ledger.pub`,
		Args: func(cmd *cobra.Command, args []string) error {
			if exportFile != "" {
				return exactly(0)(cmd, args)
			}
			return exactly(1, "REPO@DIGEST")(cmd, args)
		},
	}
	output := outputFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&environment, "environment", "", "check the promotion to this `environment` too")
	flags.StringVar(&keyFile, "key", "", "`file` of the public key that signatures must be of (PEM)")
	flags.StringVar(&ledgerKeyFile, "ledger-key", "", "`file` of the ledger's verifier key")
	flags.StringVar(&bundleFile, "bundle", "", "take the evidence from this `file`")
	flags.StringVar(&exportFile, "export", "", "check the archive in this `file`")
	flags.StringVar(&save, "save", "", "write the evidence to this `file`")
	flags.BoolVar(&ever, "ever", false, "with --environment: that it was promoted is enough, though another digest runs there now")
	cmd.MarkFlagsMutuallyExclusive("export", "ever")
	cmd.MarkFlagsMutuallyExclusive("export", "bundle")
	cmd.MarkFlagsMutuallyExclusive("export", "save")
	cmd.MarkFlagsMutuallyExclusive("export", "environment")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if exportFile != "" {
			v, err := verifyExport(exportFile, keyFile, ledgerKeyFile)
			if err != nil {
				return err
			}
			if err := output.show(cmd, v, func(w io.Writer) { printVerification(w, v) }); err != nil || v.OK {
				return err
			}
			return v.failure()
		}
		if bundleFile == "" {
			c, err := newClient()
			if err != nil {
				return err
			}
			if args, err = c.localAll(args); err != nil {
				return err
			}
		}
		ref, err := artifact.ParseShortReference(args[0])
		if err != nil {
			return usageError{err}
		}
		if bundleFile != "" && ref.Digest.IsZero() {
			return usageError{errors.New("with --bundle name the whole digest, REPO@DIGEST: which one a tag or the beginning of a digest means, only the server could say")}
		}
		var e artifact.Environment
		if environment != "" {
			if e, err = artifact.ParseEnvironment(environment); err != nil {
				return usageError{err}
			}
		}
		bundle, err := readBundle(cmd.Context(), bundleFile, args[0], environment)
		if err != nil {
			return err
		}
		if save != "" {
			if err := writeJSON(save, bundle); err != nil {
				return err
			}
		}
		keys, from, err := trustedKeys(bundle.Keys, keyFile, ledgerKeyFile)
		if err != nil {
			return err
		}
		v := verifyBundle(bundle, ref, e, keys)
		if !e.IsZero() && !ever {
			v.checkCurrent(bundle.Runs, bundle.Digest)
		}
		v.KeysFrom = from
		if err := output.show(cmd, v, func(w io.Writer) { printVerification(w, v) }); err != nil || v.OK {
			return err
		}
		return v.failure()
	}
	return cmd
}

func (v verification) failure() error {
	lines := []string{v.Reference + " does not verify"}
	for _, c := range v.Checks {
		if !c.OK {
			lines = append(lines, "  "+printable(c.Name+": "+c.Detail))
		}
	}
	return errors.New(strings.Join(lines, "\n"))
}

func printVerification(w io.Writer, v verification) {
	for _, c := range v.Checks {
		word := "ok"
		if !c.OK {
			word = "FAILED"
		}
		fmt.Fprintf(w, "%-7s %-12s %s\n", word, c.Name, printable(c.Detail))
	}
	fmt.Fprintf(w, "keys    %s\n", v.KeysFrom)
	if v.OK {
		fmt.Fprintf(w, "verified %s\n", v.Reference)
	}
}

// readBundle gets the evidence from a file or from the server.
func readBundle(ctx context.Context, file, ref, environment string) (b server.Bundle, err error) {
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return b, usageError{err}
		}
		defer f.Close()
		if err := json.NewDecoder(io.LimitReader(f, maxAnswer)).Decode(&b); err != nil {
			return b, fmt.Errorf("%s is not what `waybill verify --save` writes: %w", file, err)
		}
		return b, nil
	}
	c, err := newClient()
	if err != nil {
		return b, err
	}
	query := url.Values{"ref": {ref}}
	if environment != "" {
		query.Set("environment", environment)
	}
	return b, c.get(ctx, "/verify", query, &b)
}

func writeJSON(file string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644) //nolint:gosec // evidence is public
}

// trustedKeys returns the keys that were given, and for those that were not the server's, saying so.
func trustedKeys(served server.PublicKeys, keyFile, ledgerKeyFile string) (server.PublicKeys, string, error) {
	var own []string
	for _, k := range []struct {
		file  string
		into  *string
		name  string
		check func(string) error
	}{{keyFile, &served.PublicKeyPEM, "signature key", checkKeys}, {ledgerKeyFile, &served.LedgerVerifier, "ledger key", ledger.CheckVerifier}} {
		if k.file == "" {
			own = append(own, k.name)
			continue
		}
		b, err := os.ReadFile(k.file)
		if err != nil {
			return served, "", usageError{err}
		}
		*k.into = strings.TrimSpace(string(b))
		if err := k.check(*k.into); err != nil {
			return served, "", usageError{fmt.Errorf("%s: %w", k.file, err)}
		}
	}
	if keyFile != "" {
		pin(&served)
	}
	if len(own) == 0 {
		return served, "the files given", nil
	}
	return served, strings.Join(own, " and ") + " as the server says; pin them with --key and --ledger-key", nil
}

// verifyBundle checks everything that a bundle claims. What was asked for comes from the command line, never from
// the bundle: evidence of another digest or environment proves nothing here.
func verifyBundle(b server.Bundle, ref artifact.ShortReference, e artifact.Environment, keys server.PublicKeys) verification {
	want := ref.Digest
	if want.IsZero() {
		want = b.Digest // a tag or a digest's beginning was given: what it stands at is the server's word
	}
	v := verification{Reference: fmt.Sprintf("%s@%s", ref.Repository, want), Environment: e, OK: true}
	add := func(name string, detail string, err error) {
		if err != nil {
			v.OK, detail = false, err.Error()
		}
		v.Checks = append(v.Checks, check{Name: name, OK: err == nil, Detail: detail})
	}
	if !ref.Means(want) {
		add("digest", "", fmt.Errorf("the evidence is of %s, which %s does not mean", want, ref))
	}
	add("manifest", fmt.Sprintf("%d bytes hash to %s", len(b.Manifest), want), checkManifest(b.Manifest, want))
	root, err := ledger.OpenCheckpoint(b.Checkpoint, strings.TrimSpace(keys.LedgerVerifier))
	detail, wrong := checkSignatures(b.Signatures, ref.Repository, want, keys, signedBefore(b.Signed, root, err))
	add("signature", detail, wrong)
	if e.IsZero() {
		return v
	}
	add("checkpoint", fmt.Sprintf("of %s, signed by %s", artifact.Count(root.Size, "entry"), root.Origin), err)
	if b.Promotion == nil {
		add("promotion", "", fmt.Errorf("the evidence names no promotion to %s", e))
		return v
	}
	detail, err = checkPromotion(b.Promotion.Leaf, ref.Repository, want, e)
	add("promotion", detail, err)
	add("ledger", fmt.Sprintf("entry %d is in the tree of the checkpoint", b.Promotion.Index), checkInclusion(*b.Promotion, root))
	return v
}

// checkCurrent adds whether the environment runs the digest. That is the server's word, at the time that the evidence is of.
func (v *verification) checkCurrent(now *server.Running, d artifact.Digest) {
	c := check{Name: "current"}
	switch {
	case now == nil:
		c.Detail = fmt.Sprintf("the evidence does not say what %s runs; with --ever it is enough that it was promoted", v.Environment)
	case now.Digest == d:
		c.OK, c.Detail = true, fmt.Sprintf("%s runs it since %s, as the server said at %s", v.Environment, stamp(now.Since), stamp(now.At))
	case now.Digest.IsZero():
		c.Detail = fmt.Sprintf("%s ran nothing at %s: what it ran was recalled", v.Environment, stamp(now.At))
	default:
		by := now.Actor
		if now.Reason != "" {
			by += ": " + now.Reason
		}
		c.Detail = fmt.Sprintf("in %s it was replaced by %s at %s, by %s; with --ever it is enough that it was promoted", v.Environment, strings.TrimSpace(now.Version+" "+now.Digest.String()), stamp(now.Since), by)
	}
	v.OK = v.OK && c.OK
	v.Checks = append(v.Checks, c)
}

func checkManifest(body []byte, want artifact.Digest) error {
	h := artifact.NewHash(want.Algorithm())
	if h == nil {
		return errors.New("the bundle names no digest")
	}
	h.Write(body)
	if got := artifact.DigestFrom(want.Algorithm(), h); got != want {
		return fmt.Errorf("the manifest's bytes hash to %s, not to %s", got, want)
	}
	return nil
}

func parsePublicKey(text string) (crypto.PublicKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("the public key is not PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the public key: %w", err)
	}
	return key, nil
}

// checkSignature follows cosign's SIGNATURE_SPEC.md: the signature is over the payload's bytes, and the payload
// (simple signing) names the digest.
func checkSignature(s server.BundleSignature, r artifact.Repository, want artifact.Digest, key crypto.PublicKey) error {
	sum := sha256.Sum256(s.Payload)
	var ok bool
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(k, sum[:], s.Signature)
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, s.Payload, s.Signature)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], s.Signature) == nil
	default:
		return fmt.Errorf("a public key of type %T cannot be used here", key)
	}
	if !ok {
		return errors.New("it is not of the given key")
	}
	var payload struct {
		Critical struct {
			Type     string `json:"type"`
			Identity struct {
				Reference string `json:"docker-reference"`
			} `json:"identity"`
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
		} `json:"critical"`
	}
	if err := json.Unmarshal(s.Payload, &payload); err != nil {
		return fmt.Errorf("its payload: %w", err)
	}
	if payload.Critical.Type != "cosign container image signature" || payload.Critical.Image.Digest != want.String() {
		return fmt.Errorf("its payload is about %.200q", payload.Critical.Image.Digest)
	}
	// A registry's host may stand before the repository.
	if named := payload.Critical.Identity.Reference; named != r.String() && !strings.HasSuffix(named, "/"+r.String()) {
		return fmt.Errorf("its payload is about the repository %.200q", named)
	}
	return nil
}

// checkPromotion reads the entry and asks whether it is of this digest, to this environment.
func checkPromotion(leaf []byte, r artifact.Repository, d artifact.Digest, e artifact.Environment) (string, error) {
	entry, err := ledger.Parse(leaf)
	if err != nil {
		return "", err
	}
	promotes := entry.Kind == ledger.KindPromotion || entry.Kind == ledger.KindRollback
	if !promotes || entry.Repository != r || entry.Digest != d || entry.Environment != e {
		return "", fmt.Errorf("the entry is a %q of %s@%s to %q", entry.Kind, entry.Repository, entry.Digest, entry.Environment)
	}
	return fmt.Sprintf("to %s by %s at %s", e, entry.Actor, stamp(entry.At)), nil
}

func checkInclusion(p server.InclusionProof, c ledger.Checkpoint) error {
	proof, err := hashes(p.Proof)
	if err != nil {
		return err
	}
	return ledger.CheckInclusion(c, p.Index, p.Leaf, proof)
}
