package registry

import (
	"context"
	"errors"
	"io"

	"waybill/artifact"
)

// room is what one request may still store. The nil room has no end.
type room struct {
	takeBytes func(ctx context.Context, n int64) error
	settleAll func(stored int64)
	denial    error // why it took no more
}

// room returns what a request of p may store in a repository. What the service itself stores is a part of what was
// accepted before, such as a signature, and is never refused.
func (r *Registry) room(ctx context.Context, p artifact.Principal, repository artifact.Repository, linked bool) (*room, error) {
	if r.cfg.Rules == nil || p.Name == artifact.System.Name {
		return nil, nil
	}
	take, settle, err := r.cfg.Rules.Room(ctx, repository, linked)
	if err != nil || take == nil {
		return nil, err
	}
	return &room{takeBytes: take, settleAll: settle}, nil
}

func (r *room) take(ctx context.Context, n int64) error {
	if r == nil || n <= 0 {
		return nil
	}
	err := r.takeBytes(ctx, n)
	if err != nil {
		r.denial = err
	}
	return err
}

// settle says how much of what was taken is stored and committed.
func (r *room) settle(stored int64) {
	if r != nil {
		r.settleAll(stored)
	}
}

// refused reports whether it was asked for more than there is.
func (r *room) refused() bool { return r != nil && artifact.KindOf(r.denial) == artifact.Denied }

// bound takes room for a body of an announced length at once, so that one that does not fit is refused unread; of one
// whose length nobody said (below 0) it takes room for each part before that is stored.
func (r *room) bound(ctx context.Context, body io.Reader, length int64) (io.Reader, error) {
	if r == nil {
		return body, nil
	}
	if err := r.take(ctx, max(length, 0)); err != nil {
		return nil, err
	}
	return &bounded{ctx: ctx, r: body, room: r, left: max(length, 0)}, nil
}

// bounded lives as long as the request whose context it keeps.
type bounded struct {
	ctx  context.Context //nolint:containedctx // io.Reader has no place for one
	r    io.Reader
	room *room
	left int64 // of what was taken
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if more := int64(n) - b.left; more > 0 {
		if full := b.room.take(b.ctx, more); full != nil {
			return 0, full
		}
		b.left = 0
		return n, err
	}
	b.left -= int64(n)
	return n, err
}

// announced is how long a body says that it will be, in bytes; -1 where it does not know.
func announced(body io.Reader) int64 {
	if b, ok := body.(interface{ Announced() int64 }); ok {
		return b.Announced()
	}
	return -1
}

// tooMuch drops an upload that does not fit, a quota or the disk: what it has brought takes room from others, and none of it can be used.
func (r *Registry) tooMuch(ctx context.Context, u artifact.Upload, denial error) error {
	ctx = context.WithoutCancel(ctx)
	return errors.Join(denial, r.cfg.Uploads.DeleteUpload(ctx, u.ID), r.cfg.Bytes.Cancel(u.ID))
}
