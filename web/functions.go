package web

import (
	"fmt"
	"html/template"
	"reflect"
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
		"add":        func(a, b int64) int64 { return a + b },
		"duration":   duration,
		"shorten":    shorten,
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
		"name":       nameOf,
		"clip":       clip,
		"first":      first,
		"beyond":     func(n int, list any) int { return max(reflect.ValueOf(list).Len()-n, 0) },
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

// until is how long something lasts that has not ended, and ago what has.
func until(d time.Duration) string {
	switch {
	case d <= 0:
		return ago(-d)
	case d < time.Hour:
		return fmt.Sprintf("in %d min", int(d.Minutes())+1)
	case d < 48*time.Hour:
		return fmt.Sprintf("in %d h", int(d.Hours()))
	}
	return fmt.Sprintf("in %d days", int(d.Hours()/24))
}

// duration is one as people say it: 6 h, 3 days.
func duration(d time.Duration) string {
	switch {
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// shorten is a digest without its algorithm, or an id, as far as it tells one from others.
func shorten(name string) string {
	if _, hex, ok := strings.Cut(name, ":"); ok {
		name = hex
	}
	return name[:min(len(name), 12)]
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

// first is the beginning of a list, of which the page says how many more there are: no list makes a page long.
func first(n int, list any) any {
	v := reflect.ValueOf(list)
	return v.Slice(0, min(n, v.Len())).Interface()
}

// maxClip is how much of a reason a list shows; the digest's page and the ledger have all of it.
const maxClip = 160

// clip is the beginning of a text that may be long.
func clip(text string) string {
	runes := []rune(text)
	if len(runes) <= maxClip {
		return text
	}
	return string(runes[:maxClip-1]) + "…"
}
