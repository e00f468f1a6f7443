package policy

import (
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"

	"waybill/artifact"
)

// bindNoSSHD: no daemon in the image gives a remote shell: not by path, not by package, not by content under another
// name, not by entrypoint, not by an exposed port.
func bindNoSSHD(with Node, given bool) (check, error) {
	return noSSHD, without(with, given)
}

// sshPackages are those that bring a daemon, of Debian, Alpine and the RPM distributions.
var sshPackages = []string{"openssh-server", "openssh-server-pam", "openssh-server-krb5", "openssh-sftp-server-daemon", "openssh",
	"dropbear", "dropbear-bin", "dropbear-run", "dropbear-initramfs", "dropbear-openrc", "tinysshd", "lsh-server"}

// packageTypes are the package managers whose "openssh" and "dropbear" mean a daemon; a Go module of that name does not.
var packageTypes = []string{"deb", "debian", "ubuntu", "dpkg", "apk", "alpine", "rpm", "redhat", "fedora", "centos", "rocky", "alma", "amazon", "oracle", "suse", "photon", "wolfi", "chainguard"}

func noSSHD(img Image) []finding {
	var found []finding
	found = append(found, daemonFiles(img)...)
	found = append(found, daemonPackages(img.Facts)...)
	found = append(found, startsDaemon(img)...)
	found = append(found, sshPort(img.Config)...)
	return append(found, hiddenDaemons(img.Facts)...)
}

const howToDropSSHD = "; take it out: use `docker exec` or `kubectl exec` to look inside a container"

// isDaemon says what daemon a file is, by its bytes or by where it lies; "" when it is none.
func isDaemon(f artifact.File) string {
	if f.Type != artifact.Regular && f.Type != artifact.Hardlink {
		return ""
	}
	switch {
	case slices.Contains(f.Marks, artifact.MarkSSHD):
		return "an OpenSSH daemon"
	case slices.Contains(f.Marks, artifact.MarkDropbear):
		return "a dropbear daemon"
	}
	if isNamedDaemon(f.Path, f) {
		return "named like an ssh daemon"
	}
	return ""
}

// isNamedDaemon reports whether a program lies at a path where an ssh daemon would.
func isNamedDaemon(p string, f artifact.File) bool {
	dir, base := path.Split(p)
	inBin := strings.HasSuffix(dir, "bin/") || strings.HasSuffix(dir, "libexec/") || strings.HasSuffix(dir, "lib/openssh/")
	return slices.Contains(artifact.DaemonNames, base) && inBin && f.Mode&0o111 != 0 && (f.Type == artifact.Regular || f.Type == artifact.Hardlink)
}

func daemonFiles(img Image) []finding {
	var found []finding
	facts := img.Facts
	for _, p := range img.Facts.Notable {
		f := facts.Files[p]
		what := isDaemon(f.File)
		if f.Type == artifact.Symlink {
			// What a link of that name leads to runs by that name.
			if to, ok := facts.Resolve(p); ok && isNamedDaemon(p, to.File) {
				what = "a link named like an ssh daemon, to /" + to.Path + ","
			}
		}
		if what != "" {
			found = append(found, finding{message: fmt.Sprintf("/%s is %s (layer %d of %d)%s", p, what, f.Layer+1, len(facts.Layers), howToDropSSHD), evidence: []string{p}})
		}
	}
	return found
}

func daemonPackages(facts artifact.ImageFacts) []finding {
	var found []finding
	for _, p := range facts.Packages {
		if slices.Contains(sshPackages, p.Name) && slices.Contains(packageTypes, p.Type) {
			found = append(found, finding{message: fmt.Sprintf("the package %s %s is installed; remove it", p.Name, p.Version), evidence: []string{p.Name}})
		}
	}
	return found
}

// startsDaemon looks at what the image runs: the words of ENTRYPOINT and CMD, of HEALTHCHECK, which docker runs too, and the
// scripts that shells read before theirs; what files those are, and what a shell would make of them.
func startsDaemon(img Image) []finding {
	config := img.Config.Config
	search := searchPath(config)
	looked := map[string]bool{}
	for _, of := range []struct {
		what  string
		words []string
	}{{"the entrypoint", slices.Concat(config.Entrypoint, config.Cmd)}, {"the health check", config.Healthcheck.Test}, {"the shell's start", readFirst(config)}} {
		for _, word := range of.words {
			for command := range commands(word) {
				if looked[command] {
					continue
				}
				if looked[command] = true; len(looked) > maxCommands || len(search) > maxSearched {
					return []finding{{message: fmt.Sprintf("ENTRYPOINT, CMD and HEALTHCHECK have more than %d different words, or PATH more than %d folders, so that what starts cannot be told", maxCommands, maxSearched)}}
				}
				if slices.Contains(artifact.DaemonNames, path.Base(command)) {
					return []finding{{message: fmt.Sprintf("%s runs %s%s", of.what, command, howToDropSSHD), evidence: []string{command}}}
				}
				for _, candidate := range locate(command, config.WorkingDir, search) {
					f, ok := img.Facts.Resolve(artifact.Escape(candidate))
					if ok && slices.Contains(f.Marks, artifact.MarkRunsSSHD) {
						return []finding{{message: fmt.Sprintf("%s /%s starts an ssh daemon%s", of.what, f.Path, howToDropSSHD), evidence: []string{f.Path}}}
					}
				}
			}
		}
	}
	return nil
}

// commands are a word itself, which may be a path with spaces in it, the words that a shell would find in it, and the paths in those
// that stand behind a sign (--exec=/start) or in braces.
func commands(word string) iter.Seq[string] {
	anyOf := func(signs string) func(rune) bool {
		return func(r rune) bool { return strings.ContainsRune(signs, r) }
	}
	return func(yield func(string) bool) {
		if !yield(word) {
			return
		}
		for command := range strings.FieldsFuncSeq(word, anyOf(" \t\n;&|()`\"'")) {
			if !yield(command) {
				return
			}
			for part := range strings.FieldsFuncSeq(command, anyOf("=,<>{}$")) {
				if strings.Contains(part, "/") && !yield(part) {
					return
				}
			}
		}
	}
}

// readFirst are the files that a shell reads before it does anything else (bash(1), dash(1), "INVOCATION").
func readFirst(config artifact.RunConfig) []string {
	var files []string
	for _, variable := range config.Env {
		if name, value, _ := strings.Cut(variable, "="); name == "BASH_ENV" || name == "ENV" {
			files = append(files, value)
		}
	}
	return files
}

// Bounds of what is looked up: no real image comes near.
const (
	maxCommands = 1000
	maxSearched = 100
)

// searchPath returns the folders of the image's PATH.
func searchPath(config artifact.RunConfig) []string {
	search := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, variable := range config.Env {
		if value, ok := strings.CutPrefix(variable, "PATH="); ok {
			search = value
		}
	}
	return strings.SplitN(search, ":", maxSearched+2)
}

// locate returns where a command word may lie: as it is, below the working directory, or on the image's PATH.
func locate(command, workingDir string, search []string) []string {
	if strings.Contains(command, "/") {
		return []string{command, path.Join(workingDir, command)}
	}
	candidates := []string{path.Join(workingDir, command)}
	for _, dir := range search {
		candidates = append(candidates, path.Join(dir, command))
	}
	return candidates
}

func sshPort(config artifact.ImageConfig) []finding {
	for port := range config.Config.ExposedPorts {
		number, protocol, _ := strings.Cut(port, "/")
		first, last, isRange := strings.Cut(number, "-")
		low, ok := numeric(first)
		high := low
		if isRange {
			high, _ = numeric(last)
		}
		if ok && low <= 22 && 22 <= high && (protocol == "" || strings.EqualFold(protocol, "tcp")) {
			return []finding{{message: fmt.Sprintf("port %s is exposed, which is ssh's; remove the EXPOSE", port), evidence: []string{port}}}
		}
	}
	return nil
}

// hiddenDaemons warns of what a later layer removed: nothing runs it, but its bytes still travel.
func hiddenDaemons(facts artifact.ImageFacts) []finding {
	var found []finding
	seen := map[string]bool{}
	for _, h := range facts.Hidden {
		what := isDaemon(h.File)
		if here, visible := facts.Files[h.Path]; what == "" || seen[h.Path] || visible && isDaemon(here.File) != "" {
			continue // that it is there is said already
		}
		seen[h.Path] = true
		found = append(found, finding{warning: true, evidence: []string{h.Path}, message: fmt.Sprintf(
			"/%s, %s, is in layer %d and removed or replaced in layer %d: it does not run, but its bytes still travel; remove it in the step that adds it", h.Path, what, h.Layer+1, h.HiddenBy+1)})
	}
	slices.SortFunc(found, func(a, b finding) int { return compare(a.evidence[0], b.evidence[0]) })
	return found
}
