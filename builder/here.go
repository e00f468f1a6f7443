package builder

import (
	"context"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"waybill/artifact"
)

// Here builds on the caller's machine, with the engines and from the plan of the service, so that the same inputs give the same
// digest. publish gets the image, which is gone when it returns.
func Here(ctx context.Context, dir string, r Request, bases Bases, b *BuildKit, private Private, log io.Writer, publish func(v1.Image) error) (key artifact.Digest, err error) {
	temp, err := os.MkdirTemp("", "waybill-build-")
	if err != nil {
		return key, err
	}
	defer os.RemoveAll(temp)
	root, err := contextRoot(temp)
	if err != nil {
		return key, err
	}
	w := &work{temp: temp, root: root}
	defer w.close()
	packed, out := io.Pipe()
	go func() { out.CloseWithError(Pack(dir, out)) }()
	err = unpack(packed, root)
	_ = packed.Close()
	if err != nil {
		return key, err
	}
	if w.plan, err = newPlan(ctx, artifact.System, r, root, bases); err != nil {
		return key, err
	}
	image, err := w.plan.make(ctx, b, w.context(), temp, private, log)
	if err != nil {
		return key, err
	}
	return w.plan.Key(), publish(image)
}
