package storage_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"waybill/artifact"
	"waybill/storage"
)

// now is when everything in these tests is asked.
var now = time.Date(2026, 10, 1, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// content is a repository in words: a manifest is called by a letter.
type content struct {
	t      require.TestingT
	h      storage.Holdings
	names  map[artifact.Digest]string
	signed map[artifact.Digest]string // environment, by the manifest that was signed
}

func newContent(t require.TestingT) *content {
	return &content{t: t, h: storage.Holdings{At: now}, names: map[artifact.Digest]string{}, signed: map[artifact.Digest]string{}}
}

func (c *content) digest(name string) artifact.Digest {
	d := artifact.DigestOf([]byte(name))
	c.names[d] = name
	return d
}

// put adds an image that was pushed so long ago; change makes it another thing.
func (c *content) put(name string, ago time.Duration, change ...func(*storage.Manifest)) {
	m := storage.Manifest{Digest: c.digest(name), IsImage: true, Bytes: 10, PushedAt: now.Add(-ago)}
	for _, f := range change {
		f(&m)
	}
	c.h.Manifests = append(c.h.Manifests, m)
}

func (c *content) tag(name, at string, ago time.Duration) {
	if subject, suffix, ok := strings.Cut(name, "."); ok {
		name = "sha256-" + c.digest(subject).Hex() + "." + suffix
	}
	c.h.Tags = append(c.h.Tags, storage.Tag{Name: parsed(c.t, artifact.ParseTag, name), Digest: c.digest(at), SetAt: now.Add(-ago)})
}

func (c *content) subject(of string) func(*storage.Manifest) {
	return func(m *storage.Manifest) { m.Subject, m.IsImage = c.digest(of), false }
}

func (c *content) index(children ...string) func(*storage.Manifest) {
	return func(m *storage.Manifest) {
		m.IsImage = false
		for _, child := range children {
			m.Children = append(m.Children, c.digest(child))
		}
	}
}

func pulled(ago time.Duration) func(*storage.Manifest) {
	return func(m *storage.Manifest) { m.PulledAt = now.Add(-ago) }
}

func (c *content) promoted(environment string) func(*storage.Manifest) {
	return func(m *storage.Manifest) {
		m.Promoted = append(m.Promoted, parsed(c.t, artifact.ParseEnvironment, environment))
	}
}

func (c *content) plan(r storage.Retention) storage.Plan {
	signed := func(digest artifact.Digest, _ []artifact.Digest) ([]artifact.Environment, error) {
		if e, ok := c.signed[digest]; ok {
			return []artifact.Environment{parsed(c.t, artifact.ParseEnvironment, e)}, nil
		}
		return nil, nil
	}
	p, err := r.Plan(c.h, []artifact.Environment{parsed(c.t, artifact.ParseEnvironment, "production")}, signed)
	require.NoError(c.t, err)
	return p
}

// goes says what goes: "index child" is a unit, "-v1" a tag alone.
func (c *content) goes(r storage.Retention) []string {
	all := []string{}
	for _, u := range c.plan(r).Units {
		var names []string
		for _, m := range u.Manifests {
			names = append(names, c.names[m.Digest])
		}
		if len(u.Manifests) == 0 {
			require.Len(c.t, u.Tags, 1)
			names = append(names, "-"+u.Tags[0].Name.String())
		}
		all = append(all, strings.Join(names, " "))
	}
	return all
}

func TestPlan(t *testing.T) {
	t.Parallel()
	last2 := storage.Retention{KeepLast: 2, Tags: []string{"*"}}
	for name, test := range map[string]struct {
		rules storage.Retention
		fill  func(*content)
		want  []string
	}{
		"the newest stay": {last2, func(c *content) {
			for i, name := range []string{"a", "b", "c", "d"} {
				c.put(name, time.Duration(i)*day)
				c.tag("v"+name, name, time.Duration(i)*day)
			}
		}, []string{"d", "c"}},
		"newest is by when the tag was set": {storage.Retention{KeepLast: 1, Tags: []string{"*"}}, func(c *content) {
			c.put("old", 9*day)
			c.put("young", day)
			c.tag("young", "young", day)
			c.tag("old", "old", 0)
		}, []string{"young"}},
		"only tags that match go, and only they count": {storage.Retention{KeepLast: 1, Tags: []string{"*-dev"}}, func(c *content) {
			for i, name := range []string{"a", "b", "c", "d"} {
				c.put(name, time.Duration(i)*day)
			}
			c.tag("v4", "a", 0)
			c.tag("4-dev", "b", day)
			c.tag("3-dev", "c", 2*day)
			c.tag("v3", "d", 3*day)
		}, []string{"c"}},
		"what is pulled or set stays": {storage.Retention{KeepPulledWithin: 30 * day, Tags: []string{"*"}}, func(c *content) {
			c.put("pulled", 90*day, pulled(29*day))
			c.put("forgotten", 90*day, pulled(31*day))
			c.put("never", 90*day)
			c.put("new", day)
			for _, name := range []string{"pulled", "forgotten", "never"} {
				c.tag(name, name, 90*day)
			}
			c.tag("new", "new", day)
		}, []string{"forgotten", "never"}},
		"an index stays while one of its images is pulled": {storage.Retention{KeepPulledWithin: 30 * day, Tags: []string{"*"}}, func(c *content) {
			c.put("amd64", 90*day, pulled(day))
			c.put("arm64", 90*day)
			c.put("index", 90*day, c.index("amd64", "arm64"))
			c.tag("v1", "index", 90*day)
		}, []string{}},
		"an index goes with its images and all that refers to them": {last2, func(c *content) {
			c.put("new", 0)
			c.tag("new", "new", 0)
			c.put("amd64", 9*day)
			c.put("shared", 9*day)
			c.put("index", 9*day, c.index("amd64", "shared"))
			c.put("other", 9*day, c.index("shared"))
			c.put("sbom", 9*day, c.subject("amd64"))
			c.put("sig", 9*day, c.index())
			c.tag("index.sig", "sig", 9*day)
			c.tag("old", "index", 9*day)
			c.tag("other", "other", 0)
		}, []string{"amd64 index sbom sig"}},
		"two tags, one of which stays": {storage.Retention{KeepLast: 1, Tags: []string{"*"}}, func(c *content) {
			c.put("a", 9*day)
			c.tag("stable", "a", 0)
			c.tag("v1", "a", 9*day)
		}, []string{"-v1"}},
		"what is promoted or signed for an environment stays": {storage.Retention{KeepLast: 1, Tags: []string{"*"}}, func(c *content) {
			c.put("new", 0)
			c.put("promoted", 90*day, c.promoted("production"))
			c.put("signed", 90*day)
			c.put("neither", 90*day)
			c.put("sig", 90*day, c.subject("promoted"))
			c.put("sbom", 90*day, c.subject("signed"))
			for _, name := range []string{"promoted", "signed", "neither"} {
				c.tag(name, name, 90*day)
			}
			c.tag("new", "new", 0)
			c.signed[c.digest("signed")] = "staging"
		}, []string{"neither"}},
		"an image of an index is promoted": {storage.Retention{KeepLast: 1, Tags: []string{"*"}, Untagged: day}, func(c *content) {
			c.put("new", 0)
			c.put("amd64", 90*day, c.promoted("production"))
			c.put("arm64", 90*day)
			c.put("index", 90*day, c.index("amd64", "arm64"))
			c.tag("old", "index", 90*day)
			c.tag("new", "new", 0)
		}, []string{"index arm64"}},
		"an environment's name is a promotion's": {storage.Retention{KeepLast: 1, Tags: []string{"*"}}, func(c *content) {
			c.put("a", 90*day)
			c.put("b", 0)
			c.tag("production", "a", 90*day)
			c.tag("b", "b", 0)
		}, []string{}},
		"untagged: never": {last2, func(c *content) { c.put("a", 900*day) }, []string{}},
		"untagged": {storage.Retention{Untagged: 7 * day}, func(c *content) {
			c.put("old", 8*day)
			c.put("young", 6*day)
			c.put("sbom of old", 8*day, c.subject("old"))
			c.put("sbom of nobody", 8*day, c.subject("gone"))
			c.put("young sbom of nobody", 6*day, c.subject("gone"))
			c.put("tagged", 90*day)
			c.tag("v1", "tagged", 90*day)
			c.put("child", 90*day)
			c.put("index", 6*day, c.index("child"))
			c.put("sbom of tagged", 90*day, c.subject("tagged"))
			c.put("orphaned signature", 90*day, c.subject("gone"))
			c.tag("gone.sig", "orphaned signature", 8*day)
		}, []string{"old sbom of old", "orphaned signature", "sbom of nobody"}},
		"untagged, and pulled by digest": {storage.Retention{KeepPulledWithin: 30 * day, Tags: []string{"*"}, Untagged: 7 * day}, func(c *content) {
			c.put("pulled", 90*day, pulled(29*day))
			c.put("not", 90*day, pulled(31*day))
		}, []string{"not"}},
		"a signature at two tags goes with the last of its subjects": {storage.Retention{KeepLast: 1, Tags: []string{"*"}}, func(c *content) {
			c.put("new", 0)
			c.put("old", 90*day)
			c.put("sig", 90*day, c.index())
			c.tag("new", "new", 0)
			c.tag("old", "old", 90*day)
			c.tag("old.sig", "sig", 90*day)
			c.tag("new.sig", "sig", 0)
		}, []string{"old", "-sha256-" + artifact.DigestOf([]byte("old")).Hex() + ".sig"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newContent(t)
			test.fill(c)
			got := c.goes(test.rules)
			for i := range got {
				words := strings.Fields(got[i])
				if !slices.Contains(test.want, got[i]) { // but for an index, which comes before its images, in no order
					slices.Sort(words)
					got[i] = strings.Join(words, " ")
				}
			}
			require.ElementsMatch(t, test.want, got)
		})
	}
}

func TestEveryReasonIsSaid(t *testing.T) {
	t.Parallel()
	c := newContent(t)
	c.put("a", 90*day, pulled(3*day), c.promoted("staging"), c.promoted("dev"))
	c.put("b", 90*day)
	c.put("c", 90*day)
	c.put("d", 90*day)
	c.tag("a", "a", 2*time.Hour)
	c.tag("b", "b", 90*day)
	c.tag("release", "c", 91*day)
	c.tag("production", "c", 92*day)
	c.tag("signed", "d", 93*day)
	c.signed[c.digest("d")] = "staging"
	var said []string
	for _, k := range c.plan(storage.Retention{KeepLast: 2, KeepPulledWithin: 30 * day, Tags: []string{"?", "production", "signed"}}).Kept {
		said = append(said, k.Name.String()+": "+strings.Join(k.Reasons, "; "))
	}
	require.Equal(t, []string{
		"a: promoted to dev, staging; one of the newest 2; pulled 3 days ago; set 2 hours ago",
		"b: one of the newest 2",
		"release: not among the tags that may be removed",
		"production: an environment's name",
		"signed: signed for staging",
	}, said)
}

// TestNothingThatIsNeededGoes holds plans of any content against rules that are written another way: not what goes, but
// what must stay.
func TestNothingThatIsNeededGoes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := drawContent(t)
		rules := drawRules(t)
		plan := c.plan(rules)
		require.Equal(t, plan, c.plan(rules), "the same content makes the same plan")

		gone, goneTags := map[artifact.Digest]bool{}, map[artifact.Tag]bool{}
		for _, u := range plan.Units {
			for _, m := range u.Manifests {
				require.False(t, gone[m.Digest], "%s goes once", c.names[m.Digest])
				for _, child := range m.Children {
					require.False(t, gone[child], "%s goes before its index", c.names[child])
				}
				gone[m.Digest] = true
			}
			for _, tag := range u.Tags {
				require.False(t, goneTags[tag.Name])
				goneTags[tag.Name] = true
			}
		}
		c.mustStay(t, rules, gone, goneTags)
		c.mustGo(t, rules, gone, goneTags)

		// What is left, asked again, is left again.
		left := *c
		left.h.Manifests = slices.DeleteFunc(slices.Clone(c.h.Manifests), func(m storage.Manifest) bool { return gone[m.Digest] })
		left.h.Tags = slices.DeleteFunc(slices.Clone(c.h.Tags), func(tag storage.Tag) bool { return goneTags[tag.Name] })
		for _, tag := range left.h.Tags {
			require.False(t, gone[tag.Digest], "tag %s stands at what is gone", tag.Name)
		}
		for _, k := range left.plan(rules).Kept {
			require.False(t, goneTags[k.Name])
		}
	})
}

func drawContent(t *rapid.T) *content {
	c := newContent(t)
	ago := rapid.Custom(func(t *rapid.T) time.Duration { return time.Duration(rapid.IntRange(0, 20).Draw(t, "days")) * day })
	n := rapid.IntRange(1, 12).Draw(t, "manifests")
	var names []string
	for i := range n {
		name := fmt.Sprintf("m%d", i)
		c.put(name, ago.Draw(t, "pushed"), func(m *storage.Manifest) {
			if len(names) > 0 && rapid.IntRange(0, 2).Draw(t, "index") == 0 {
				c.index(rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, min(3, len(names)), rapid.ID).Draw(t, "children")...)(m)
			}
			if len(names) > 0 && rapid.IntRange(0, 2).Draw(t, "attached") == 0 {
				c.subject(rapid.SampledFrom(append(slices.Clone(names), "gone")).Draw(t, "subject"))(m)
			}
			if rapid.Bool().Draw(t, "was pulled") {
				pulled(ago.Draw(t, "pulled"))(m)
			}
			if rapid.IntRange(0, 5).Draw(t, "promoted") == 0 {
				c.promoted("staging")(m)
			}
		})
		if rapid.IntRange(0, 7).Draw(t, "signed") == 0 {
			c.signed[c.digest(name)] = "staging"
		}
		names = append(names, name)
	}
	for i := range rapid.IntRange(0, 8).Draw(t, "tags") {
		c.tag(fmt.Sprintf(rapid.SampledFrom([]string{"v%d", "%d-dev"}).Draw(t, "tag"), i), rapid.SampledFrom(names).Draw(t, "at"), ago.Draw(t, "set"))
	}
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(append(names, "gone")), 0, 3, rapid.ID).Draw(t, "have signatures") {
		c.tag(name+".sig", rapid.SampledFrom(names).Draw(t, "signature"), ago.Draw(t, "set"))
	}
	// An image at a tag of cosign's is refused when it is pushed.
	for _, tag := range c.h.Tags {
		for i := range c.h.Manifests {
			if m := &c.h.Manifests[i]; m.Digest == tag.Digest && strings.HasPrefix(tag.Name.String(), "sha256-") {
				m.IsImage = false
			}
		}
	}
	return c
}

func drawRules(t *rapid.T) storage.Retention {
	r := storage.Retention{Untagged: time.Duration(rapid.IntRange(0, 20).Draw(t, "untagged")) * day}
	r.KeepLast = rapid.IntRange(0, 4).Draw(t, "keepLast")
	r.KeepPulledWithin = time.Duration(rapid.IntRange(0, 20).Draw(t, "keepPulledWithin")) * day
	if r.KeepLast > 0 || r.KeepPulledWithin > 0 {
		r.Tags = rapid.SampledFrom([][]string{{"*"}, {"*-dev"}}).Draw(t, "only")
	}
	return r
}

func (c *content) manifest(d artifact.Digest) (storage.Manifest, bool) {
	for _, m := range c.h.Manifests {
		if m.Digest == d {
			return m, true
		}
	}
	return storage.Manifest{}, false
}

// holds reports whether a holds b: as its index, its subject, or by a tag of cosign's.
func (c *content) holds(a, b storage.Manifest) bool {
	byTag := slices.ContainsFunc(c.h.Tags, func(tag storage.Tag) bool {
		return tag.Digest == b.Digest && tag.Name.String() == "sha256-"+a.Digest.Hex()+".sig"
	})
	return slices.Contains(a.Children, b.Digest) || b.Subject == a.Digest || byTag
}

func people(tag storage.Tag) bool { return !strings.HasPrefix(tag.Name.String(), "sha256-") }

// mustStay are the promises.
func (c *content) mustStay(t *rapid.T, r storage.Retention, gone map[artifact.Digest]bool, goneTags map[artifact.Tag]bool) {
	recent := func(at time.Time, age time.Duration) bool { return age > 0 && !at.IsZero() && now.Sub(at) <= age }
	for _, m := range c.h.Manifests {
		if len(m.Promoted) > 0 {
			require.False(t, gone[m.Digest], "%s is promoted", c.names[m.Digest])
		}
		for _, other := range c.h.Manifests {
			if c.holds(m, other) && !gone[m.Digest] {
				require.False(t, gone[other.Digest], "%s is held by %s, which stays", c.names[other.Digest], c.names[m.Digest])
			}
		}
		tagged := slices.ContainsFunc(c.h.Tags, func(tag storage.Tag) bool { return tag.Digest == m.Digest && people(tag) })
		held := slices.ContainsFunc(c.h.Manifests, func(other storage.Manifest) bool { return c.holds(other, m) })
		if !tagged && !held && (r.Untagged == 0 || recent(m.PushedAt, r.Untagged) || recent(m.PulledAt, r.KeepPulledWithin) || c.signed[m.Digest] != "") {
			require.False(t, gone[m.Digest], "%s is untagged, and not for long enough", c.names[m.Digest])
		}
	}
	for _, tag := range c.h.Tags {
		if !people(tag) {
			continue
		}
		newer := 0
		for _, other := range c.h.Tags {
			if people(other) && (r.Tags == nil || other.Name.String()[0] != 'v' || r.Tags[0] == "*") && (other.SetAt.After(tag.SetAt) || other.SetAt.Equal(tag.SetAt) && other.Name.String() < tag.Name.String()) {
				newer++
			}
		}
		m, _ := c.manifest(tag.Digest)
		protected := r.KeepLast == 0 && r.KeepPulledWithin == 0 || len(m.Promoted) > 0 || c.signed[m.Digest] != "" || newer < r.KeepLast ||
			recent(tag.SetAt, r.KeepPulledWithin) || recent(m.PulledAt, r.KeepPulledWithin) || r.Tags != nil && r.Tags[0] == "*-dev" && tag.Name.String()[0] == 'v'
		if protected {
			require.False(t, goneTags[tag.Name] || gone[tag.Digest], "tag %s must stay", tag.Name)
		}
	}
}

// mustGo: a tag that nothing keeps goes, and what it alone held.
func (c *content) mustGo(t *rapid.T, r storage.Retention, gone map[artifact.Digest]bool, goneTags map[artifact.Tag]bool) {
	kept := map[artifact.Tag]bool{}
	for _, k := range c.plan(r).Kept {
		require.NotEmpty(t, k.Reasons, "a kept tag has a reason")
		kept[k.Name] = true
	}
	for _, tag := range c.h.Tags {
		if people(tag) {
			require.NotEqual(t, kept[tag.Name], goneTags[tag.Name], "tag %s goes, or is kept and says why", tag.Name)
		}
	}
	for _, m := range c.h.Manifests {
		lost, keeps := false, len(m.Promoted) > 0
		for _, tag := range c.h.Tags {
			if tag.Digest == m.Digest && people(tag) {
				lost, keeps = lost || goneTags[tag.Name], keeps || kept[tag.Name]
			}
		}
		for _, other := range c.h.Manifests {
			keeps = keeps || c.holds(other, m) && !gone[other.Digest]
		}
		if lost && !keeps {
			require.True(t, gone[m.Digest], "nothing keeps %s any more", c.names[m.Digest])
		}
	}
}
