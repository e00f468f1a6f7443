package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"waybill/artifact"
	"waybill/policy"
	"waybill/promotion"
	"waybill/server"
	"waybill/signer"
)

// TrustRootConfig is what vouches for certificates that others sign with. Policies and pipelines name it. Nothing is
// fetched; a change takes a restart.
type TrustRootConfig struct {
	// Name by which policies know it.
	Name string `yaml:"name"`
	// File is sigstore's trusted_root.json. With it, nothing of the rest.
	File string `yaml:"file"`
	// CertificateAuthorities are files of certificate chains in PEM, as Fulcio's.
	CertificateAuthorities []string `yaml:"certificateAuthorities"`
	// TransparencyLogs are files of public keys, as Rekor's. With one, an entry there is asked for.
	TransparencyLogs []string `yaml:"transparencyLogs"`
	// CertificateTransparencyLogs are files of public keys. With one, a certificate's entry there is asked for.
	CertificateTransparencyLogs []string `yaml:"certificateTransparencyLogs"`
	// TimestampAuthorities are files of certificate chains (RFC 3161).
	TimestampAuthorities []string `yaml:"timestampAuthorities"`
}

// maxTrustFile bounds one file of a trust root, in bytes.
const maxTrustFile = 1 << 20

// wrongTrustRoot returns what is wrong with the first trust root that cannot be used, and where that is written.
func (cfg *Config) wrongTrustRoot() (at string, wrong error) {
	_, at, wrong = cfg.trust()
	return at, wrong
}

// trust reads the trust roots.
func (cfg *Config) trust() (trust signer.Trust, at string, wrong error) {
	trust = signer.Trust{}
	for i, t := range cfg.TrustRoots {
		at := fmt.Sprintf("$.trustRoots[%d]", i)
		switch {
		case t.Name == "" || len(t.Name) > 63:
			return nil, at, errors.New("a trust root wants a name of at most 63 bytes, by which policies know it")
		case trust[t.Name] != nil:
			return nil, at + ".name", fmt.Errorf("another trust root is called %s too", t.Name)
		case t.File != "" && len(t.CertificateAuthorities)+len(t.TransparencyLogs)+len(t.CertificateTransparencyLogs)+len(t.TimestampAuthorities) > 0:
			return nil, at + ".file", errors.New("trusted_root.json has all of a trust root; give nothing beside it")
		}
		src, err := t.read()
		if err != nil {
			return nil, at, err
		}
		if trust[t.Name], err = signer.NewTrustRoot(t.Name, src); err != nil {
			return nil, at, err
		}
	}
	return trust, "", nil
}

func (t TrustRootConfig) read() (src policy.TrustRoot, err error) {
	if t.File != "" {
		src.TrustedRoot, err = readTrust(t.File)
		return src, err
	}
	for _, list := range []struct {
		files []string
		texts *[]string
	}{{t.CertificateAuthorities, &src.CertificateAuthorities}, {t.TransparencyLogs, &src.TransparencyLogs},
		{t.CertificateTransparencyLogs, &src.CertificateTransparencyLogs}, {t.TimestampAuthorities, &src.TimestampAuthorities}} {
		for _, file := range list.files {
			text, err := readTrust(file)
			if err != nil {
				return src, err
			}
			*list.texts = append(*list.texts, text)
		}
	}
	return src, nil
}

func readTrust(file string) (string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	if info.Size() > maxTrustFile {
		return "", fmt.Errorf("%s has %d bytes; at most %d are read", file, info.Size(), maxTrustFile)
	}
	text, err := os.ReadFile(file)
	return string(text), err
}

// trusting are documents whose trust roots are looked at before they are applied.
type trusting struct {
	documents
	trust signer.Trust
}

// Fit refuses documents whose trust roots cannot be used, and those that do not fit together.
func (t trusting) Fit(ctx context.Context, all []server.ParsedDocument) error {
	for _, d := range all {
		if err := t.sound(d); err != nil {
			return err
		}
	}
	return t.documents.Fit(ctx, all)
}

func (t trusting) sound(d server.ParsedDocument) error {
	switch d.Kind {
	case "Policy":
		parsed, err := policy.Parse(d.Name, d.Body)
		if err != nil {
			return err
		}
		for _, p := range parsed {
			if err := p.TrustRoots(t.trust.Sound); err != nil {
				return err
			}
		}
	case "Pipeline":
		parsed, err := promotion.Parse(d.Name, d.Body)
		if err != nil {
			return err
		}
		for _, p := range parsed {
			if err := p.TrustRoots(t.trust.Sound); err != nil {
				return err
			}
		}
	}
	return nil
}

// unsigned has those of digests that may be signed, and are not, signed.
func unsigned(find func(context.Context, []artifact.Reference) ([]artifact.Reference, error), sign func(context.Context, []artifact.Reference) error) func(context.Context, []artifact.Reference) error {
	return func(ctx context.Context, all []artifact.Reference) error {
		left, err := find(ctx, all)
		if err != nil {
			return err
		}
		return sign(ctx, left)
	}
}
