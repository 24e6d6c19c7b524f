package budget

import "context"

// ContextKey is the key under which a context holds an [*Allotment], for types
// that are contexts themselves and need no other around them.
type ContextKey struct{}

// NewContext returns a context whose calls draw on a.
func NewContext(ctx context.Context, a *Allotment) context.Context {
	return context.WithValue(ctx, ContextKey{}, a)
}

// FromContext returns the allotment of the request that ctx belongs to. It
// reports false outside of any request, where a call is the root of its own.
func FromContext(ctx context.Context) (*Allotment, bool) {
	a, ok := ctx.Value(ContextKey{}).(*Allotment)
	return a, ok
}

// NewRoot begins a root request for work that starts with no gRPC server call: an
// HTTP handler, a job, a consumer of a queue, a command. All calls made with the
// returned context share one request budget with the settings of b. A nil b
// grants nothing, so that no call of the work is repeated.
//
// The returned function ends the root and must be called when the work is done.
// Calls made with the context after that are requests of their own. It takes whether
// the work succeeded, which is reserved and makes no difference. Calls of it after
// the first do nothing.
func NewRoot(ctx context.Context, b *Budget) (context.Context, func(success bool)) {
	if b == nil {
		b = &Budget{}
	}
	a := &Allotment{}
	a.begin(b)
	return NewContext(ctx, a), func(bool) { a.Close() }
}
