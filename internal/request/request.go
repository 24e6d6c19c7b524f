package request

import (
	"context"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/telemetry"
	"google.golang.org/grpc/metadata"
)

// Request is an incoming request at one hop. It is the context of its handler. Outgoing calls of
// the handler may use it at the same time. The state of the incoming call contains the Request as a
// value, so that it costs no allocation.
type Request struct {
	context.Context
	Allotment  budget.Allotment
	Downstream Downstream
	Telemetry  telemetry.Incoming

	// WouldRun says that the handler does not run under a key, but would if this server and all
	// callers of the request enforced.
	WouldRun bool

	// These are for logs, and are set before the handler runs.
	Attempt  int             // from 1; 0 if the caller does not say
	IsHop    bool            // the caller lent tokens, perhaps 0
	Degraded int             // the level that the caller has sent
	Key      idempotency.Key // if it is not in the metadata
}

type contextKey struct{}

// AttemptKey is the key under which the context of an attempt holds the attempt. A request hides
// its caller's attempt, because within one process the caller's context may reach the handler.
type AttemptKey struct{}

// Value returns the request and its allotment under their keys.
func (r *Request) Value(key any) any {
	switch key.(type) {
	case contextKey:
		return r
	case AttemptKey:
		return nil
	case budget.ContextKey:
		return &r.Allotment
	case LevelKey:
		return r
	}
	return r.Context.Value(key)
}

// LevelKey is the key under which a context holds a value with a method Level() int, the level of degradation of what
// it belongs to.
type LevelKey struct{}

// Level returns the level of degradation that the caller has sent.
func (r *Request) Level() int { return r.Degraded }

// Level returns the level of degradation of what ctx belongs to, from 0, which is normal.
func Level(ctx context.Context) int {
	if l, ok := ctx.Value(LevelKey{}).(interface{ Level() int }); ok {
		return l.Level()
	}
	return 0
}

// FromContext returns the request that ctx belongs to, or nil if there is none or it has ended.
func FromContext(ctx context.Context) *Request {
	r := Any(ctx)
	if r == nil || r.Allotment.Closed() {
		return nil
	}
	return r
}

// Any returns the request that ctx belongs to, even if it has ended, or nil.
func Any(ctx context.Context) *Request {
	r, _ := ctx.Value(contextKey{}).(*Request)
	return r
}

// MetadataKey returns the idempotency key in the request's metadata, or the empty key unless there
// is exactly one that is valid.
func (r *Request) MetadataKey() idempotency.Key {
	values := metadata.ValueFromIncomingContext(r, idempotency.Header)
	if len(values) != 1 {
		return ""
	}
	key, _ := idempotency.ParseKey(values[0]) // empty if it is invalid
	return key
}
