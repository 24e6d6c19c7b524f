package policies_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
)

// attemptsOf is a service config that makes a number of attempts.
func attemptsOf(n int) string {
	return fmt.Sprintf(`{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": %d, "initialBackoff": "0.001s",
		"maxBackoff": "0.001s", "backoffMultiplier": 1, "retryableStatusCodes": ["ABORTED"]}}]}`, n)
}

// resolved is a resolver that hands out a node and a service config.
type resolved struct {
	*manual.Resolver
	t testing.TB
}

func newResolved(t testing.TB, config string) resolved {
	t.Helper()
	r := resolved{manual.NewBuilderWithScheme("resolved"), t}
	r.BuildCallback = func(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) {
		r.InitialState(r.state(cc, config))
	}
	return r
}

func (r resolved) state(cc resolver.ClientConn, config string) resolver.State {
	parsed := cc.ParseServiceConfig(config)
	if parsed.Err != nil {
		r.t.Fatal(parsed.Err)
	}
	return resolver.State{Addresses: []resolver.Address{{Addr: "node"}}, ServiceConfig: parsed}
}

// What the resolver hands out holds from the first call on, in Enforce as in Observe,
// and a reload from the next call on.
func TestServiceConfigOfTheResolverHolds(t *testing.T) {
	t.Parallel()
	for _, mode := range []interceptors.Mode{interceptors.Enforce, interceptors.Observe} {
		for kind, do := range map[string]func(ctx context.Context, cc *grpc.ClientConn) error{
			"unary": func(ctx context.Context, cc *grpc.ClientConn) error { return harness.Idempotent(cc)(ctx) },
			"stream": func(ctx context.Context, cc *grpc.ClientConn) error {
				_, err := harness.Kinds()[0].Exchange(ctx, cc, []string{"request"})
				return err
			},
		} {
			t.Run(fmt.Sprint(mode, ", ", kind), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					leaf := &harness.Counter{Fail: harness.AlwaysFail(status.Error(codes.Aborted, ""))}
					n := harness.ServeAll(t, leaf.Handle)
					r := newResolved(t, attemptsOf(2))
					client := harness.NewClient(t, interceptors.WithMode(mode), interceptors.WithBudget(harness.FixedBudget()))
					cc := n.DialTarget("resolved:///x", append(client.DialOptions(), grpc.WithResolvers(r))...)
					for _, want := range []int64{2, 4, 3} {
						if want > 2 {
							r.UpdateState(r.state(r.CC(), attemptsOf(int(want))))
							synctest.Wait()
						}
						leaf.Calls.Store(0)
						if err := do(t.Context(), cc); status.Code(err) != codes.Aborted || leaf.Calls.Load() != want {
							t.Errorf("%v after %d attempts, want ABORTED after %d", err, leaf.Calls.Load(), want)
						}
					}
				})
			})
		}
	}
}

// It stands between what is set in code and what the proto file declares.
func TestServiceConfigOfTheConnectionHasItsPlaceAmongThePolicies(t *testing.T) {
	t.Parallel()
	config := grpc.WithDefaultServiceConfig(attemptsOf(4))
	literal := func(n int) interceptors.ClientOption {
		return harness.Policy(interceptors.Policy{Retry: &interceptors.RetryPolicy{
			MaxAttempts: n, Codes: []codes.Code{codes.Aborted}, Backoff: interceptors.Backoff{Base: 1, Max: 1},
		}})
	}
	for name, tc := range map[string]struct {
		opts []interceptors.ClientOption
		call []grpc.CallOption
		want int64
	}{
		"alone, above the proto file":  {nil, nil, 4},
		"below WithPolicy":             {[]interceptors.ClientOption{literal(2)}, nil, 2},
		"below WithServiceConfig":      {[]interceptors.ClientOption{interceptors.WithServiceConfig(attemptsOf(3))}, nil, 3},
		"below the call's own options": {nil, []grpc.CallOption{interceptors.NoRetry()}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leaf := &harness.Counter{Fail: harness.AlwaysFail(status.Error(codes.Aborted, ""))}
			n := harness.NewNode(t)
			testv1.RegisterTestServiceServer(n.Server, declaring{handle: leaf.Handle})
			n.Start()
			client := harness.NewClient(t, append(tc.opts, interceptors.WithBudget(harness.FixedBudget()))...)
			c := testv1.NewTestServiceClient(n.Dial(append(client.DialOptions(), config)...))
			_, err := c.Declared(t.Context(), &testv1.DeclaredRequest{}, tc.call...)
			if status.Code(err) != codes.Aborted || leaf.Calls.Load() != tc.want {
				t.Errorf("%v after %d attempts, want ABORTED after %d", err, leaf.Calls.Load(), tc.want)
			}
		})
	}
}

// declaring serves the method Declared, whose proto file has a policy.
type declaring struct {
	testv1.UnimplementedTestServiceServer
	handle harness.Handler
}

func (d declaring) Declared(ctx context.Context, _ *testv1.DeclaredRequest) (*testv1.DeclaredResponse, error) {
	return &testv1.DeclaredResponse{}, d.handle(ctx)
}

// Its timeout bounds the whole call, and not each attempt.
func TestTimeoutOfTheConnectionsServiceConfigBoundsTheCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := harness.Serve(t, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		config := grpc.WithDefaultServiceConfig(`{"methodConfig": [{"name": [{}], "timeout": "2s"}]}`)
		cc := n.Dial(append(harness.NewClient(t).DialOptions(), config)...)
		started := time.Now()
		if err := harness.Idempotent(cc)(t.Context()); status.Code(err) != codes.DeadlineExceeded || time.Since(started) != 2*time.Second {
			t.Errorf("%v after %v, want DEADLINE_EXCEEDED after 2 s", err, time.Since(started))
		}
	})
}
