package calls_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// retryAll retries all codes that a message which cannot be used may fail with.
func retryAll() interceptors.ClientOption {
	return harness.Policy(interceptors.Policy{Retry: &interceptors.RetryPolicy{
		Codes:   []codes.Code{codes.Unavailable, codes.ResourceExhausted, codes.Internal, codes.Unauthenticated},
		Backoff: interceptors.Backoff{Base: 1, Max: 1},
	}})
}

// unreadable is a codec that cannot read responses.
type unreadable struct{ encoding.CodecV2 }

func (unreadable) Unmarshal(mem.BufferSlice, any) error { return errors.New("cannot be read") }

// A message that cannot be sent or read is the same in the next attempt.
func TestFailureOfAMessageIsNotRetriedAndCostsNothing(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1000)
	for name, tc := range map[string]struct {
		text   string // of the request
		opt    grpc.CallOption
		served int64
	}{
		"request too large":        {long, grpc.MaxCallSendMsgSize(100), 0},
		"response too large":       {"", grpc.MaxCallRecvMsgSize(100), 1},
		"request of invalid UTF-8": {"\xff", grpc.EmptyCallOption{}, 0},
		"response unreadable":      {"", grpc.ForceCodecV2(unreadable{encoding.GetCodecV2("proto")}), 1},
		"compressor not installed": {"", grpc.UseCompressor("none of these"), 0},
	} {
		for _, kind := range []string{"unary", "hedged", "stream"} {
			t.Run(name+", "+kind, func(t *testing.T) {
				t.Parallel()
				var served atomic.Int64
				n := harness.NewNode(t, harness.NewServer(t).ServerOptions()...)
				testv1.RegisterTestServiceServer(n.Server, echoing{served: &served, text: long})
				n.Start()
				b := harness.FixedBudget()
				opts := retryAll()
				if kind == "hedged" {
					opts = harness.Hedging(interceptors.HedgePolicy{MaxAttempts: 3, Delay: 1000 * ms, NonFatal: []codes.Code{codes.ResourceExhausted, codes.Internal}})
				}
				c := testv1.NewTestServiceClient(n.Dial(harness.NewClient(t, opts, interceptors.WithBudget(b)).DialOptions()...))
				ctx, end := budget.NewRoot(t.Context(), b)
				defer end(false)
				var err error
				if kind == "stream" {
					err = lastOf(c.Watch(ctx, &testv1.WatchRequest{Text: tc.text}, tc.opt))
				} else {
					_, err = c.Idempotent(ctx, &testv1.IdempotentRequest{Text: tc.text}, tc.opt)
				}
				if code := status.Code(err); code != codes.ResourceExhausted && code != codes.Internal {
					t.Fatalf("got %v", err)
				}
				root, _ := budget.FromContext(ctx)
				if served.Load() > tc.served || harness.Balance(b) != 10 || root.Used() != 0 {
					t.Errorf("%v: the handler ran %d times, the target has %v tokens of 10, and %d of the request's are used",
						err, served.Load(), harness.Balance(b), root.Used())
				}
			})
		}
	}
}

// lastOf receives the messages of a stream until it ends, and returns its error.
func lastOf(s grpc.ServerStreamingClient[testv1.WatchResponse], err error) error {
	for err == nil {
		_, err = s.Recv()
	}
	return err
}

// echoing answers all calls with one text.
type echoing struct {
	testv1.UnimplementedTestServiceServer
	served *atomic.Int64
	text   string
}

func (e echoing) Idempotent(context.Context, *testv1.IdempotentRequest) (*testv1.IdempotentResponse, error) {
	e.served.Add(1)
	return &testv1.IdempotentResponse{Text: e.text}, nil
}

func (e echoing) Watch(_ *testv1.WatchRequest, s grpc.ServerStreamingServer[testv1.WatchResponse]) error {
	e.served.Add(1)
	return s.Send(&testv1.WatchResponse{Text: e.text})
}

// tokenSource is per-RPC credentials that fail.
type tokenSource struct {
	err   error
	calls *atomic.Int64
}

func (s tokenSource) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	s.calls.Add(1)
	return nil, s.err
}

func (tokenSource) RequireTransportSecurity() bool { return false }

// The source of a client's credentials is a service too. Its failure reaches no
// server of the target, and is retried within the budget all the same.
func TestFailureOfATokenSourceIsRetriedWithinTheBudget(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err          error
		tokens       int
		calls        int64
		balanceAfter float64
	}{
		"unavailable":                    {status.Error(codes.Unavailable, "token source"), 10, 3, 8},
		"unavailable, one token left":    {status.Error(codes.Unavailable, "token source"), 1, 2, 0},
		"unavailable, no token left":     {status.Error(codes.Unavailable, "token source"), 0, 1, 0},
		"an error that is not a status":  {errors.New("token source"), 10, 3, 8},
		"a code that the policy has not": {status.Error(codes.PermissionDenied, "token source"), 10, 1, 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leaf := &harness.Counter{}
			b := harness.FixedBudget(budget.Burst(tc.tokens))
			cc := harness.Serve(t, leaf.Handle).Dial(harness.NewClient(t, retryAll(), interceptors.WithBudget(b)).DialOptions()...)
			cc.Connect()
			for s := cc.GetState(); s.String() != "READY"; s = cc.GetState() {
				cc.WaitForStateChange(t.Context(), s)
			}
			var calls atomic.Int64
			err := harness.Idempotent(cc)(t.Context(), grpc.PerRPCCredentials(tokenSource{tc.err, &calls}))
			if err == nil || calls.Load() != tc.calls || leaf.Calls.Load() != 0 || harness.Balance(b) != tc.balanceAfter {
				t.Errorf("%v: the source was asked %d times, want %d; %v tokens are left, want %v",
					err, calls.Load(), tc.calls, harness.Balance(b), tc.balanceAfter)
			}
		})
	}
}

// A call that its application cancels costs the target nothing, and the request what
// the callee may have used.
func TestCancelledCallCostsWhatItMayHaveUsed(t *testing.T) {
	t.Parallel()
	n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
		if err := s.Send("first"); err != nil {
			return err
		}
		<-ss.Context().Done()
		return ss.Context().Err()
	}, harness.NewServer(t).ServerOptions()...)
	b := harness.FixedBudget(budget.PerRequest(10))
	cc := n.Dial(harness.NewClient(t, interceptors.WithBudget(b)).DialOptions()...)
	root, end := budget.NewRoot(t.Context(), b)
	defer end(true)
	ctx, cancel := context.WithCancel(root)
	watch, err := harness.Kinds()[0].Open(ctx, cc)
	if err == nil {
		err = watch.Send("request")
	}
	if err == nil {
		_, err = watch.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	a, _ := budget.FromContext(root)
	if a.Free() != 9 {
		t.Errorf("%d tokens are free beside a stream that has answered, want 9", a.Free())
	}
	cancel()
	_, _ = watch.Recv()
	if a.Free() != 9 || a.Used() != 1 || harness.Balance(b) != 10 {
		t.Errorf("%d tokens are free and %d used, the target has %v; want 9, 1 and 10", a.Free(), a.Used(), harness.Balance(b))
	}
}

// dropping is a load-balancing policy that drops all calls, as those of gRPC's xDS do
// to protect a target.
type dropping struct{ balancer.Builder }

func init() { //nolint:gochecknoinits // gRPC allows no registration later
	balancer.Register(dropping{balancer.Get("round_robin")})
}

func (dropping) Name() string { return "dropping_test" }

func (d dropping) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	return d.Builder.Build(&droppingConn{cc}, opts)
}

type droppingConn struct{ balancer.ClientConn }

func (c *droppingConn) UpdateState(s balancer.State) {
	s.Picker = base.NewErrPicker(status.Error(codes.Unavailable, "RPC is dropped"))
	c.ClientConn.UpdateState(s)
}

func TestDroppedCallIsNotRetriedAndCostsNothing(t *testing.T) {
	t.Parallel()
	recorder, tracer := harness.Traced()
	b := harness.FixedBudget()
	cc := harness.Serve(t, (&harness.Counter{}).Handle).Dial(append(harness.NewClient(t, harness.FastRetry(), tracer, interceptors.WithBudget(b)).DialOptions(),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"dropping_test": {}}]}`))...)
	for range 3 {
		if err := harness.Idempotent(cc)(t.Context()); status.Code(err) != codes.Unavailable {
			t.Errorf("got %v", err)
		}
	}
	if got := decisionsOf(recorder.Ended(), "client"); got != strings.Repeat("not_retryable/local ", 3)[:3*20-1] || harness.Balance(b) != 10 {
		t.Errorf("the attempts say %q, and the target has %v tokens of 10", got, harness.Balance(b))
	}
}
