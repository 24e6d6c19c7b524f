package keys_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// lasting is a store whose records outlive the process.
type lasting struct{ idempotency.Store }

// relay serves Pay and calls Write of another server for each call.
func relay(t *testing.T, leaf *harness.Node, server []interceptors.ServerOption, how func(context.Context) (context.Context, []grpc.CallOption), opts ...interceptors.ClientOption) harness.Customer {
	t.Helper()
	down := testv1.NewTestServiceClient(leaf.Dial(harness.NewClient(t, opts...).DialOptions()...))
	middle := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		var call []grpc.CallOption
		if how != nil {
			ctx, call = how(ctx)
		}
		_, err := down.Write(ctx, &testv1.WriteRequest{}, call...)
		return err
	}}
	return middle.OpenWith(t, server...).Customer()
}

// A caller that sends a key does not make a call repeatable that nobody here has declared
// repeatable, unless the callee says that it stores outcomes.
func TestKeyOfACallerDoesNotMakeOtherCallsRepeatable(t *testing.T) {
	t.Parallel()
	chosen := func(ctx context.Context) (context.Context, []grpc.CallOption) {
		return ctx, []grpc.CallOption{interceptors.UseKey(idempotency.NewKey())}
	}
	const write = "/hopbound.test.v1.TestService/Write"
	store := func(opts ...idempotency.Option) []interceptors.ServerOption {
		return []interceptors.ServerOption{interceptors.WithIdempotency(lasting{idempotency.NewMemory()}, opts...)}
	}
	memory := []interceptors.ServerOption{interceptors.WithIdempotency(idempotency.NewMemory())}
	edge := []interceptors.ServerOption{interceptors.AtEdge()}
	for name, tc := range map[string]struct {
		middle, leaf []interceptors.ServerOption // nil is a server without Hopbound
		how          func(context.Context) (context.Context, []grpc.CallOption)
		policy       interceptors.MethodPolicies
		runs         int64 // of the leaf, which fails each time
	}{
		"an edge without a store":               {middle: edge, runs: 1},
		"an edge with a store":                  {middle: append(store(idempotency.SharedKeys()), edge...), runs: 1},
		"a callee with Hopbound and no store":   {middle: edge, leaf: []interceptors.ServerOption{interceptors.AtEdge()}, runs: 1},
		"a callee that ignores the method":      {middle: store(), leaf: store(idempotency.ForMethod(write, idempotency.Off())), runs: 1},
		"a callee that only observes":           {middle: store(), leaf: append(store(), interceptors.WithMode(interceptors.Observe)), runs: 1},
		"a callee that stores outcomes":         {middle: store(), leaf: store(), runs: 3},
		"a callee whose outcomes end with it":   {middle: store(), leaf: memory, runs: 1},
		"an edge, a callee that stores them":    {middle: edge, leaf: store(), runs: 3},
		"a key that the application has chosen": {middle: edge, how: chosen, runs: 3},
		"a policy that requires a key":          {middle: edge, policy: interceptors.MethodPolicies{write: {KeyRequired: true}}, runs: 3},
		"a policy that names a key field":       {middle: edge, policy: interceptors.MethodPolicies{write: {KeyField: "text"}}, runs: 3},
		"a policy that says it is idempotent":   {middle: edge, policy: interceptors.MethodPolicies{write: {Idempotency: interceptors.Idempotent}}, runs: 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leaf := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error { return harness.ErrUnavailable }}
			var at *harness.Node
			if tc.leaf == nil {
				at = harness.NewNode(t)
				testv1.RegisterTestServiceServer(at.Server, leaf)
				at.Start()
			} else {
				at = leaf.OpenWith(t, tc.leaf...)
			}
			var opts []interceptors.ClientOption
			if tc.policy != nil {
				opts = append(opts, interceptors.WithPolicy(tc.policy))
			}
			c := relay(t, at, tc.middle, tc.how, opts...)
			_, _ = c.PayWithKey(t.Context(), "of the caller", harness.Rent())
			if n := leaf.Calls.Load(); n != tc.runs {
				t.Errorf("the leaf ran %d times, want %d", n, tc.runs)
			}
		})
	}
}

// A call whose reply is lost brings no report: what the callee said last counts.
func TestLostReplyIsRetriedIfTheCalleeSaidThatItStoresOutcomes(t *testing.T) {
	t.Parallel()
	var at *harness.Node
	lose := false
	leaf := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error {
		if lose {
			lose = false
			at.Cut()
		}
		return nil
	}}
	at = leaf.OpenWith(t, interceptors.WithIdempotency(lasting{idempotency.NewMemory()}))
	c := relay(t, at, []interceptors.ServerOption{interceptors.AtEdge()}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pay := func(key string) error {
		_, err := c.PayWithKey(ctx, key, harness.Rent())
		return err
	}
	lose = true
	if err := pay("before it has said anything"); err == nil {
		t.Error("a lost reply was retried, and nobody knows the callee")
	}
	for i := range 1000 { // one success in sixteen brings a report
		if err := pay(fmt.Sprint("k", i)); err != nil {
			t.Fatal(err)
		}
	}
	runs := leaf.Calls.Load()
	lose = true
	if err := pay("after it has said that it stores outcomes"); err != nil {
		t.Errorf("a lost reply was not retried: %v", err)
	}
	if n := leaf.Calls.Load() - runs; n != 1 {
		t.Errorf("the leaf ran %d times", n)
	}
}

// Keys that the application has put among the metadata by hand are its own.
func TestKeyInTheMetadataIsTheApplicationsOwn(t *testing.T) {
	t.Parallel()
	leaf := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error { return harness.ErrUnavailable }}
	at := harness.NewNode(t)
	testv1.RegisterTestServiceServer(at.Server, leaf)
	at.Start()
	c := relay(t, at, nil, func(ctx context.Context) (context.Context, []grpc.CallOption) {
		return metadata.AppendToOutgoingContext(ctx, idempotency.Header, "of the application"), nil
	})
	_, _ = c.PayWithKey(t.Context(), "of the caller", harness.Rent())
	if n := leaf.Calls.Load(); n != 3 {
		t.Errorf("the leaf ran %d times, want 3", n)
	}
}

// A hop that copies the trailers of its own callee does not store what that stores.
func TestReportThatAHopHasCopiedIsNotOfItsOwnMethod(t *testing.T) {
	t.Parallel()
	leaf := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error { return harness.ErrUnavailable }}
	down := testv1.NewTestServiceClient(leaf.OpenWith(t, interceptors.WithIdempotency(lasting{idempotency.NewMemory()})).Dial(grpc.WithDisableRetry()))
	middle := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		var trailer metadata.MD
		_, err := down.Pay(metadata.AppendToOutgoingContext(ctx, idempotency.Header, "k"), harness.Rent(), grpc.Trailer(&trailer))
		if !strings.Contains(strings.Join(trailer["hop-report"], ""), ";k=") {
			t.Errorf("the leaf reports %q", trailer)
		}
		delete(trailer, "grpc-retry-pushback-ms")
		_ = grpc.SetTrailer(ctx, trailer)
		return err
	}}
	at := harness.NewNode(t)
	testv1.RegisterTestServiceServer(at.Server, middle)
	at.Start()
	_, _ = relay(t, at, nil, nil).PayWithKey(t.Context(), "of the caller", harness.Rent())
	if n := middle.Calls.Load(); n != 1 {
		t.Errorf("the hop ran %d times, want once", n)
	}
}
