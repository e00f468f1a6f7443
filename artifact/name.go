package artifact

import (
	"database/sql/driver"
	"regexp"
	"strings"
)

// The patterns of distribution-spec 1.1, section "Pulling manifests"; lengths as the spec and DNS bound them.
// Each request names one or two, so that those two are checked by hand.
var (
	environmentPattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
)

// Repository is the name of a repository, such as shop/returns: at most 255 bytes.
type Repository struct{ s string }

// Tag is a name for a manifest within its repository.
type Tag struct{ s string }

// Environment is a place artifacts are promoted to, such as production. It is a tag too, one that only a
// promotion moves.
type Environment struct{ s string }

// ParseRepository returns the repository that s names, or an Invalid error.
func ParseRepository(s string) (Repository, error) {
	if len(s) > 255 || !isRepository(s) {
		return Repository{}, Coded(Invalid, "NAME_INVALID",
			"repository name %.80q: want lower-case path components such as shop/returns, at most 255 bytes", s)
	}
	return Repository{s}, nil
}

// isRepository: [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)* between slashes.
func isRepository(s string) bool {
	separator := 0 // where what stands before s[i] and is no letter or digit begins
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			if !isSeparator(s[separator:i]) {
				return false
			}
			separator = i + 1
		case c == '/' || c == '.' || c == '_' || c == '-':
			if i == 0 {
				return false
			}
		default:
			return false
		}
	}
	return s != "" && separator == len(s)
}

// isSeparator: what may stand between two runs of letters and digits; nothing may, in the middle of one.
func isSeparator(s string) bool {
	switch s {
	case "", "/", ".", "_", "__":
		return true
	}
	return strings.Trim(s, "-") == ""
}

// isTag: [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}.
func isTag(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || i > 0 && (c == '.' || c == '-')) {
			return false
		}
	}
	return 0 < len(s) && len(s) <= 128
}

// IsCosign reports whether t is where cosign keeps the signatures, attestations or SBOM of a digest.
func (t Tag) IsCosign() bool {
	name, suffix, _ := strings.Cut(t.s, ".")
	algorithm, hex, _ := strings.Cut(name, "-")
	_, err := ParseDigest(algorithm + ":" + hex)
	return err == nil && (suffix == "sig" || suffix == "att" || suffix == "sbom")
}

// ParseTag returns the tag that s spells, or an Invalid error.
func ParseTag(s string) (Tag, error) {
	if !isTag(s) {
		return Tag{}, Coded(Invalid, "TAG_INVALID", "tag %.150q: want at most 128 letters, digits, '_', '.' or '-', not starting with '.' or '-'", s)
	}
	return Tag{s}, nil
}

// ParseEnvironment returns the environment that s names, or an Invalid error.
func ParseEnvironment(s string) (Environment, error) {
	if !environmentPattern.MatchString(s) {
		return Environment{}, Errorf(Invalid, "environment name %.80q: want a lower-case letter, then at most 62 lower-case letters, digits or '-'", s)
	}
	return Environment{s}, nil
}

// Tag returns the reserved tag that follows e.
func (e Environment) Tag() Tag { return Tag(e) }

func (r Repository) String() string  { return r.s }
func (t Tag) String() string         { return t.s }
func (e Environment) String() string { return e.s }

// IsZero reports whether r names no repository.
func (r Repository) IsZero() bool { return r.s == "" }

// IsZero reports whether t is no tag.
func (t Tag) IsZero() bool { return t.s == "" }

// IsZero reports whether e names no environment.
func (e Environment) IsZero() bool { return e.s == "" }

// MarshalText lets a repository stand in JSON and YAML.
func (r Repository) MarshalText() ([]byte, error) { return []byte(r.s), nil }

// MarshalText lets a tag stand in JSON and YAML.
func (t Tag) MarshalText() ([]byte, error) { return []byte(t.s), nil }

// MarshalText lets an environment stand in JSON and YAML.
func (e Environment) MarshalText() ([]byte, error) { return []byte(e.s), nil }

// UnmarshalText parses; an empty text is the zero value.
func (r *Repository) UnmarshalText(b []byte) error { return unmarshal(b, r, ParseRepository) }

// UnmarshalText parses; an empty text is the zero value.
func (t *Tag) UnmarshalText(b []byte) error { return unmarshal(b, t, ParseTag) }

// UnmarshalText parses; an empty text is the zero value.
func (e *Environment) UnmarshalText(b []byte) error { return unmarshal(b, e, ParseEnvironment) }

// Value lets a repository stand in a text column.
func (r Repository) Value() (driver.Value, error) { return nullable(r.s), nil }

// Value lets a tag stand in a text column.
func (t Tag) Value() (driver.Value, error) { return nullable(t.s), nil }

// Value lets an environment stand in a text column.
func (e Environment) Value() (driver.Value, error) { return nullable(e.s), nil }

// Scan is the inverse of Value.
func (r *Repository) Scan(src any) error { return scanText(src, r) }

// Scan is the inverse of Value.
func (t *Tag) Scan(src any) error { return scanText(src, t) }

// Scan is the inverse of Value.
func (e *Environment) Scan(src any) error { return scanText(src, e) }

func nullable(s string) driver.Value {
	if s == "" {
		return nil
	}
	return s
}

func unmarshal[T any](b []byte, into *T, parse func(string) (T, error)) error {
	if len(b) == 0 {
		*into = *new(T)
		return nil
	}
	v, err := parse(string(b))
	if err == nil {
		*into = v
	}
	return err
}
