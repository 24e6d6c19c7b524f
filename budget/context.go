package budget

import "context"

// ContextKey is the key under which a context holds an [*Allotment].
//
// For transports: a type that implements context.Context itself returns its allotment for this key.
// Other code calls [NewContext].
type ContextKey struct{}

// NewContext returns a context whose calls use the tokens of a.
//
// For transports: a server calls it with the allotment of an incoming request.
func NewContext(ctx context.Context, a *Allotment) context.Context {
	return context.WithValue(ctx, ContextKey{}, a)
}

// FromContext returns the allotment of the request that ctx belongs to. It returns false outside of
// any request. A call that is made there is a root.
func FromContext(ctx context.Context) (*Allotment, bool) {
	a, ok := ctx.Value(ContextKey{}).(*Allotment)
	return a, ok
}

// NewRoot starts a root request for work that does not start in a gRPC server: an HTTP handler, a job,
// a queue consumer or a command. All calls made with the returned context share one request budget,
// which has the settings of b. If b is nil, the budget has no tokens, so none of the calls is retried or
// hedged.
//
// Call the returned function when the work is done. It ends the root: each call made with the context
// after that is a root of its own. Its argument says whether the work succeeded; the argument is
// reserved and has no effect. Further calls of the function do nothing.
func NewRoot(ctx context.Context, b *Budget) (context.Context, func(success bool)) {
	if b == nil {
		b = &Budget{}
	}
	a := &Allotment{}
	a.setBudget(b)
	return NewContext(ctx, a), func(bool) { a.Close() }
}
