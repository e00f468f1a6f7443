package policy

import (
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/sys/user"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"waybill/artifact"
)

// requireSameUser: whoever no-root-user takes for somebody else than root, runc, docker and containerd run as that user,
// or not at all.
func requireSameUser(t require.TestingT, spec, passwd string) {
	facts := artifact.ImageFacts{Files: map[string]artifact.VisibleFile{"etc/passwd": {File: artifact.File{Path: "etc/passwd", Type: artifact.Regular}}},
		Contents: map[string]string{"etc/passwd": artifact.Escape(passwd)}}
	uid, why := runningUser(spec, facts)
	if why != "" || uid == 0 {
		return // denied
	}
	runs, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, strings.NewReader(passwd), strings.NewReader("root:x:0:\napp:x:5:\n"))
	if err != nil {
		return // it does not start
	}
	require.EqualValues(t, uid, runs.Uid, "USER %q, passwd %q", spec, passwd)
}

// requireNobodyRoot: nor do those run it as root that take fewer numbers for one, and look others up as a name: containerd those
// beyond 31 bits (oci.WithUser), buildah those with a sign (chrootuser.GetUser).
func requireNobodyRoot(t require.TestingT, spec, passwd string) {
	facts := artifact.ImageFacts{Files: map[string]artifact.VisibleFile{"etc/passwd": {File: artifact.File{Path: "etc/passwd", Type: artifact.Regular}}},
		Contents: map[string]string{"etc/passwd": artifact.Escape(passwd)}}
	if uid, why := runningUser(spec, facts); why != "" || uid == 0 {
		return // denied
	}
	name, _, _ := strings.Cut(spec, ":")
	for _, isNumber := range []func(string) bool{
		func(s string) bool { n, err := strconv.Atoi(s); return err == nil && n >= 0 && n <= math.MaxInt32 },
		func(s string) bool { _, err := strconv.ParseUint(s, 10, 32); return err == nil },
	} {
		if isNumber(name) {
			continue
		}
		named, err := user.ParsePasswdFilter(strings.NewReader(passwd), func(u user.User) bool { return u.Name == name })
		if err != nil {
			continue // it does not start
		}
		for _, u := range named {
			require.NotZero(t, u.Uid, "USER %q, passwd %q", spec, passwd)
		}
	}
}

func TestSameUser(t *testing.T) {
	t.Parallel()
	specs := rapid.SampledFrom([]string{"app", "root", "0", "00", "+0", "-0", "1000", "app:root", "1000:0", ":", "", "app:", "App", `a\xff`, "a\xff", "é", "4294967296", "2147483648", "3000000000", "+1000", "-1", "a b", "app:x:y", "0x0", "1_0", "+", "#app"})
	pieces := rapid.SampledFrom([]string{"app", "root", "App", `a\xff`, "a\xff", "é", ":", ":", ":x:", "0", "1000", "+0", "-0", "00", "1000:1000", "\n", "\n", "\r\n", " ", "\t", "\u0085", "\u00a0", "#", "4294967296", "+1000:x:0:0::/:\n", "3000000000:x:0:0::/:\n", "app:x:1000:1000::/:\n", "app:x:0:0::/:\n", ""})
	rapid.Check(t, func(t *rapid.T) {
		passwd := strings.Join(rapid.SliceOfN(pieces, 0, 12).Draw(t, "passwd"), "")
		spec := specs.Draw(t, "USER")
		requireSameUser(t, spec, passwd)
		requireNobodyRoot(t, spec, passwd)
	})
}

func FuzzRunningUser(f *testing.F) {
	f.Add("app", "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n")
	f.Add("1000:0", "app:x:1000:0")
	f.Add(`a\xff`, "a\xff:x:1000:1000::/:\n"+`a\xff:x:0:0::/:`)
	f.Add("app", " app :x:1:1\r\napp:x\n")
	f.Add("3000000000", "3000000000:x:0:0::/:\n")
	f.Fuzz(func(t *testing.T, spec, passwd string) {
		requireSameUser(t, spec, passwd)
		requireNobodyRoot(t, spec, passwd)
	})
}
