package main

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"waybill/builder"
	"waybill/policy"
)

// BuilderConfig bounds builds, and says where they get things from.
type BuilderConfig struct {
	// Context is how many bytes a build context may have. Default 4Gi.
	Context policy.Quantity `yaml:"context"`
	// Files is how many files, folders and links it may have. Default 200000.
	Files int `yaml:"files"`
	// Unpacked is how many bytes a build may unpack of archives that ADD names, and of bases that it copies from. Default 20Gi.
	Unpacked policy.Quantity `yaml:"unpacked"`
	// Git are patterns of repositories that contexts may be fetched from, such as https://git.example.com/shop/*.git, each with its
	// scheme; ** at the end stands for all below. Default none: the server fetches nothing.
	Git []string `yaml:"git"`
	// BuildKit builds Dockerfiles with RUN.
	BuildKit BuildKitConfig `yaml:"buildkit"`
}

// wrong says what cannot be meant.
func (b BuilderConfig) wrong() error {
	for _, pattern := range b.Git {
		if scheme, _, ok := strings.Cut(pattern, "://"); !ok || !slices.Contains([]string{"https", "http", "file"}, scheme) {
			return fmt.Errorf("builder.git: %q names no scheme; want a pattern such as https://git.example.com/shop/*.git", pattern)
		}
	}
	if err := b.BuildKit.wrong(); err != nil {
		return fmt.Errorf("builder.buildkit: %w", err)
	}
	return nil
}

// limits are the same as the builder takes them.
func (b BuilderConfig) limits() builder.Limits {
	return builder.Limits{Context: int64(b.Context), Files: b.Files, Unpacked: int64(b.Unpacked)}
}

// hosts are the names that this registry goes by in FROM.
func (cfg Config) hosts() []string {
	hosts := []string{cfg.Listen}
	if u, err := url.Parse(cfg.ExternalURL); err == nil && u.Host != "" {
		hosts = append(hosts, u.Host)
	}
	return hosts
}

// mirrorNames are the registries that FROM may name as they are.
func (cfg Config) mirrorNames() map[string]bool {
	names := map[string]bool{}
	for _, m := range cfg.Mirrors {
		names[m.Name] = true
	}
	return names
}
