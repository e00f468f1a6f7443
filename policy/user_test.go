package policy

import (
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

func TestSameUser(t *testing.T) {
	t.Parallel()
	specs := rapid.SampledFrom([]string{"app", "root", "0", "00", "+0", "-0", "1000", "app:root", "1000:0", ":", "", "app:", "App", `a\xff`, "a\xff", "é", "4294967296", "2147483648", "-1", "a b", "app:x:y", "0x0", "1_0", "+", "#app"})
	pieces := rapid.SampledFrom([]string{"app", "root", "App", `a\xff`, "a\xff", "é", ":", ":", ":x:", "0", "1000", "+0", "-0", "00", "1000:1000", "\n", "\n", "\r\n", " ", "\t", "\u0085", "\u00a0", "#", "4294967296", "app:x:1000:1000::/:\n", "app:x:0:0::/:\n", ""})
	rapid.Check(t, func(t *rapid.T) {
		passwd := strings.Join(rapid.SliceOfN(pieces, 0, 12).Draw(t, "passwd"), "")
		requireSameUser(t, specs.Draw(t, "USER"), passwd)
	})
}

func FuzzRunningUser(f *testing.F) {
	f.Add("app", "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n")
	f.Add("1000:0", "app:x:1000:0")
	f.Add(`a\xff`, "a\xff:x:1000:1000::/:\n"+`a\xff:x:0:0::/:`)
	f.Add("app", " app :x:1:1\r\napp:x\n")
	f.Fuzz(func(t *testing.T, spec, passwd string) { requireSameUser(t, spec, passwd) })
}
