package artifact

import "strings"

// Reference names a manifest: REPOSITORY:TAG or REPOSITORY@DIGEST. With both, REPOSITORY:TAG@DIGEST, the digest is
// the identity and the tag is remembered for people.
type Reference struct {
	Repository Repository
	Tag        Tag
	Digest     Digest
}

// ParseReference parses a reference without a registry host, or an Invalid error that shows the form.
func ParseReference(s string) (Reference, error) {
	var ref Reference
	name, digest, hasDigest := strings.Cut(s, "@")
	name, tag, hasTag := strings.Cut(name, ":")
	if !hasDigest && !hasTag {
		return ref, Errorf(Invalid, "reference %.300q: want REPOSITORY:TAG or REPOSITORY@DIGEST", s)
	}
	var err error
	if ref.Repository, err = ParseRepository(name); err != nil {
		return ref, err
	}
	if hasTag {
		if ref.Tag, err = ParseTag(tag); err != nil {
			return ref, err
		}
	}
	if hasDigest {
		ref.Digest, err = ParseDigest(digest)
	}
	return ref, err
}

// ParseTarget parses what stands after the repository in a URL: a tag, or a digest when it holds a colon.
func ParseTarget(repository Repository, s string) (Reference, error) {
	ref := Reference{Repository: repository}
	var err error
	if strings.Contains(s, ":") {
		ref.Digest, err = ParseDigest(s)
	} else {
		ref.Tag, err = ParseTag(s)
	}
	return ref, err
}

// String is the inverse of ParseReference.
func (r Reference) String() string {
	s := r.Repository.String()
	if !r.Tag.IsZero() {
		s += ":" + r.Tag.String()
	}
	if !r.Digest.IsZero() {
		s += "@" + r.Digest.String()
	}
	return s
}
