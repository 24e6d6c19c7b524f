package interceptors

import (
	"context"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// An interceptor of another library in the same chain may retry, too. With three
// attempts each, a failing call would be made nine times. When Hopbound notices the other
// interceptor, it stops retrying the call:
//
//   - An interceptor after Hopbound's makes several calls to gRPC for one attempt, of
//     which an earlier one has failed. Then Hopbound makes no other attempt.
//   - An interceptor before Hopbound's makes a call again with the request and the reply
//     message of one that failed a moment ago, which generated code does not. Or it says
//     in the metadata which attempt this is. Then Hopbound makes a single attempt.

// attrOtherRetries is set on the span of a call that another interceptor retries.
const attrOtherRetries = attribute.Key("hopbound.other_retries")

// attemptMetadata is the metadata by which go-grpc-middleware counts its retries.
const attemptMetadata = "x-retry-attempt"

// finish takes in that gRPC has finished a call that was made for the attempt.
func (a *attempt) finish(err error) {
	a.earlierBelow.Or(a.lastBelow.Swap(bit(codeOf(err))))
	a.finished.Store(true)
}

// repeatedBelow reports whether a call below failed as the policy retries, and was
// followed by another.
func (a *attempt) repeatedBelow(repeats func(codes.Code) bool) bool {
	earlier := a.earlierBelow.Load()
	for code := codes.Canceled; earlier>>code != 0; code++ {
		if earlier&bit(code) != 0 && repeats(code) {
			return true
		}
	}
	return false
}

// failedCall is a unary call that has failed, by its messages. As long as they are kept,
// no other message can be at their addresses.
type failedCall struct {
	method     string
	req, reply any
	ended      time.Time
}

// failedCalls are the last unary calls of a client that have failed.
type failedCalls struct {
	mu   sync.Mutex // held while last is replaced
	last atomic.Pointer[[]failedCall]
}

const (
	failedCallCount = 16
	// failedCallTime is for how long a failed call is remembered, which is more than the
	// backoff of most interceptors that retry.
	failedCallTime = 2 * time.Second
)

// failedCall returns the call as it is remembered if it fails.
func (k *call) failedCall(req, reply any) failedCall {
	return failedCall{k.fullMethod, req, reply, k.ended}
}

// ended takes in that a call has ended.
func (f *failedCalls) ended(c failedCall, err error) {
	known := f.last.Load() != nil && len(*f.last.Load()) > 0
	if err == nil && !known || !hasAddress(c.req) || !hasAddress(c.reply) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var next []failedCall
	if last := f.last.Load(); last != nil {
		for _, other := range *last {
			if !other.is(c) && c.ended.Sub(other.ended) < failedCallTime {
				next = append(next, other)
			}
		}
	}
	if err != nil {
		next = append(next, c)
	}
	next = next[max(0, len(next)-failedCallCount):]
	f.last.Store(&next)
}

// hasAddress reports whether a message has an address that no other has.
func hasAddress(m any) bool {
	v := reflect.ValueOf(m)
	return v.Kind() == reflect.Pointer && !v.IsNil() && v.Type().Elem().Size() > 0
}

// is reports whether two calls have the same messages.
func (c failedCall) is(other failedCall) bool {
	return c.method == other.method && c.req == other.req && c.reply == other.reply
}

// has reports whether a call with the same messages failed a moment ago. It takes no lock.
func (f *failedCalls) has(c failedCall) bool {
	last := f.last.Load()
	if last == nil || len(*last) == 0 || !hasAddress(c.req) || !hasAddress(c.reply) {
		return false
	}
	return slices.ContainsFunc(*last, func(other failedCall) bool {
		return other.is(c) && c.ended.Sub(other.ended) < failedCallTime
	})
}

// retriedAbove reports whether an interceptor before Hopbound's makes the call again. A
// handler that forwards its metadata forwards the count as well, which then is its
// caller's.
func (k *call) retriedAbove(ctx context.Context, req, reply any) bool {
	if k.failedCalls.has(k.failedCall(req, reply)) {
		return true
	}
	md, ok := metadata.FromOutgoingContext(ctx)
	return ok && len(md[attemptMetadata]) > 0 && len(metadata.ValueFromIncomingContext(ctx, attemptMetadata)) == 0
}

// leaveRetries makes a single attempt of a call that another interceptor retries.
func (k *call) leaveRetries() {
	k.reportOtherRetries()
	if k.mode == Enforce {
		once := &RetryPolicy{MaxAttempts: 1}
		switch p := &k.policy; {
		case p.Hedge != nil:
			once.Codes = p.Hedge.NonFatal
		case p.Retry != nil:
			once.Codes = p.Retry.Codes
		}
		k.policy.Retry, k.policy.Hedge = once, nil
	}
}

// reportOtherRetries says that another interceptor retries the call.
func (k *call) reportOtherRetries() {
	if k.span != nil {
		k.span.SetAttributes(attrOtherRetries.Bool(true))
	}
	if k.count != nil {
		k.count.otherRetries(k.ctx, k.method)
	}
	k.otherRetries.report(k.ctx, "another client interceptor retries this method, and Hopbound does not retry these calls; remove the other interceptor", sideClient, k.fullMethod)
}
