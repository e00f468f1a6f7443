package policy

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"

	"waybill/artifact"
)

// bindNoRootUser: the user that would run is not root. It is resolved as runc, containerd and docker do: a name by the
// image's own /etc/passwd, a number as it is.
func bindNoRootUser(with Node, given bool) (check, error) {
	return noRootUser, without(with, given)
}

const howToDropRoot = "; add `USER 65532` (or another number above 0) to the Dockerfile"

func noRootUser(img Image) []finding {
	user := img.Config.Config.User
	uid, why := runningUser(user, img.Facts)
	if why != "" {
		return []finding{{message: why + howToDropRoot}}
	}
	if uid == 0 {
		return []finding{{message: fmt.Sprintf("the image runs as root: USER is %s%s", quoted(user), howToDropRoot)}}
	}
	return nil
}

func quoted(user string) string {
	if user == "" {
		return "not set"
	}
	return strconv.Quote(user)
}

// runningUser returns the uid that USER stands for, or why that cannot be told. What cannot be told is treated as
// root, since runtimes differ: some refuse to start, some fall back to 0.
func runningUser(user string, facts artifact.ImageFacts) (uid int64, why string) {
	if strings.ContainsFunc(user, func(c rune) bool { return unicode.IsSpace(c) || !unicode.IsPrint(c) }) {
		return 0, fmt.Sprintf("USER %q has spaces or control characters, and runtimes differ in who that is", user)
	}
	name, _, _ := strings.Cut(user, ":")
	if name == "" {
		return 0, ""
	}
	passwd, found := contents(facts, "etc/passwd")
	if n, ok := numeric(name); ok {
		if n < 0 || n > maxUser {
			return 0, fmt.Sprintf("USER %q is outside the range of user ids (0 to %d): runtimes refuse it, wrap it, or take it for a name", user, maxUser)
		}
		if uid, named, why := lookUp(user, name, passwd); named && n > 0 && (uid == 0 || why != "") {
			return 0, fmt.Sprintf("USER %q is a number, and also a name that /etc/passwd maps to root: runtimes differ in which counts", user)
		}
		return n, ""
	}
	if !found {
		return 0, fmt.Sprintf("USER %q is a name, and the image has no /etc/passwd that says who that is", user)
	}
	uid, named, why := lookUp(user, name, passwd)
	if !named {
		return 0, fmt.Sprintf("USER %q is a name that the image's /etc/passwd does not have", user)
	}
	return uid, why
}

// maxUser is what runc, docker and containerd take for a number; containerd takes a larger one for a name (CVE-2024-40635),
// and buildah one with a sign.
const maxUser = math.MaxInt32

// lookUp reads passwd(5) as runc does (moby/sys/user): each line trimmed, the first that begins with the name counts, a
// field that is missing or no number is 0. Since others may take another line, every line of the name must say who it is.
// named is false when there is none.
func lookUp(user, name, passwd string) (uid int64, named bool, why string) {
	for _, line := range strings.Split(passwd, "\n") {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if strings.TrimSpace(fields[0]) != artifact.Escape(name) {
			continue
		}
		if len(fields) < 3 {
			return 0, true, fmt.Sprintf("USER %q has a line without a user id in /etc/passwd, which runtimes take for 0", user)
		}
		n, ok := numeric(fields[2])
		if !ok || n < 0 || n > maxUser {
			return 0, true, fmt.Sprintf("USER %q has the user id %q in /etc/passwd, which is none, and runtimes take it for 0", user, fields[2])
		}
		if n == 0 {
			return 0, true, ""
		}
		if !named {
			uid, named = n, true
		}
	}
	return uid, named, ""
}

// numeric parses what runtimes take as a number: strconv.Atoi's decimal with sign and leading zeros. What overflows
// is a number too, and out of range.
func numeric(s string) (int64, bool) {
	digits := strings.TrimPrefix(s, "+")
	if digits == s {
		digits = strings.TrimPrefix(s, "-")
	}
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return -1, true
	}
	return n, true
}

// contents returns a small file as a process in the image would read it, links followed.
func contents(facts artifact.ImageFacts, path string) (string, bool) {
	file, ok := facts.Resolve(path)
	if !ok {
		return "", false
	}
	text, ok := facts.Contents[file.Path]
	return text, ok
}
