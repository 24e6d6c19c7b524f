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
//     message of one that failed a moment ago, which generated code does not; of a stream
//     it may say in the metadata which attempt this is. Then Hopbound makes a single
//     attempt.

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

// ended takes in that a call has ended. Only a failure, and a success after one with the
// same messages, takes the lock.
func (f *failedCalls) ended(c failedCall, err error) {
	if err == nil && !f.has(c) || !hasAddress(c.req) || !hasAddress(c.reply) || len(c.method) > cachedLength {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var next []failedCall
	if last := f.last.Load(); last != nil {
		for _, other := range *last {
			if !other.is(c) && !other.isOver(c.ended) {
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
func (c *failedCall) is(other failedCall) bool {
	return c.method == other.method && c.req == other.req && c.reply == other.reply
}

// isOver reports whether a call failed too long ago to be retried.
func (c *failedCall) isOver(now time.Time) bool { return now.Sub(c.ended) >= failedCallTime }

// has reports whether a call with the same messages failed a moment ago. It takes no lock,
// and lets go of the messages when all of the calls are over.
func (f *failedCalls) has(c failedCall) bool {
	last := f.last.Load()
	switch {
	case last == nil:
		return false
	case len(*last) == 0 || (*last)[len(*last)-1].isOver(c.ended):
		f.last.CompareAndSwap(last, nil)
		return false
	}
	return slices.ContainsFunc(*last, func(other failedCall) bool { return other.is(c) && !other.isOver(c.ended) })
}

// isRetriedAbove reports whether an interceptor before Hopbound's says that it makes a
// stream again. A handler that forwards its metadata forwards the count as well, which then
// is its caller's.
func isRetriedAbove(ctx context.Context) bool {
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
	k.otherRetries.report(k.ctx, k.log(), "another client interceptor retries this method, and Hopbound does not retry these calls; remove the other interceptor", sideClient, k.fullMethod)
}
