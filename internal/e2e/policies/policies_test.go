package policies_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
)

// declaredService serves the method Declared, which has a policy in its proto
// file, with a handler.
type declaredService struct {
	testv1.UnimplementedTestServiceServer
	handle harness.Handler
}

func (d declaredService) Declared(ctx context.Context, _ *testv1.DeclaredRequest) (*testv1.DeclaredResponse, error) {
	return &testv1.DeclaredResponse{}, d.handle(ctx)
}

func serveDeclared(t testing.TB, handle harness.Handler, opts ...grpc.ServerOption) *harness.Node {
	t.Helper()
	n := harness.NewNode(t, opts...)
	testv1.RegisterTestServiceServer(n.Server, declaredService{handle: handle})
	n.Start()
	return n
}

func declared(cc *grpc.ClientConn) harness.Call {
	c := testv1.NewTestServiceClient(cc)
	return func(ctx context.Context, opts ...grpc.CallOption) error {
		_, err := c.Declared(ctx, &testv1.DeclaredRequest{}, opts...)
		return err
	}
}

const declaredConfig = `{"methodConfig": [{
	"name": [{"service": "hopbound.test.v1.TestService", "method": "Declared"}], "timeout": "30s",
	"retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.001s", "maxBackoff": "0.001s", "backoffMultiplier": 1, "retryableStatusCodes": ["ABORTED"]}
}]}`

// A call's policy is that of the first source that sets it: call option, literal,
// service config, proto option, default.
func TestPolicyIsThatOfTheFirstSourceThatSetsIt(t *testing.T) {
	t.Parallel()
	literal := func(p interceptors.Policy) interceptors.ClientOption { return harness.Policy(p) }
	retry := func(n int) *interceptors.RetryPolicy {
		return &interceptors.RetryPolicy{MaxAttempts: n, Codes: []codes.Code{codes.Aborted}, Backoff: interceptors.Backoff{Base: ms, Max: ms}}
	}
	config := interceptors.WithServiceConfig(declaredConfig)
	for name, tc := range map[string]struct {
		client []interceptors.ClientOption
		call   []grpc.CallOption
		calls  int64
	}{
		"proto option":                  {nil, nil, 5},
		"service config":                {[]interceptors.ClientOption{config}, nil, 4},
		"literal, retries":              {[]interceptors.ClientOption{config, literal(interceptors.Policy{Retry: retry(2)})}, nil, 2},
		"literal over the proto option": {[]interceptors.ClientOption{literal(interceptors.Policy{Retry: retry(3)})}, nil, 3},
		"call option, retries":          {[]interceptors.ClientOption{config}, []grpc.CallOption{interceptors.UsePolicy(interceptors.Policy{Retry: retry(6)})}, 6},
		"call option, no retry":         {[]interceptors.ClientOption{config}, []grpc.CallOption{interceptors.NoRetry()}, 1},
		"the last of two call options":  {nil, []grpc.CallOption{interceptors.NoRetry(), interceptors.UsePolicy(interceptors.Policy{Retry: retry(2)})}, 2},
		"a map that names all the rest": {[]interceptors.ClientOption{interceptors.WithPolicy(interceptors.MethodPolicies{"": {Retry: retry(2)}, "/other.Service/": {}})}, nil, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var calls int64
				n := serveDeclared(t, func(context.Context) error {
					calls++
					return status.Error(codes.Aborted, "")
				})
				cc := n.Dial(harness.NewClient(t, append(tc.client, interceptors.WithBudget(harness.FixedBudget(budget.PerRequest(10))))...).DialOptions()...)
				_ = declared(cc)(t.Context(), tc.call...)
				if calls != tc.calls {
					t.Errorf("%d calls, want %d", calls, tc.calls)
				}
			})
		})
	}
}

// A server holds a method to the floor and the cap in its proto file.
func TestServerObeysTheDeadlinePolicyOfAMethod(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		seen := harness.NewArrival()
		do := declared(serveDeclared(t, seen.Handle, harness.NewServer(t).ServerOptions()...).Dial())
		for timeout, want := range map[time.Duration]time.Duration{0: 3 * time.Second, time.Minute: 3 * time.Second, time.Second: time.Second} {
			ctx, cancel := t.Context(), context.CancelFunc(func() {})
			if timeout > 0 {
				ctx, cancel = context.WithTimeout(ctx, timeout)
			}
			if err := do(ctx); err != nil {
				t.Fatal(err)
			}
			cancel()
			if left := <-seen.Left; left != want {
				t.Errorf("%v left of %v, want %v", left, timeout, want)
			}
		}
		if err := harness.Within(t, do, 4*ms); harness.Reason(err) != interceptors.ReasonDeadlineUnreachable {
			t.Errorf("4 ms with a floor of 5: %v, want DEADLINE_UNREACHABLE", err)
		}
	})
}

// A method that its proto file hedges is hedged.
func TestHedgingPolicyOfAProtoFile(t *testing.T) {
	t.Parallel()
	calls := 0
	n := harness.NewNode(t)
	testv1.RegisterTestServiceServer(n.Server, hedgedService{handle: func(context.Context) error {
		calls++
		return status.Error(codes.Internal, "not fatal, it says")
	}})
	n.Start()
	_, err := testv1.NewTestServiceClient(n.Dial(harness.NewClient(t).DialOptions()...)).Hedged(t.Context(), &testv1.HedgedRequest{})
	if calls != 3 || status.Code(err) != codes.Internal {
		t.Errorf("%d calls and %v, want 3 and INTERNAL", calls, err)
	}
}

type hedgedService struct {
	testv1.UnimplementedTestServiceServer
	handle harness.Handler
}

func (h hedgedService) Hedged(ctx context.Context, _ *testv1.HedgedRequest) (*testv1.HedgedResponse, error) {
	return &testv1.HedgedResponse{}, h.handle(ctx)
}

// A policy for one call that is none fails the call, and says why.
func TestInvalidPolicyOfACallFailsIt(t *testing.T) {
	t.Parallel()
	leaf := &harness.Counter{}
	do := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(harness.NewClient(t).DialOptions()...))
	err := do(t.Context(), interceptors.UsePolicy(interceptors.Policy{Timeout: -1}))
	if status.Code(err) != codes.InvalidArgument || harness.Reason(err) != interceptors.ReasonPolicyInvalid || leaf.Calls.Load() != 0 {
		t.Errorf("%v after %d calls, want POLICY_INVALID", err, leaf.Calls.Load())
	}
}

// A key among the call options is sent, and makes the call safe to repeat.
func TestKeyAmongTheCallOptions(t *testing.T) {
	t.Parallel()
	var keys []string
	n := harness.Serve(t, func(ctx context.Context) error {
		keys = append(keys, metadata.ValueFromIncomingContext(ctx, idempotency.Header)...)
		return harness.ErrUnavailable
	})
	_ = harness.Write(n.Dial(harness.NewClient(t, interceptors.WithBudget(harness.FixedBudget())).DialOptions()...))(t.Context(), interceptors.UseKey("k"))
	if strings.Join(keys, " ") != "k k k" {
		t.Errorf("keys %q, want the same on three attempts", keys)
	}
}

// The call options of this package mean nothing to gRPC.
func TestCallOptionsMeanNothingWithoutAClient(t *testing.T) {
	t.Parallel()
	do := harness.Idempotent(harness.Serve(t, func(context.Context) error { return nil }).Dial())
	if err := do(t.Context(), interceptors.NoRetry(), interceptors.UseKey("k")); err != nil {
		t.Error(err)
	}
}

// A service config that comes through the resolver stays in force for what is
// gRPC's, and its retries do not double up with ours.
func TestServiceConfigOfTheResolverStaysInForceButForRetries(t *testing.T) {
	t.Parallel()
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	n := harness.Serve(t, leaf.Handle)
	r := manual.NewBuilderWithScheme("test")
	client := harness.NewClient(t, harness.FastRetry(), interceptors.WithBudget(harness.FixedBudget()))
	opts := append(client.DialOptions(), grpc.WithResolvers(r))
	cc := n.DialTarget("test:///node", opts...)
	cc.Connect() // builds the resolver, which can parse then
	r.UpdateState(resolver.State{
		Addresses: []resolver.Address{{Addr: "node"}},
		ServiceConfig: r.CC().ParseServiceConfig(`{"methodConfig": [{"name": [{}], "maxRequestMessageBytes": 100,
			"retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.001s", "maxBackoff": "0.001s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`),
	})
	_ = harness.Idempotent(cc)(t.Context())
	if leaf.Calls.Load() != 3 {
		t.Errorf("%d calls, want 3", leaf.Calls.Load())
	}
	_, err := testv1.NewTestServiceClient(cc).Idempotent(t.Context(), &testv1.IdempotentRequest{Text: strings.Repeat("x", 200)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message over the config's size: %v, want RESOURCE_EXHAUSTED", err)
	}
}

// Calls that are to wait for a connection do, unless the call says otherwise.
func TestWaitForReady(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := harness.Serve(t, func(context.Context) error { return nil })
		p := interceptors.Policy{WaitForReady: true, Retry: &interceptors.RetryPolicy{MaxAttempts: 1}}
		n.Refused.Store(3)
		cc := n.Dial(harness.NewClient(t, harness.Policy(p)).DialOptions()...)
		if err := harness.Idempotent(cc)(t.Context(), grpc.WaitForReady(false)); status.Code(err) != codes.Unavailable {
			t.Errorf("a call that does not wait: %v, want UNAVAILABLE", err)
		}
		if err := harness.Within(t, harness.Idempotent(cc), time.Hour); err != nil {
			t.Error(err)
		}
	})
}

// Two options for one call are one policy, in which the later weighs more.
func TestOptionsForOneCallAddUp(t *testing.T) {
	t.Parallel()
	second := interceptors.UsePolicy(interceptors.Policy{Timeout: time.Second})
	for name, opts := range map[string][]grpc.CallOption{
		"no retry, then a timeout": {interceptors.NoRetry(), second},
		"a timeout, then no retry": {second, interceptors.NoRetry()},
	} {
		synctest.Test(t, func(t *testing.T) {
			seen := harness.NewArrival()
			n := harness.Serve(t, func(ctx context.Context) error { _ = seen.Handle(ctx); return harness.ErrUnavailable })
			_ = harness.Idempotent(n.Dial(harness.NewClient(t).DialOptions()...))(t.Context(), opts...)
			if left := <-seen.Left; left != time.Second || len(seen.Left) > 0 {
				t.Errorf("%s: %v left, and %d more attempts", name, left, len(seen.Left))
			}
		})
	}
}

// The throttle of a service config holds for a target, beside the budget.
func TestRetryThrottlingOfAServiceConfigHolds(t *testing.T) {
	t.Parallel()
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	client := harness.NewClient(t, harness.FastRetry(), interceptors.WithBudget(harness.FixedBudget(budget.Burst(1000), budget.PerRequest(10))),
		interceptors.WithServiceConfig(`{"retryThrottling": {"maxTokens": 10, "tokenRatio": 1}}`))
	do := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(client.DialOptions()...))
	for range 20 {
		_ = do(t.Context())
	}
	// Five failures close it: three attempts and two, and one each from then on.
	if leaf.Calls.Load() != 23 {
		t.Errorf("%d calls for 20 requests, want 23", leaf.Calls.Load())
	}
	leaf.Fail = nil
	for range 8 {
		_ = do(t.Context())
	}
	leaf.Calls.Store(0)
	leaf.Fail = harness.AlwaysFail(harness.ErrUnavailable)
	if _ = do(t.Context()); leaf.Calls.Load() < 2 {
		t.Error("successes do not open it")
	}
}
