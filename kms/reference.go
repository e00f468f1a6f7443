package kms

import (
	"regexp"
	"strings"

	"waybill/artifact"
)

// references are the schemes of keys in a KMS, with what a reference must look like, in words and exactly. The providers' own
// packages say the same; to ask them would link the clients of every cloud. A test in package provider compares the two.
var references = map[string]struct {
	want  string
	exact *regexp.Regexp
}{
	"awskms": {"awskms://[ENDPOINT]/KEY, where KEY is an ID, an ARN or alias/NAME", regexp.MustCompile(
		`^awskms://[^/]*/(` + awsKey + `|` + awsARN + `key/` + awsKey + `|` + `(` + awsARN + `)?alias/.*)$`)},
	"azurekms": {"azurekms://VAULT/KEY, and /VERSION where it is one", regexp.MustCompile(
		`^azurekms://[^/]+/[^/]+(/[a-z0-9]*)?$`)},
	"gcpkms": {"gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/V", regexp.MustCompile(
		`^gcpkms://projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+(/(cryptoKeyVersions|versions)/[^/]+)?$`)},
	"hashivault": {"hashivault://KEY", regexp.MustCompile(
		`^hashivault://\w(([\w-.]+)?\w)?$`)},
}

const (
	awsKey = `m?r?k?-?[A-Fa-f0-9]{8}-?[A-Fa-f0-9]{4}-?[A-Fa-f0-9]{4}-?[A-Fa-f0-9]{4}-?[A-Fa-f0-9]{12}`
	awsARN = `arn:(aws|aws-us-gov|aws-cn):kms:[a-z0-9-]+:\d{12}:`
)

// maxReference bounds a reference, in bytes.
const maxReference = 2 << 10

// Check refuses what names no key in a KMS. sigstore would take any other scheme for the name of a program to run.
func Check(reference string) error {
	scheme, _, _ := strings.Cut(reference, "://")
	known, is := references[scheme]
	switch {
	case !is:
		return artifact.Errorf(artifact.Invalid, "key %.200q: want awskms://, azurekms://, gcpkms:// or hashivault://", reference)
	case len(reference) > maxReference || !known.exact.MatchString(reference):
		return artifact.Errorf(artifact.Invalid, "key %.200q: want %s", reference, known.want)
	}
	return nil
}
