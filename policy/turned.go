package policy

import (
	"slices"

	"waybill/artifact"
)

// defaultResponse is that of a policy which names none.
const defaultResponse = artifact.RespondBlock

func checkResponse(n Node, r artifact.Response) error {
	if r == "" || slices.Contains(artifact.Responses, r) {
		return nil
	}
	return n.At("$.spec.whenPromotedTurnsBad").Errorf("whenPromotedTurnsBad is %.40q; want alert, block-promotion or recall", string(r))
}

func responses(matched []Versioned) map[string]artifact.Response {
	all := make(map[string]artifact.Response, len(matched))
	for _, p := range matched {
		if all[p.Name()] = p.turnsBad; p.turnsBad == "" {
			all[p.Name()] = defaultResponse
		}
	}
	return all
}

// versions counts the versions of all policies: their numbers have no gaps.
func (s Set) versions() (n int) {
	for _, p := range s.policies {
		n += p.Version
	}
	return n
}

// Response is what is to happen to the digest where it is promoted: the strictest that a policy which denies it asks for.
// What is denied without a policy is never recalled: it may be a scanner that failed. It is "" of what is not denied.
func (v Verdict) Response() artifact.Response {
	strictest := -1
	if v.Outcome != artifact.Deny {
		return ""
	}
	for _, r := range v.Denials() {
		response, ok := v.responses[r.Policy]
		if !ok {
			response = defaultResponse
		}
		strictest = max(strictest, slices.Index(artifact.Responses, response))
	}
	return artifact.Responses[max(strictest, 0)]
}
