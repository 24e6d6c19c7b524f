package outbound

import (
	"context"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/internal/cache"
	"github.com/hopbound/hopbound/internal/hoperr"
	"github.com/hopbound/hopbound/internal/request"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// An interceptor of another library in the same chain may retry too. With three attempts each, a failing
// call would be made nine times. When Hopbound notices the other interceptor, it does not retry the call:
//
//   - An interceptor after Hopbound's makes several calls to gRPC for one attempt, of which an earlier
//     one has failed. Then Hopbound makes no other attempt.
//   - An interceptor before Hopbound's makes a call with the request and reply messages of a call that
//     has just failed, which generated code never does. For a stream, the metadata may contain the number
//     of the attempt. Then Hopbound makes a single attempt.

// attemptMetadata is the metadata by which go-grpc-middleware counts its retries.
const attemptMetadata = "x-retry-attempt"

// Finish records that gRPC has finished a call that was made for the attempt.
func (a *Attempt) Finish(err error) {
	a.earlierBelow.Or(a.lastBelow.Swap(uint32(request.CodeSet(hoperr.Code(err)))))
	a.Finished.Store(true)
}

// repeatedBelow reports whether gRPC has finished several calls for the attempt, of which an earlier
// one failed with a code that the policy retries.
func (a *Attempt) repeatedBelow(retries func(codes.Code) bool) bool {
	earlier := a.earlierBelow.Load()
	for code := codes.Canceled; earlier>>code != 0; code++ {
		if earlier&uint32(request.CodeSet(code)) != 0 && retries(code) {
			return true
		}
	}
	return false
}

// failedCall identifies a unary call that has failed by the addresses of its messages. As long as it
// refers to the messages, no other message can have these addresses.
type failedCall struct {
	method     string
	req, reply any
	ended      time.Time
}

// recentFailures are the last unary calls of a client that have failed.
type recentFailures struct {
	mu   sync.Mutex // held while last is replaced
	last atomic.Pointer[[]failedCall]
}

const (
	maxFailures = 16
	// failureMemory is how long a failed call is remembered: longer than the backoff of most interceptors
	// that retry.
	failureMemory = 2 * time.Second
)

// failure returns the failedCall by which the call is remembered if it fails.
func (c *Call) failure(req, reply any) failedCall {
	return failedCall{c.FullMethod, req, reply, c.ended}
}

// callEnded records that a call has ended. Only a failure, and a success after one with the
// same messages, takes the lock.
func (f *recentFailures) callEnded(c failedCall, err error) {
	if err == nil && !f.has(c) || !hasAddress(c.req) || !hasAddress(c.reply) || len(c.method) > cache.MaxNameLen {
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
	next = next[max(0, len(next)-maxFailures):]
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
func (c *failedCall) isOver(now time.Time) bool { return now.Sub(c.ended) >= failureMemory }

// has reports whether a call with the same messages failed recently. It takes no lock. When all
// remembered failures are too old, has forgets them and their messages.
func (f *recentFailures) has(c failedCall) bool {
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

// IsRetriedAbove reports whether an interceptor before Hopbound's says in the metadata that it retries a
// stream. If the incoming metadata of the handler also has the count, the handler may have forwarded its
// caller's count, which is ignored.
func IsRetriedAbove(ctx context.Context) bool {
	md, ok := metadata.FromOutgoingContext(ctx)
	return ok && len(md[attemptMetadata]) > 0 && len(metadata.ValueFromIncomingContext(ctx, attemptMetadata)) == 0
}

// LeaveRetries limits a call that another interceptor retries to a single attempt.
func (c *Call) LeaveRetries() {
	c.telemetry.OtherRetries()
	if !c.Observe {
		c.policy.SingleAttempt()
	}
}
