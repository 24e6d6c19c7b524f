package connect_test

import (
	"context"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
)

func TestFailureThatAHopHasGivenUpIsNotRetriedAbove(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		var leaves, hops atomic.Int64
		leaf := serve(t, unary[testv1.IdempotentRequest, testv1.IdempotentResponse](idempotent, func(context.Context) error {
			leaves.Add(1)
			return errUnavailable
		}, server(t)))
		opts := client(t, p, interceptors.WithBudget(harness.FixedBudget()))
		below := connect.NewClient[testv1.IdempotentRequest, testv1.IdempotentResponse](leaf.Client(), leaf.URL+idempotent, opts...)
		call := func(ctx context.Context) error {
			hops.Add(1)
			_, err := below.CallUnary(ctx, connect.NewRequest(&testv1.IdempotentRequest{}))
			return err
		}
		hop := serve(t, unary[testv1.IdempotentRequest, testv1.IdempotentResponse](idempotent, call, server(t)),
			route{watch, connect.NewServerStreamHandler(watch, func(ctx context.Context, _ *connect.Request[testv1.WatchRequest], _ *connect.ServerStream[testv1.WatchResponse]) error {
				return call(ctx)
			}, server(t))})

		_, err := connect.NewClient[testv1.IdempotentRequest, testv1.IdempotentResponse](hop.Client(), hop.URL+idempotent, opts...).
			CallUnary(t.Context(), connect.NewRequest(&testv1.IdempotentRequest{}))
		if connect.CodeOf(err) != connect.CodeUnavailable || hops.Load() != 1 || leaves.Load() != 3 {
			t.Errorf("unary: error %v after %d and %d calls, want one and three", err, hops.Load(), leaves.Load())
		}
		hops.Store(0)
		stream, err := connect.NewClient[testv1.WatchRequest, testv1.WatchResponse](hop.Client(), hop.URL+watch, opts...).
			CallServerStream(t.Context(), connect.NewRequest(&testv1.WatchRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		if stream.Receive() || connect.CodeOf(stream.Err()) != connect.CodeUnavailable || hops.Load() != 1 {
			t.Errorf("stream: error %v after %d calls, want one", stream.Err(), hops.Load())
		}
		_ = stream.Close()
	})
}
