package interceptors

import (
	"context"
	"math"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Overloaded returns an error with which a handler, or an interceptor in front
// of it, tells its caller to come back after some time: as RetryInfo in the
// status, and as gRFC A6's pushback in the trailer of the call whose context is
// ctx. Callers with Hopbound or with gRPC's own retries then wait for exactly
// that long, if their policy repeats the code and their deadline leaves the
// time. A handler whose own call was given up below is marked all the same: its
// caller does not come back.
//
// The code is [codes.ResourceExhausted] or [codes.Unavailable]; any other is
// taken for the latter. A time is rounded up to a millisecond, and one of less
// than nothing is none.
func Overloaded(ctx context.Context, code codes.Code, after time.Duration) error {
	if code != codes.ResourceExhausted {
		code = codes.Unavailable
	}
	ms := min(max(0, after).Milliseconds(), math.MaxInt32-1)
	if after > time.Duration(ms)*time.Millisecond {
		ms++
	}
	setPushback(ctx, ms)
	return newError(code, ReasonOverloaded, "the server has too much to do",
		&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Duration(ms) * time.Millisecond)})
}

// DoNotRetry returns err, and tells the caller of the call whose context is ctx
// not to repeat it, whatever the code: by gRFC A6's pushback, which gRPC's own
// retries obey as well.
func DoNotRetry(ctx context.Context, err error) error {
	if err != nil {
		setPushback(ctx, -1)
	}
	return err
}

// setPushback leaves the pushback with the request, to be sent once when it
// ends, or sends it where there is none.
func setPushback(ctx context.Context, ms int64) {
	if r := requestFromContext(ctx); r != nil {
		r.downstream.push(ms)
		return
	}
	// It fails only outside of a call, where nobody is to be told.
	_ = grpc.SetTrailer(ctx, metadata.Pairs(pushbackKey, strconv.FormatInt(ms, 10)))
}
