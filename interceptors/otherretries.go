package interceptors

import (
	"context"
	"reflect"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// An interceptor of another library in the same chain may retry, too. With three
// attempts each, a failing call would be made nine times. The one that is found out to be
// second leaves retries to the other:
//
//   - An interceptor after Hopbound's makes several calls to gRPC for one attempt, of
//     which an earlier one has failed. Then Hopbound makes no other attempt.
//   - An interceptor before Hopbound's makes a call again with the reply message of one
//     that has failed, which generated code does not. Or it says in the metadata which
//     attempt this is. Then Hopbound makes a single attempt.

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

// failedReplies are the reply messages of the last unary calls that have failed.
type failedReplies struct {
	mu   sync.Mutex // held while last is replaced
	last atomic.Pointer[[failedReplyCount]any]
	next int
}

const failedReplyCount = 16

// add takes in the reply of a call that has failed. Nobody else can have a message at its
// address as long as it is kept.
func (f *failedReplies) add(reply any) {
	if reflect.ValueOf(reply).Kind() != reflect.Pointer || f.has(reply) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	next := &[failedReplyCount]any{}
	if last := f.last.Load(); last != nil {
		*next = *last
	}
	next[f.next] = reply
	f.next = (f.next + 1) % failedReplyCount
	f.last.Store(next)
}

// has reports whether a reply is that of one of these calls. It takes no lock.
func (f *failedReplies) has(reply any) bool {
	last := f.last.Load()
	if last == nil {
		return false
	}
	for _, r := range last {
		if r != nil && r == reply {
			return true
		}
	}
	return false
}

// retriedAbove reports whether an interceptor before Hopbound's makes the call again. A
// handler that forwards its metadata forwards the count as well, which then is its
// caller's.
func (k *call) retriedAbove(ctx context.Context, reply any) bool {
	if reply != nil && k.failedReplies.has(reply) {
		return true
	}
	md, ok := metadata.FromOutgoingContext(ctx)
	return ok && len(md[attemptMetadata]) > 0 && len(metadata.ValueFromIncomingContext(ctx, attemptMetadata)) == 0
}

// leaveRetries makes a single attempt of a call that another interceptor retries.
func (k *call) leaveRetries() {
	k.reportOtherRetries()
	if k.mode == Enforce {
		k.policy.Retry, k.policy.Hedge = &RetryPolicy{MaxAttempts: 1}, nil
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
	k.otherRetries.report(k.ctx, "another interceptor of the chain retries calls as well, and Hopbound leaves these retries to it", sideClient, k.fullMethod)
}
