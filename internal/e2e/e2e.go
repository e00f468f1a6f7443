// Package e2e drives the built programs as their users do: real clients, a real PostgreSQL, real Debian images. It
// has tests only; `make test` makes what they need.
package e2e
