package deadline

import (
	"context"
	"time"
)

// Remaining returns how long until ctx's deadline, which may be negative, or
// false if it has none. In a handler this is what the caller will still wait,
// less what its reply needs to come back.
func Remaining(ctx context.Context) (time.Duration, bool) {
	t, ok := ctx.Deadline()
	if !ok {
		return 0, false
	}
	return time.Until(t), true
}

type reserveKey struct{}

// WithReserve returns a context whose calls keep d in reserve for their replies
// to come back: the callee is told a deadline earlier by that much, though at
// most by a fifth of what remains. It replaces what the client learns or was
// set to. A d of zero or less keeps nothing in reserve.
func WithReserve(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, reserveKey{}, max(0, d))
}

// ReserveFromContext returns the reserve set by [WithReserve], if any.
func ReserveFromContext(ctx context.Context) (time.Duration, bool) {
	d, ok := ctx.Value(reserveKey{}).(time.Duration)
	return d, ok
}

// Detach returns a context for work that goes on after the call it came from:
// it keeps ctx's values, such as the trace, is not cancelled with it, and has a
// deadline of its own, d from now. A d of zero or less has already passed. The
// cancel function must be called once the work is done.
//
// The calls of such work are part of the request's tree while the request
// lasts, and after it each is the root of its own.
func Detach(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), d)
}
