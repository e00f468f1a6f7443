package kms

import (
	"io"
	"net/rpc"
	"net/rpc/jsonrpc"
)

// Talk is what a client has of a process whose streams these are.
func Talk(in io.Reader, out io.WriteCloser) *rpc.Client {
	streams := &streams{in: in, WriteCloser: out}
	return rpc.NewClientWithCodec(clientCodec{jsonrpc.NewClientCodec(streams), streams})
}
