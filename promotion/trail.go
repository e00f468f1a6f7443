package promotion

import "waybill/artifact"

// before returns what an environment ran before its current digest (zero: it runs none). The trail is its promotions
// and rollbacks in order, without what was recalled. A rollback undoes what came after the digest that it goes back to,
// so that rolling back twice goes back two steps rather than forth again to what was just left.
func before(trail []artifact.Promotion, current artifact.Digest) (artifact.Promotion, bool) {
	var stack []artifact.Promotion
	for _, p := range trail {
		if p.Action == "rollback" {
			for len(stack) > 0 && stack[len(stack)-1].Digest != p.Digest {
				stack = stack[:len(stack)-1]
			}
		}
		if len(stack) == 0 || stack[len(stack)-1].Digest != p.Digest {
			stack = append(stack, p)
		}
	}
	if len(stack) > 0 && stack[len(stack)-1].Digest == current {
		stack = stack[:len(stack)-1]
	}
	if len(stack) == 0 {
		return artifact.Promotion{}, false
	}
	return stack[len(stack)-1], true
}
