package artifact

import (
	"crypto/sha256"
	"crypto/sha512"
	"database/sql/driver"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

// Digest is a content digest as in OCI image-spec 1.1, descriptor.md "Digests": sha256 or sha512, lower-case
// hexadecimal. The zero Digest is "none". Digests are comparable and serve as map keys.
type Digest struct{ s string }

// ParseDigest returns the digest that s spells, or an Invalid error.
func ParseDigest(s string) (Digest, error) {
	algorithm, hexed, ok := strings.Cut(s, ":")
	size := 64
	if algorithm == "sha512" {
		size = 128
	}
	if !ok || algorithm != "sha256" && algorithm != "sha512" {
		return Digest{}, Coded(Invalid, "DIGEST_INVALID", "digest %.80q: want sha256:<64 hex digits> or sha512:<128 hex digits>", s)
	}
	if len(hexed) != size || !isHex(hexed) {
		return Digest{}, Coded(Invalid, "DIGEST_INVALID", "digest %.80q: want %d lower-case hex digits after %s:", s, size, algorithm)
	}
	return Digest{s}, nil
}

func isHex(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// MustDigest is ParseDigest for constants and tests; it panics on a malformed one.
func MustDigest(s string) Digest {
	d, err := ParseDigest(s)
	if err != nil {
		panic(err)
	}
	return d
}

// DigestOf returns the sha256 digest of b.
func DigestOf(b []byte) Digest {
	sum := sha256.Sum256(b)
	return Digest{"sha256:" + hex.EncodeToString(sum[:])}
}

// DigestFrom returns the digest whose algorithm is given and whose sum h holds.
func DigestFrom(algorithm string, h hash.Hash) Digest {
	return Digest{algorithm + ":" + hex.EncodeToString(h.Sum(nil))}
}

// NewHash returns a fresh hash of the named algorithm, sha256 or sha512; nil for any other. Both resume through
// encoding.BinaryMarshaler and BinaryUnmarshaler.
func NewHash(algorithm string) hash.Hash {
	switch algorithm {
	case "sha256":
		return sha256.New()
	case "sha512":
		return sha512.New()
	}
	return nil
}

// Algorithm returns "sha256" or "sha512", and "" of the zero Digest.
func (d Digest) Algorithm() string { a, _, _ := strings.Cut(d.s, ":"); return a }

// Hex returns the hexadecimal digits after the algorithm.
func (d Digest) Hex() string { _, h, _ := strings.Cut(d.s, ":"); return h }

// Short returns the first twelve hex digits, as people compare them.
func (d Digest) Short() string { return d.Hex()[:min(12, len(d.Hex()))] }

// IsZero reports whether d is no digest.
func (d Digest) IsZero() bool { return d.s == "" }

func (d Digest) String() string { return d.s }

// MarshalText and UnmarshalText let a digest stand in JSON and YAML; an empty text is the zero Digest.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.s), nil }

// UnmarshalText is the inverse of MarshalText.
func (d *Digest) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*d = Digest{}
		return nil
	}
	parsed, err := ParseDigest(string(b))
	if err == nil {
		*d = parsed
	}
	return err
}

// Value and Scan let a digest stand in a text column; NULL is the zero Digest.
func (d Digest) Value() (driver.Value, error) {
	if d.IsZero() {
		return nil, nil
	}
	return d.s, nil
}

// Scan is the inverse of Value.
func (d *Digest) Scan(src any) error { return scanText(src, d) }

// scanText hands a text column to an UnmarshalText, so that each identifier is parsed by one function only.
func scanText(src any, into interface{ UnmarshalText([]byte) error }) error {
	switch v := src.(type) {
	case nil:
		return into.UnmarshalText(nil)
	case string:
		return into.UnmarshalText([]byte(v))
	case []byte:
		return into.UnmarshalText(v)
	}
	return fmt.Errorf("cannot read %T as text", src)
}
