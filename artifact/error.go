package artifact

import (
	"errors"
	"fmt"
	"strings"
)

// Kind says what sort of answer an error is; one table in package server maps it to an HTTP status and to an
// OCI error code. An error without a kind is internal: it is logged and not shown.
type Kind string

// The closed list of kinds.
const (
	Invalid     Kind = "invalid"     // the request is malformed
	NotFound    Kind = "not found"   // no such thing, or none the caller may know of
	Denied      Kind = "denied"      // policy, gate or role says no
	Unauthentic Kind = "unauthentic" // no credentials, or wrong ones
	Conflict    Kind = "conflict"    // the state changed or forbids it
	TooLarge    Kind = "too large"   // over a documented bound
	Unavailable Kind = "unavailable" // a dependency is away; try again
	Full        Kind = "full"        // a disk is; its operator must make room
	TimedOut    Kind = "timed out"   // the client was too slow
	Unsupported Kind = "unsupported" // understood, and not offered
	TooMany     Kind = "too many"    // of these in so short a time
)

// RetryAfter is what an answer of kind Unavailable tells clients to wait, in seconds: a database that restarts takes about that.
const RetryAfter = "3"

// RetryLater is the same of kind TooMany.
const RetryLater = "30"

// Error is an answer fit to show: what happened, why, and what to do.
type Error struct {
	Kind    Kind
	Code    string   // the OCI error code where a specific one applies (BLOB_UNKNOWN, TAG_INVALID …); else ""
	Message string   // a sentence without a secret in it
	Reasons []Reason // of a denial, every one
	Err     error    // the cause, for logs; not shown
}

func (e *Error) Error() string {
	if e.Err != nil && !strings.Contains(e.Message, e.Err.Error()) { // Errorf's message has it already
		return e.Message + ": " + e.Err.Error()
	}
	return e.Message
}

func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error of a kind; like fmt.Errorf it wraps what %w names.
func Errorf(k Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: k, Message: err.Error(), Err: errors.Unwrap(err)}
}

// Coded is Errorf with an OCI error code (distribution-spec 1.1, section "Error Codes").
func Coded(k Kind, code, format string, args ...any) *Error {
	e := Errorf(k, format, args...)
	e.Code = code
	return e
}

// KindOf returns the kind of err, or "" for an internal one.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}
