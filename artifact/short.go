package artifact

import "strings"

// ShortestDigest is the least of a digest's hexadecimal digits that means it; Digest.Short returns as many.
const ShortestDigest = 12

// ShortReference is a Reference as people type one: of its digest the first digits are enough, with or without the
// algorithm, sha256. Which digest begins so, and whether only one does, has to be looked up: see Short. It is for
// questions about what is stored; a pull names a whole digest.
type ShortReference struct {
	Reference
	Short string // hexadecimal digits, 12 to 63; empty when Reference says it all
}

// ParseShortReference parses REPOSITORY:TAG, REPOSITORY@DIGEST or REPOSITORY@ and the beginning of a digest, or returns an
// Invalid error that shows the form.
func ParseShortReference(s string) (ShortReference, error) {
	name, digest, _ := strings.Cut(s, "@")
	hexed := strings.TrimPrefix(digest, "sha256:")
	if !isHex(hexed) || len(hexed) < ShortestDigest || len(hexed) > 64 {
		ref, err := ParseReference(s)
		if err != nil && isHex(hexed) && hexed != "" && len(hexed) < ShortestDigest {
			err = Coded(Invalid, "DIGEST_INVALID", "digest %.80q: want the whole of it, or its first %d or more hex digits", digest, ShortestDigest)
		}
		return ShortReference{Reference: ref}, err
	}
	if len(hexed) == 64 {
		ref, err := ParseReference(name + "@sha256:" + hexed)
		return ShortReference{Reference: ref}, err
	}
	if !strings.Contains(name, ":") {
		r, err := ParseRepository(name)
		return ShortReference{Reference{Repository: r}, hexed}, err
	}
	ref, err := ParseReference(name)
	return ShortReference{ref, hexed}, err
}

// Means reports whether a digest is one that the reference may stand for; a tag may for any.
func (r ShortReference) Means(d Digest) bool {
	switch {
	case r.Short != "":
		return d.Algorithm() == "sha256" && strings.HasPrefix(d.Hex(), r.Short)
	case !r.Digest.IsZero():
		return d == r.Digest
	}
	return true
}

// String is the inverse of ParseShortReference.
func (r ShortReference) String() string {
	if r.Short == "" {
		return r.Reference.String()
	}
	return r.Reference.String() + "@sha256:" + r.Short
}
