package budget

import (
	"context"
	"time"
)

// ContextKey is the key under which a context holds an [*Allotment], for types
// that are contexts themselves and need no other around them.
type ContextKey struct{}

// NewContext returns a context whose calls draw on a.
func NewContext(ctx context.Context, a *Allotment) context.Context {
	return context.WithValue(ctx, ContextKey{}, a)
}

// FromContext returns the allotment of the request that ctx belongs to. It
// reports false outside of any, where a call is the root of its own.
func FromContext(ctx context.Context) (*Allotment, bool) {
	a, ok := ctx.Value(ContextKey{}).(*Allotment)
	return a, ok
}

// NewRoot begins a root request paid for by b, for work that starts with no
// server call: a job, a consumer of a queue, a command. All calls made with
// the returned context share one grant. The function ends the root, and must
// be called once the work is done; it takes whether the work succeeded, which
// earns b tokens. Calls of it after the first do nothing.
//
// A nil b grants nothing, so that no call of the work is repeated.
func NewRoot(ctx context.Context, b *Budget) (context.Context, func(success bool)) {
	if b == nil {
		b = &Budget{}
	}
	a := &Allotment{purse: b}
	return NewContext(ctx, a), func(success bool) { a.Close(time.Now(), success) }
}
