// Package kms reaches keys in a KMS by way of a process, waybill-kms, which has the clients of each: they would be a
// sixth more of the server, and most servers sign with a key in a file. It has the protocol, and the client that starts the
// process when a key is asked for, bounds it, and ends it when none is.
package kms

import (
	"crypto"
	"errors"
	"io"
	"net/rpc"
	"net/rpc/jsonrpc"
	"strings"
	"time"
)

// Messages are those of JSON-RPC 1.0 on the child's standard streams, many at a time. The first asks for Hello.

// Protocol is the version of these messages.
const Protocol = 1

// Timeout bounds one exchange with a KMS, and with what gives its credentials.
const Timeout = 15 * time.Second

const (
	// MaxMessage bounds what a key signs that signs no hashes, in bytes: a statement may have 20 MiB.
	MaxMessage = 32 << 20
	maxRequest = MaxMessage/3*4 + 64<<10 // with the message in base64
	maxAnswer  = 64 << 10
	maxReason  = 2 << 10 // of what a KMS says when it refuses
)

// Hello is the child's first answer.
type Hello struct {
	Protocol int
	Version  string
}

// PublicKeyRequest asks for the public half of a key, as the KMS has it now.
type PublicKeyRequest struct{ Reference string }

// PublicKey is a SubjectPublicKeyInfo (RFC 5280).
type PublicKey struct{ DER []byte }

// SignRequest asks for a signature: of a hash, or of a message by a key that takes no hashes, as Ed25519.
type SignRequest struct {
	Reference string
	Hash      crypto.Hash // crypto.SHA256, or 0
	Content   []byte      // the hash of the message, or itself
}

// Signature is one, as the key's algorithm encodes it.
type Signature struct{ Raw []byte }

// Service is what the child does.
type Service interface {
	Hello(request struct{}, answer *Hello) error
	PublicKey(request PublicKeyRequest, answer *PublicKey) error
	Sign(request SignRequest, answer *Signature) error
}

// methods are those that a client can call.
type methods struct{ Service }

// Serve is for the child: service answers what is asked, until in ends.
func Serve(in io.Reader, out io.WriteCloser, service Service) error {
	server := rpc.NewServer()
	if err := server.RegisterName("KMS", methods{service}); err != nil {
		return err
	}
	streams := &streams{in: in, WriteCloser: out}
	server.ServeCodec(serverCodec{jsonrpc.NewServerCodec(streams), streams})
	return nil
}

// streams are two pipes as one connection, which lets so many bytes come.
type streams struct {
	in   io.Reader
	left int64
	io.WriteCloser
}

var errTooLong = errors.New("a message is longer than any should be")

func (s *streams) Read(p []byte) (int, error) {
	if s.left <= 0 {
		return 0, errTooLong
	}
	n, err := s.in.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	return n, err
}

// clientCodec bounds each answer, and serverCodec each request: a message comes whole with its header.
type clientCodec struct {
	rpc.ClientCodec
	streams *streams
}

func (c clientCodec) ReadResponseHeader(r *rpc.Response) error {
	c.streams.left = maxAnswer
	return c.ClientCodec.ReadResponseHeader(r)
}

type serverCodec struct {
	rpc.ServerCodec
	streams *streams
}

func (c serverCodec) ReadRequestHeader(r *rpc.Request) error {
	c.streams.left = maxRequest
	return c.ServerCodec.ReadRequestHeader(r)
}

// Shorten bounds what a KMS says: it is shown, and logged.
func Shorten(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxReason)], "")
}
