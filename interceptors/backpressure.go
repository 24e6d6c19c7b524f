package interceptors

import (
	"context"
	"math"
	"time"

	"github.com/hopbound/hopbound/internal/hoperr"
	"github.com/hopbound/hopbound/internal/inbound"
	"github.com/hopbound/hopbound/internal/outbound"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Overloaded returns an error with which a handler, or an interceptor before it, asks its caller to retry
// after some time. The time is sent as RetryInfo in the status, and as gRFC A6 pushback in the trailer of
// the call whose context is ctx. A caller that uses Hopbound or gRPC's own retries then waits for exactly
// that time, Hopbound for at most 5 minutes, if its policy retries the code and its deadline leaves
// enough time. If an outgoing call of the handler has failed and no hop above may retry that failure, the
// caller does not retry.
//
// The code is [codes.ResourceExhausted] or [codes.Unavailable]; any other code counts as the latter. The
// time is rounded up to a millisecond, and a negative time counts as 0.
func Overloaded(ctx context.Context, code codes.Code, after time.Duration) error {
	if code != codes.ResourceExhausted {
		code = codes.Unavailable
	}
	ms := min(max(0, after).Milliseconds(), math.MaxInt32-1)
	if after > time.Duration(ms)*time.Millisecond {
		ms++
	}
	inbound.Push(ctx, ms)
	return TryLater(code, hoperr.Overloaded, "the server is overloaded", time.Duration(ms)*time.Millisecond)
}

// TryLater returns the error of a call that an interceptor rejects or refuses, with an ErrorInfo of Hopbound's domain
// and a reason, and the time after which the call may succeed as RetryInfo. It is for authors of interceptors; it sends
// no pushback.
func TryLater(code codes.Code, reason, message string, after time.Duration) error {
	return hoperr.New(code, reason, message, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
}

// Refuse returns err, and tells the client that an interceptor after its own has not sent the attempt whose
// context is ctx, for example because a circuit breaker is open. The attempt costs no token, it is not
// retried, and a failure that the handler returns because of it is marked non-retryable. If ctx belongs to no
// attempt, or err is nil, Refuse does nothing but return err.
func Refuse(ctx context.Context, err error) error {
	if err != nil {
		outbound.Refuse(ctx)
	}
	return err
}

// Refused reports whether an interceptor has called [Refuse] for the attempt whose context is ctx. It is for authors of
// interceptors that come before one that refuses, such as a breaker before a bulkhead: a refused attempt says nothing about
// its target.
func Refused(ctx context.Context) bool { return outbound.Refused(ctx) }

// TargetOf returns the canonical target of an attempt, as metrics have it, or the empty string if cc is nil. It is for
// authors of interceptors. In an interceptor after a [Client], it does not allocate;
// [grpc.ClientConn.CanonicalTarget] does.
func TargetOf(ctx context.Context, cc *grpc.ClientConn) string {
	if target := outbound.TargetOf(ctx); target != "" || cc == nil {
		return target
	}
	return cc.CanonicalTarget()
}

// DoNotRetry returns err, and tells the caller of the call whose context is ctx not to retry it, whatever
// the code. It sends gRFC A6 pushback, which gRPC's own retries honour too. If err is nil, it does
// nothing.
func DoNotRetry(ctx context.Context, err error) error {
	if err != nil {
		inbound.Push(ctx, -1)
	}
	return err
}
