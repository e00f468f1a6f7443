package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"waybill/signer"
)

// SignerConfig says what signs images and statements about them.
type SignerConfig struct {
	// Key is a key in a KMS, awskms://, azurekms://, gcpkms:// or hashivault://, or the file of a private key that cosign
	// made. Credentials for a KMS come from the variables that its own tools read. Empty: Waybill makes a key, and keeps
	// it in the data folder. See docs/signing.md.
	Key string `yaml:"key"`
	// PasswordFile holds the password of a key in a file; it is read when the key is.
	PasswordFile string `yaml:"passwordFile"`
	// PasswordVariable is the environment variable that holds it, where that suits better. Default COSIGN_PASSWORD.
	PasswordVariable string `yaml:"passwordVariable"`
	// Program is the path of waybill-kms, which runs while a key in a KMS signs. Default: beside this program, else on PATH.
	Program string `yaml:"program"`
}

// wrongSigner returns what is wrong with the signing key, and where that is written.
func (cfg *Config) wrongSigner() (at string, wrong error) {
	s := cfg.Signer
	file := s.Key != "" && !strings.Contains(s.Key, "://")
	switch {
	case signer.CheckReference(s.Key) != nil:
		return "$.signer.key", fmt.Errorf("signer.key: %w", signer.CheckReference(s.Key))
	case s.PasswordFile != "" && s.PasswordVariable != "":
		return "$.signer.passwordVariable", errors.New("signer: passwordFile and passwordVariable are given; want one")
	case !file && s.PasswordFile != "":
		return "$.signer.passwordFile", errors.New("signer: a password is given, and no key in a file; a KMS has credentials of its own")
	case !file && s.PasswordVariable != "":
		return "$.signer.passwordVariable", errors.New("signer: a password is given, and no key in a file; a KMS has credentials of its own")
	}
	return "", nil
}

// password reads the password of a key in a file from where it is kept.
func (s SignerConfig) password() ([]byte, error) {
	if s.PasswordFile == "" {
		name := s.PasswordVariable
		if name == "" {
			name = "COSIGN_PASSWORD"
		}
		value, ok := os.LookupEnv(name)
		if !ok {
			return nil, fmt.Errorf("its password is neither in signer.passwordFile nor in the variable %s", name)
		}
		return []byte(value), nil
	}
	text, err := os.ReadFile(s.PasswordFile)
	if err != nil {
		return nil, fmt.Errorf("signer.passwordFile: %w", err)
	}
	return []byte(strings.TrimRight(string(text), "\r\n")), nil
}
