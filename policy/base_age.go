package policy

import (
	"fmt"
	"time"
)

// baseAges are the parameters of base-age.
type baseAges struct {
	Max   Duration `yaml:"max"`
	Bases []base   `yaml:"bases"`
}

// bindBaseAge: what the image stands on is not old. Of a base that the policy knows by its layers the age is the
// policy's word; of any other, what the image's history says of its lowest layer, which whoever built it wrote.
func bindBaseAge(with Node, given bool) (check, error) {
	ages, err := parameters[baseAges](with, given)
	if err != nil {
		return nil, err
	}
	if ages.Max == 0 {
		return nil, with.Errorf("base-age wants max, such as with: {max: 30d}")
	}
	for i, b := range ages.Bases {
		at := with.At("$.bases[%d]", i)
		if err := b.check(at); err != nil {
			return nil, err
		}
		if b.Created.IsZero() {
			return nil, at.Errorf("base %q wants created, such as 2026-10-01", b.Name)
		}
	}
	return ages.check, nil
}

func (a baseAges) check(img Image) []finding {
	if len(img.Facts.Layers) == 0 {
		return nil
	}
	name, created := "its lowest layer, by the image's history,", lowestCreated(img)
	depth := 0
	for _, b := range a.Bases {
		if b.isBelow(img) && len(b.Layers) > depth {
			name, created, depth = "the base "+b.Name, b.Created, len(b.Layers)
		}
	}
	old, ok := age(created, img.Now)
	switch {
	case !ok && created.Unix() <= 0:
		return []finding{{message: "the image's history does not say when its lowest layer was made, so that the age of its base cannot be told; name the base and its day in the policy (bases)"}}
	case !ok:
		return []finding{{message: fmt.Sprintf("%s is of %s, which is yet to come, so that its age cannot be told", name, created.UTC().Format(time.DateOnly))}}
	case old > a.Max:
		return []finding{{message: fmt.Sprintf("%s is of %s, %s ago, over the cap of %s; build on a newer base", name, created.UTC().Format(time.DateOnly), old, a.Max)}}
	}
	return nil
}

// lowestCreated is the history's time of the first step that made a layer; zero when it gives none.
func lowestCreated(img Image) time.Time {
	for _, h := range img.Config.History {
		if h.EmptyLayer {
			continue
		}
		if h.Created != nil {
			return *h.Created
		}
		break
	}
	return time.Time{}
}
