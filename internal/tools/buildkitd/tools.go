//go:build tools

// Package buildkitd pins the daemon that Dockerfiles with RUN are built with in tests and in the demo.
package buildkitd

import _ "github.com/moby/buildkit/cmd/buildkitd"
