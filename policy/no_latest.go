package policy

import (
	"fmt"
	"path"
)

// refusedTags are the parameters of no-latest.
type refusedTags struct {
	Tags []string `yaml:"tags"` // patterns; default: latest
}

// bindNoLatest: no push sets a tag that says nothing. What is stored already has its tags, and is not asked.
func bindNoLatest(with Node, given bool) (check, error) {
	refused, err := parameters[refusedTags](with, given)
	if err != nil {
		return nil, err
	}
	if len(refused.Tags) == 0 {
		refused.Tags = []string{"latest"}
	}
	for i, p := range refused.Tags {
		if _, err := path.Match(p, ""); err != nil || p == "" || len(p) > 128 {
			return nil, with.At("$.tags[%d]", i).Errorf("tag %q: want a pattern such as latest or *-dev", p)
		}
	}
	return func(img Image) []finding {
		var found []finding
		for _, tag := range img.Subject.Tags {
			for _, p := range refused.Tags {
				if ok, _ := path.Match(p, tag.String()); ok {
					found = append(found, finding{tag: tag.String(), evidence: []string{tag.String()}, message: fmt.Sprintf("the tag %s is refused (%s), since it does not say which version it is; push one that does, such as v1.2.3 or the commit", tag, p)})
					break
				}
			}
		}
		return found
	}, nil
}
