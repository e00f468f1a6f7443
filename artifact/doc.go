// Package artifact holds the words Waybill speaks: digests, manifests, facts, findings, verdicts, promotions.
// It is a leaf: the standard library only, and no IO. A value that one of its Parse functions made is well
// formed; past that point a malformed one cannot exist.
package artifact
