package interceptors

import (
	"context"
	"sync"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// request is an incoming request at one hop: what its outgoing calls draw on,
// and what became of them. It is the context of the request's handler, which is
// how its calls find it, and they may run at the same time. It is part of what
// is kept of the incoming call anyway, so that it costs no allocation.
type request struct {
	context.Context
	allotment  budget.Allotment
	downstream downstream

	wouldRun bool // it runs without a key, and would have one if all its callers enforced

	span trace.Span // of the incoming call; nil if it is not recorded

	// What logs tell of it; both are set before the handler runs.
	attempt int             // from 1, or 0 if the caller does not tell
	hop     bool            // the caller leased tokens, even if none
	key     idempotency.Key // if it is not in the metadata, where all can see it
}

type requestKey struct{}

// in sets the context that r is one of.
func (r *request) in(ctx context.Context) { r.Context = ctx }

// Value returns the request and its allotment under their keys.
func (r *request) Value(key any) any {
	switch key.(type) {
	case requestKey:
		return r
	case attemptKey: // of the caller, where its context reaches the handler
		return nil
	case budget.ContextKey:
		return &r.allotment
	}
	return r.Context.Value(key)
}

// requestFromContext returns the incoming request that ctx belongs to, or nil
// if there is none or it is over.
func requestFromContext(ctx context.Context) *request {
	r, _ := ctx.Value(requestKey{}).(*request)
	if r == nil || r.allotment.Closed() {
		return nil
	}
	return r
}

// headerKey returns the key among the request's metadata, or none unless there is
// one that is valid.
func (r *request) headerKey() idempotency.Key {
	values := metadata.ValueFromIncomingContext(r, idempotency.Header)
	if len(values) != 1 {
		return ""
	}
	key, _ := idempotency.ParseKey(values[0]) // none if it is invalid
	return key
}

// downstream is word of calls that failed and were not repeated, from which the
// hop tells whether its own failure is one of theirs.
type downstream struct {
	mu sync.Mutex
	failures
}

// failures are what a downstream knows.
type failures struct {
	codes   uint32 // of failures that are no matter for retries, a bit each
	final   bool   // a failure that might have been repeated was not, for good
	wanting bool   // or for want of a token alone

	pushed   bool // the handler has said when to retry
	pushback int64
}

// push takes in when the handler wants its caller to retry, in milliseconds, or
// that it must not, which is final.
func (d *downstream) push(ms int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.pushed || d.pushback >= 0 {
		d.pushed, d.pushback = true, ms
	}
	d.final = d.final || ms < 0
}

// overrule takes back what was said of retrying before: of the failure that the
// caller gets, this is known better.
func (d *downstream) overrule(ms int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pushed, d.pushback = true, ms
	d.codes, d.final, d.wanting = 0, ms < 0, false
}

// retryAfter returns what the handler's caller is told of retrying, or false if
// it is told nothing.
func (d *downstream) retryAfter(marked bool) (ms int64, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if marked {
		return -1, true
	}
	return d.pushback, d.pushed
}

// copyFrom takes over what another request knows, whose failure is this one's.
func (d *downstream) copyFrom(other *downstream) {
	other.mu.Lock()
	known := other.failures
	other.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failures = known
}

// failed takes in how a call ended that failed, and whether the request's own
// time was over with it. A call that ran out of that tells nothing: whether
// there is time for another request is the caller's to judge. One that ran out
// of a time of its own was given up here.
func (d *downstream) failed(code codes.Code, why decision, wanting, over bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case why == notRetryable:
		d.codes |= bit(code)
	case why == outOfTime && over:
	case wanting:
		d.wanting = true
	default:
		d.final = true
	}
}

// mark tells how the request's own failure is marked: not at all, as one not to
// be repeated, or as one that may be by whoever holds tokens.
//
// After a failure below that might have been repeated but was not, any failure
// counts as its consequence, whatever code the handler made of it. After one
// that is no matter for retries, only a failure with the same code does.
func (d *downstream) mark(code codes.Code) (marked, wanting bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	same := d.codes&bit(code) != 0
	return d.final || d.wanting || same, d.wanting && !d.final && !same
}

// bit is a code's bit in a set of codes. Codes that gRPC does not know share
// one.
func bit(code codes.Code) uint32 { return 1 << min(code, 31) }
