package deadline

import (
	"context"
	"time"
)

// Remaining returns the time until ctx's deadline, or false if ctx has no deadline. The time is negative
// if the deadline has passed. In a handler, it is how long the caller will still wait, minus the caller's
// reserve for the reply's way back.
func Remaining(ctx context.Context) (time.Duration, bool) {
	t, ok := ctx.Deadline()
	if !ok {
		return 0, false
	}
	return time.Until(t), true
}

// Waiting reports whether the caller of a handler still waits: ctx is not cancelled, and its deadline has not
// passed. A handler that takes work from a queue of its own asks it before it starts the work, because the
// caller may have given up meanwhile. It is true for a context that is never cancelled.
func Waiting(ctx context.Context) bool {
	left, limited := Remaining(ctx)
	return ctx.Err() == nil && (!limited || left > 0)
}

type reserveKey struct{}

// WithReserve returns a context whose calls keep d in reserve for their replies' way back: the deadline
// that the callee receives is earlier by d, but by at most a fifth of the remaining time. It takes
// precedence over the client's own reserve, learned or fixed. If d is zero or negative, the calls have no
// reserve.
func WithReserve(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, reserveKey{}, max(0, d))
}

// ReserveFromContext returns the reserve that [WithReserve] has set, or false if it has set none.
//
// For transports: a client reads it for each attempt.
func ReserveFromContext(ctx context.Context) (time.Duration, bool) {
	d, ok := ctx.Value(reserveKey{}).(time.Duration)
	return d, ok
}

// Detach returns a context for work that must outlive its call. The context keeps ctx's values, such as
// the trace, but is not cancelled with ctx. Its deadline is d from now; if d is zero or negative, the
// deadline has already passed. Call the cancel function when the work is done.
//
// Calls made with the context belong to the request's call tree until the request ends. After that, each
// call is a root.
func Detach(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), d)
}
