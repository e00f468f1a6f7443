package web

import (
	"fmt"
	"html/template"
	"regexp"
	"slices"
	"strings"
	"time"

	"waybill/artifact"
)

// functions are what templates call.
func (w *Web) functions() template.FuncMap {
	return template.FuncMap{
		"ago":        func(t time.Time) string { return ago(w.cfg.Now().Sub(t)) },
		"stamp":      func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
		"size":       size,
		"severities": severities,
		"cosignTag":  func(d artifact.Digest) string { return strings.Replace(d.String(), ":", "-", 1) },
		"join":       strings.Join,
		"next":       func(i int) int { return i + 1 },
		"iso":        func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"instant":    func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) },
		"local":      func(t time.Time) string { return t.UTC().Format("2006-01-02T15:04") },
		"change":     change,
		"until":      func(t time.Time) string { return until(t.Sub(w.cfg.Now())) },
		"day":        func(t time.Time) string { return t.UTC().Format(time.DateOnly) },
		"second":     func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") },
		"took":       took,
		"plain":      plainText,
		"prior":      func(i int) int { return i - 1 },
		"above":      func(i int64) int64 { return i + 1 },
		"grave":      grave,
		"brief":      func(s string) string { return hashes.ReplaceAllString(plainText(s), "$1") },
		"origin":     func(source string) string { s, _ := originOf(source); return s },
		"commit":     func(source string) string { _, commit := originOf(source); return commit },
		"few":        func(all []artifact.Reason) []artifact.Reason { return all[:min(len(all), shownReasons)] },
		"first":      func(all []string) []string { return all[:min(len(all), firstReasons)] },
		"rest":       func(all []string) int { return max(len(all)-firstReasons, 0) },
		"name":       nameOf,
		"done": func(action string) string {
			return map[string]string{"promote": "Promoted to", "rollback": "Rolled back to it in", "recall": "Recalled from", "retire": "Let go of with"}[action]
		},
	}
}

func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}

// until says how long something still is.
func until(d time.Duration) string {
	switch {
	case d < time.Minute:
		return "in less than a minute"
	case d < 2*time.Hour:
		return fmt.Sprintf("in %d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("in %d h", int(d.Hours()))
	}
	return fmt.Sprintf("in %d days", int(d.Hours()/24))
}

// hashes are told from each other by how they begin.
var hashes = regexp.MustCompile(`\b([0-9a-f]{12})[0-9a-f]{28,}\b`)

// originOf is the repository and the commit, short, of a build's source.
func originOf(source string) (origin, commit string) {
	i := strings.LastIndexByte(source, '@')
	if i < 0 || len(source)-i-1 < 40 || strings.Trim(source[i+1:], "0123456789abcdef") != "" {
		return source, ""
	}
	return source[:i], source[i+1:][:12]
}

// took is how long something was worked on.
func took(d time.Duration) string {
	if d < time.Minute {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

func size(n int64) string {
	value := float64(n)
	for _, unit := range []string{"B", "KiB", "MiB"} {
		if value < 1024 {
			return fmt.Sprintf("%.3g %s", value, unit)
		}
		value /= 1024
	}
	return fmt.Sprintf("%.3g GiB", value)
}

type severityCount struct {
	Severity artifact.Severity
	Count    int
}

// severities lists what was found, worst first, without zeros.
func severities(counts map[artifact.Severity]int) []severityCount {
	var all []severityCount
	for _, s := range slices.Backward(artifact.Severities) {
		if counts[s] > 0 {
			all = append(all, severityCount{s, counts[s]})
		}
	}
	return all
}

// change is a size with its sign.
func change(n int64) string {
	switch {
	case n > 0:
		return "+" + size(n)
	case n < 0:
		return "−" + size(-n)
	}
	return "±0"
}

// nameOf is what people call an actor: of token:ada/b11d5232df9a and user:https://login.example#ada, ada. The whole is where it is hovered.
func nameOf(actor string) string {
	name := actor
	if kind, rest, ok := strings.Cut(actor, ":"); ok && (kind == "token" || kind == "user" || kind == "workload") {
		name = rest
		if kind == "token" {
			name, _, _ = strings.Cut(rest, "/")
		} else if i := strings.LastIndexByte(rest, '#'); i >= 0 { // after the issuer
			name = rest[i+1:]
		}
	}
	if name == "" {
		return actor
	}
	return name
}
