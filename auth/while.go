package auth

import (
	"context"
	"time"

	"waybill/artifact"
)

// askAgain is how often somebody who is told of something for long is asked who they are.
const askAgain = time.Second

// While returns a context that ends with ctx, and within moments of when who does no more says who asks: what is streamed for as long as
// something takes ends with the token that asked for it. That a database is away for a while ends nothing.
func While(ctx context.Context, who func(context.Context) error) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		tick := time.NewTicker(askAgain)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if artifact.KindOf(who(ctx)) == artifact.Unauthentic {
					cancel()
				}
			}
		}
	}()
	return ctx, cancel
}
