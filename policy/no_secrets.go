package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// secretExceptions are the parameters of no-secrets.
type secretExceptions struct {
	Paths []string `yaml:"paths"` // patterns of files that may look like secrets, such as those of tests
	IDs   []string `yaml:"ids"`   // the scanner's rules that are not asked
}

// bindNoSecrets: the scanner found no secret in a file, and the config holds none.
func bindNoSecrets(with Node, given bool) (check, error) {
	except, err := parameters[secretExceptions](with, given)
	if err != nil {
		return nil, err
	}
	for i := range except.Paths {
		except.Paths[i] = strings.TrimPrefix(except.Paths[i], "/")
	}
	return except.check, checkGlobs(with.At("$.paths"), "path", "a pattern such as srv/**/testdata/*", except.Paths)
}

func (x secretExceptions) check(img Image) []finding {
	found := secretsIn(img)
	if why := notScanned(img); why != nil {
		return append(why, found...)
	}
	for _, f := range img.Scan.Findings {
		path := strings.TrimPrefix(f.Path, "/")
		if f.Class != classSecret || slices.Contains(x.IDs, f.ID) || anyGlob(x.Paths, path) {
			continue
		}
		found = append(found, finding{id: f.ID, evidence: []string{f.ID, path}, message: fmt.Sprintf(
			"/%s holds a secret (%s, %s); take it out of the step that adds it, revoke it, and mount it at run time", path, f.ID, f.Title)})
	}
	return found
}

// secretForms are what few texts but secrets look like. The config is not in a layer, and no scanner of layers sees it.
var secretForms = []struct {
	name string
	form *regexp.Regexp
}{
	{"a private key", regexp.MustCompile(`-----BEGIN (?:[A-Z]+ )*PRIVATE KEY`)},
	{"an AWS access key", regexp.MustCompile(`\b(?:AKIA|ASIA)[0-9A-Z]{16}\b`)},
	{"a GitHub token", regexp.MustCompile(`\bgh[pousr]_[0-9A-Za-z]{36}|\bgithub_pat_[0-9A-Za-z_]{60}`)},
	{"a GitLab token", regexp.MustCompile(`\bglpat-[0-9A-Za-z_-]{20}`)},
	{"a Slack token", regexp.MustCompile(`\bxox[abprs]-[0-9A-Za-z-]{20}`)},
	{"a Google API key", regexp.MustCompile(`\bAIza[0-9A-Za-z_-]{35}`)},
	{"an npm token", regexp.MustCompile(`\bnpm_[0-9A-Za-z]{36}`)},
	{"a Stripe key", regexp.MustCompile(`\b[rs]k_live_[0-9A-Za-z]{24}`)},
}

// secretsIn looks through what the config says: ENV, LABEL, commands, and the history, where build arguments stay. What
// is found is not repeated.
func secretsIn(img Image) []finding {
	type text struct{ where, value string }
	var texts []text
	run := img.Config.Config
	for _, variable := range run.Env {
		name, _, _ := strings.Cut(variable, "=")
		texts = append(texts, text{"ENV " + name, variable})
	}
	for _, name := range sortedKeys(run.Labels) {
		texts = append(texts, text{"LABEL " + name, run.Labels[name]})
	}
	texts = append(texts, text{"ENTRYPOINT", strings.Join(run.Entrypoint, "\x00")}, text{"CMD", strings.Join(run.Cmd, "\x00")})
	for i, h := range img.Config.History {
		texts = append(texts, text{fmt.Sprintf("step %d of the history", i+1), h.CreatedBy + "\x00" + h.Comment})
	}
	var found []finding
	for _, t := range texts {
		for _, s := range secretForms {
			if s.form.MatchString(t.value) {
				found = append(found, finding{evidence: []string{t.where}, message: fmt.Sprintf("%s holds %s; give it at run time, or to the build as a secret mount, and revoke this one", t.where, s.name)})
				break
			}
		}
	}
	return found
}
