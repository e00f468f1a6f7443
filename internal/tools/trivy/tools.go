//go:build tools

// Package trivy pins the command that findings are compared with.
package trivy

import _ "github.com/aquasecurity/trivy/cmd/trivy"
