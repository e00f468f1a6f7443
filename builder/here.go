package builder

import (
	"context"
	"io"

	"waybill/artifact"
)

// Here builds on the caller's machine, with the engines and from the plan of the service, so that the same inputs give the same
// digest. publish gets the image, which is gone when it returns.
func Here(ctx context.Context, dir string, r Request, with Config, private Private, log io.Writer, publish func(Artifact) error) (key artifact.Digest, err error) {
	packed, out := io.Pipe()
	go func() { out.CloseWithError(Pack(dir, r.Dockerfile, out)) }()
	defer func() { _ = packed.Close() }()
	w, err := NewService(with).prepare(ctx, artifact.System, r, packed)
	if err != nil {
		return key, err
	}
	defer w.close()
	w.plan.private = private
	built, release, err := w.plan.build(ctx, w.temp, with.Limits, log)
	if err != nil {
		return key, err
	}
	defer release()
	return w.plan.Key(), publish(built)
}
