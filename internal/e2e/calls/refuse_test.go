package calls_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// An attempt that a later interceptor refuses costs no token and is not retried, and the caller's caller
// does not retry the failure either, whatever its code.
func TestRefusedAttemptCostsNothingAndIsNotRetried(t *testing.T) {
	t.Parallel()
	var refusals atomic.Int64
	refuse := grpc.WithChainUnaryInterceptor(func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ grpc.UnaryInvoker, _ ...grpc.CallOption) error {
		refusals.Add(1)
		return interceptors.Refuse(ctx, status.Error(codes.Unavailable, "the breaker is open"))
	})
	leaf := &harness.Counter{}
	reader, meter := harness.Metered()
	b := harness.FixedBudget()
	down := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(append(harness.NewClient(t, harness.FastRetry(), meter, interceptors.WithBudget(b)).DialOptions(), refuse)...))
	var calls atomic.Int64
	hop := harness.Serve(t, func(ctx context.Context) error {
		calls.Add(1)
		return status.Error(status.Code(down(ctx)), "the hop's own words")
	}, harness.NewServer(t).ServerOptions()...)
	before := harness.Balance(b)
	err := harness.Idempotent(hop.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))(t.Context())
	if status.Code(err) != codes.Unavailable || refusals.Load() != 1 || calls.Load() != 1 || leaf.Calls.Load() != 0 {
		t.Errorf("%v after %d refusals, %d calls of the hop and %d of the leaf", err, refusals.Load(), calls.Load(), leaf.Calls.Load())
	}
	if got := harness.Balance(b); got != before {
		t.Errorf("the budget went from %v to %v", before, got)
	}
	for attrs := range harness.Sums(t, reader, "hopbound.client.attempts") {
		if !strings.Contains(attrs, "hopbound.decision=not_retryable") || !strings.Contains(attrs, "hopbound.reached=false") || !strings.Contains(attrs, "hopbound.reason=refused") {
			t.Errorf("counted %s", attrs)
		}
	}
	if interceptors.Refuse(t.Context(), nil) != nil {
		t.Error("no error became one")
	}
}

func TestReachedSaysWhetherAServerSawTheCall(t *testing.T) {
	t.Parallel()
	refuse := grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if ctx.Value(refused{}) != nil {
			return interceptors.Refuse(ctx, status.Error(codes.Unavailable, "the breaker is open"))
		}
		return invoker(ctx, method, req, reply, cc, opts...)
	})
	leaf := &harness.Counter{}
	cc := harness.Serve(t, leaf.Handle).Dial(append(harness.NewClient(t).DialOptions(), refuse)...)
	client := testv1.NewTestServiceClient(cc)
	ended, end := context.WithCancel(t.Context())
	end()
	for name, tc := range map[string]struct {
		ctx     context.Context //nolint:containedctx // of a test case
		reached bool
	}{
		"served":                  {t.Context(), true},
		"refused":                 {context.WithValue(t.Context(), refused{}, true), false},
		"cancelled before it":     {ended, false},
		"rejected for its policy": {t.Context(), false},
	} {
		reached := !tc.reached
		opts := []grpc.CallOption{interceptors.Reached(&reached)}
		if name == "rejected for its policy" {
			opts = append(opts, interceptors.UsePolicy(interceptors.Policy{Timeout: -5}))
		}
		if _, _ = client.Idempotent(tc.ctx, &testv1.IdempotentRequest{}, opts...); reached != tc.reached {
			t.Errorf("%s: reached is %v", name, reached)
		}
	}
}

type refused struct{}
