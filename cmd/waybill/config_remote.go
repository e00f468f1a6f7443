package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"waybill/artifact"
	"waybill/mirror"
)

// RemoteConfig names a registry elsewhere, and who Waybill is there.
type RemoteConfig struct {
	// Name is what it is called here: a part of a repository's name, such as docker.io.
	Name string `yaml:"name"`
	// URL is https://HOST[:PORT].
	URL string `yaml:"url"`
	// Username to sign in with; it needs one of the two that follow. Empty: nobody signs in.
	Username string `yaml:"username"`
	// PasswordFile holds the password, or a token; it is read at each sign-in.
	PasswordFile string `yaml:"passwordFile"`
	// PasswordVariable is the environment variable that holds it, where that suits better.
	PasswordVariable string `yaml:"passwordVariable"`
	// Insecure allows http:// and certificates that nobody vouches for.
	Insecure bool `yaml:"insecure"`
}

// MirrorConfig is a registry to serve as read-only repositories.
type MirrorConfig struct {
	RemoteConfig `yaml:",inline"`
	// TTL is how long an answer of where a tag stands is good for. Default 5m.
	TTL time.Duration `yaml:"ttl"`
}

// ReplicationConfig is a registry to copy what is promoted to, with all that refers to it.
type ReplicationConfig struct {
	RemoteConfig `yaml:",inline"`
	// Repositories are patterns of those that are copied, such as shop/**.
	Repositories []string `yaml:"repositories"`
	// Environments are those a promotion to which is copied.
	Environments []string `yaml:"environments"`
	// Prefix is what a repository's name there begins with: with edge, shop/returns is edge/shop/returns. Default none.
	Prefix string `yaml:"prefix"`
}

// wrongRemote returns what is wrong with the first registry elsewhere that cannot be, and where that is written.
func (cfg *Config) wrongRemote() (at string, wrong error) {
	seen := map[string]bool{}
	for i, m := range cfg.Mirrors {
		place := fmt.Sprintf("$.mirrors[%d]", i)
		if key, wrong := m.wrong(); wrong != nil {
			return place + key, wrong
		}
		switch {
		case seen[m.Name]:
			return place + ".name", fmt.Errorf("another mirror is called %s too", m.Name)
		case m.TTL < time.Second:
			return place + ".ttl", errors.New("want at least 1s")
		}
		seen[m.Name] = true
	}
	clear(seen)
	for i, r := range cfg.Replication {
		place := fmt.Sprintf("$.replication[%d]", i)
		if key, wrong := r.wrong(); wrong != nil {
			return place + key, wrong
		}
		if seen[r.Name] {
			return place + ".name", fmt.Errorf("another target is called %s too", r.Name)
		}
		seen[r.Name] = true
	}
	return "", nil
}

func (r ReplicationConfig) wrong() (key string, wrong error) {
	if key, wrong := r.RemoteConfig.wrong(); wrong != nil {
		return key, wrong
	}
	if len(r.Repositories) == 0 || len(r.Environments) == 0 {
		return ".name", errors.New("want repositories, such as [shop/**], and environments, such as [production]")
	}
	for i, glob := range r.Repositories {
		if !artifact.ValidGlob(glob) {
			return fmt.Sprintf(".repositories[%d]", i), fmt.Errorf("%.80q is no pattern; want one such as shop/**", glob)
		}
	}
	for i, name := range r.Environments {
		if _, err := artifact.ParseEnvironment(name); err != nil {
			return fmt.Sprintf(".environments[%d]", i), err
		}
	}
	if r.Prefix != "" {
		if _, err := artifact.ParseRepository(r.Prefix); err != nil {
			return ".prefix", err
		}
	}
	return "", nil
}

func (r RemoteConfig) wrong() (key string, wrong error) {
	secret := ".passwordFile"
	if r.PasswordVariable != "" {
		secret = ".passwordVariable"
	}
	repository, err := artifact.ParseRepository(r.Name)
	switch {
	case err != nil || strings.Contains(repository.String(), "/"):
		return ".name", fmt.Errorf("name is %.80q; want lower-case letters, digits, '.', '_' or '-', such as docker.io", r.Name)
	case r.PasswordFile != "" && r.PasswordVariable != "":
		return secret, errors.New("passwordFile and passwordVariable are given; want one")
	case r.Username == "" && (r.PasswordFile != "" || r.PasswordVariable != ""):
		return secret, errors.New("a password is given, and no username")
	case r.Username != "" && r.PasswordFile == "" && r.PasswordVariable == "":
		return ".username", errors.New("username needs passwordFile or passwordVariable")
	}
	if _, err := r.password(); err != nil {
		return secret, err
	}
	if err := r.remote().Check(); err != nil {
		return ".url", err
	}
	return "", nil
}

// password reads the password from where it is kept.
func (r RemoteConfig) password() (string, error) {
	if r.PasswordVariable != "" {
		value := os.Getenv(r.PasswordVariable)
		if value == "" {
			return "", fmt.Errorf("variable %s holds no password", r.PasswordVariable)
		}
		return value, nil
	}
	if r.PasswordFile == "" {
		return "", nil
	}
	text, err := os.ReadFile(r.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("password: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

func (r RemoteConfig) remote() mirror.Remote {
	m := mirror.Remote{Name: r.Name, URL: r.URL, Username: r.Username, Insecure: r.Insecure}
	if r.Username != "" {
		m.Password = r.password
	}
	return m
}
