package trust_test

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// recovery stands in front of a server's other interceptors.
func recovery() grpc.ServerOption {
	return grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (reply any, err error) {
		defer func() {
			if recover() != nil {
				err = status.Error(codes.Unavailable, "panicked")
			}
		}()
		return h(ctx, req)
	})
}

// Whatever a hop makes of its callee's failure, what was used below it is
// charged: six tokens are six extra attempts in the whole tree.
func TestTokensUsedBelowAreChargedWhateverAHopMakesOfTheFailure(t *testing.T) {
	t.Parallel()
	for name, handle := range map[string]func(ctx context.Context, down harness.Call) error{
		"it panics": func(ctx context.Context, down harness.Call) error {
			if down(ctx) != nil {
				panic("of the failure")
			}
			return nil
		},
		"it passes the trailers on with the failure": func(ctx context.Context, down harness.Call) error {
			var trailer metadata.MD
			err := down(ctx, grpc.Trailer(&trailer))
			_ = grpc.SetTrailer(ctx, trailer)
			return err
		},
		"it passes the trailers on and succeeds": func(ctx context.Context, down harness.Call) error {
			var trailer metadata.MD
			_ = down(ctx, grpc.Trailer(&trailer))
			return grpc.SetTrailer(ctx, trailer)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const granted, calls = 4, 5
			leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
			var hops atomic.Int64
			hop := harness.NewClient(t, harness.FastRetryUpTo(10), interceptors.WithBudget(harness.FixedBudget()))
			down := harness.Idempotent(harness.Serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...).Dial(hop.DialOptions()...))
			n := harness.Serve(t, func(ctx context.Context) error {
				hops.Add(1)
				return handle(ctx, down)
			}, append([]grpc.ServerOption{recovery()}, harness.NewServer(t).ServerOptions()...)...)
			b := harness.FixedBudget(budget.PerRequest(granted), budget.Burst(100))
			do := harness.Idempotent(n.Dial(harness.NewClient(t, harness.FastRetryUpTo(10), interceptors.WithBudget(b)).DialOptions()...))
			ctx, end := budget.NewRoot(t.Context(), b)
			for range calls {
				_ = do(ctx)
			}
			root, _ := budget.FromContext(ctx)
			end(false)
			extra := leaf.Calls.Load() - calls // each attempt of the hop and of its caller is one at the leaf
			if charged := root.Used(); extra != granted || charged != granted {
				t.Errorf("%d extra attempts and %v charged, want %d of both", extra, charged, granted)
			}
		})
	}
}

// A proxy answers for the hop behind it when that has gone: no report, though
// there is metadata. Once the hop is known to report, that is a lost reply.
func TestFailureWithoutAReportOfAServerThatReportsIsALostReply(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	n := harness.Serve(t, func(ctx context.Context) error {
		if calls.Add(1) == 1 {
			return grpc.SetTrailer(ctx, metadata.Pairs(wire.ReportKey, "1;u=0"))
		}
		return harness.ErrUnavailable
	})
	b := harness.FixedBudget(budget.Burst(20))
	do := harness.Idempotent(n.Dial(harness.NewClient(t, harness.FastRetryUpTo(10), interceptors.WithBudget(b)).DialOptions()...))
	if err := do(t.Context()); err != nil {
		t.Fatal(err)
	}
	calls.Store(1)
	_ = do(t.Context())
	// All three tokens are lost with the first two attempts, and the second and third
	// are made on credit. Had these been replies, three retries would have been made.
	if made := calls.Load() - 1; made != 3 || harness.Balance(b) != 18 {
		t.Errorf("%d attempts, balance %v; want 3 and 18", made, harness.Balance(b))
	}
}

type noAddress struct{ net.Conn }

func (noAddress) RemoteAddr() net.Addr { return nil }

// That nobody has seen an attempt must be certain: where nothing can be known,
// somebody has.
func TestWriteIsNotRepeatedWhereThePeerCannotBeKnown(t *testing.T) {
	t.Parallel()
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	n := harness.Serve(t, leaf.Handle)
	for name, opts := range map[string][]grpc.DialOption{
		"an interceptor drops the call options": {grpc.WithChainUnaryInterceptor(
			func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, _ ...grpc.CallOption) error {
				return invoke(ctx, method, req, reply, cc)
			})},
		"the connection has no address": {grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			conn, err := n.Listener.DialContext(ctx)
			return noAddress{conn}, err
		})},
	} {
		leaf.Calls.Store(0)
		_ = harness.Write(n.Dial(append(harness.NewClient(t).DialOptions(), opts...)...))(t.Context())
		if got := leaf.Calls.Load(); got != 1 {
			t.Errorf("%s: %d calls of a write, want 1", name, got)
		}
	}
}

// A service that copies incoming metadata to its own calls sends nothing twice
// for it, and none of it in place of its own.
func TestMetadataThatIsPassedOnDoesNotStandInForTheCallsOwn(t *testing.T) {
	t.Parallel()
	recorder, tracer := harness.Traced()
	var got metadata.MD
	n := harness.Serve(t, func(ctx context.Context) error {
		got, _ = metadata.FromIncomingContext(ctx)
		return nil
	}, harness.NewServer(t, tracer).ServerOptions()...)
	ctx := metadata.NewOutgoingContext(idempotency.WithKey(t.Context(), "mine"), metadata.Pairs(
		wire.ContextKey, "1;b=9", "traceparent", "00-11111111111111111111111111111111-2222222222222222-01",
		idempotency.Header, "theirs", "grpc-previous-rpc-attempts", "7", "x-tenant", "a",
	))
	if err := harness.Idempotent(n.Dial(harness.NewClient(t, tracer).DialOptions()...))(ctx); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]int{
		wire.ContextKey: 1, "traceparent": 1, idempotency.Header: 1, "grpc-previous-rpc-attempts": 0, "x-tenant": 1,
	} {
		if len(got[key]) != want {
			t.Errorf("%s arrived as %q, want %d values", key, got[key], want)
		}
	}
	if got[idempotency.Header][0] != "mine" || strings.Contains(got[wire.ContextKey][0], "b=9") {
		t.Errorf("what was passed on arrived: %v", got)
	}
	trace := recorder.Ended()[0].SpanContext().TraceID()
	for _, s := range recorder.Ended() {
		if s.SpanContext().TraceID() != trace {
			t.Error("the spans are of two traces")
		}
	}
}

// A call whose attempt panics is no success: it earns nothing, and its span and
// the user's OnFinish say so.
func TestPanicBelowAClientIsNoSuccess(t *testing.T) {
	t.Parallel()
	recorder, tracer := harness.Traced()
	b := budget.New(budget.Ratio(1), budget.MinPerSecond(0), budget.Burst(10))
	for range 5 {
		b.Take(time.Now(), harness.Target, budget.AfterFailure)
	}
	n := harness.Serve(t, func(context.Context) error { return nil })
	do := harness.Idempotent(n.Dial(append(harness.NewClient(t, tracer, interceptors.WithBudget(b)).DialOptions(), grpc.WithChainUnaryInterceptor(
		func(context.Context, string, any, any, *grpc.ClientConn, grpc.UnaryInvoker, ...grpc.CallOption) error {
			panic("in between")
		}))...))
	var finished []error
	func() {
		defer func() {
			if recover() != "in between" {
				t.Error("the panic did not pass")
			}
		}()
		_ = do(t.Context(), grpc.OnFinish(func(err error) { finished = append(finished, err) }))
	}()
	if len(finished) != 1 || finished[0] == nil || harness.Balance(b) != 5 {
		t.Errorf("OnFinish was told %v, balance %v; want an error and 5", finished, harness.Balance(b))
	}
	harness.Compare(t, harness.Tree(recorder.Ended()), `
hopbound.call Idempotent [internal] Error {attempts=1 decision=not_retryable reason=panicked rpc.response.status_code=UNKNOWN}
  Idempotent [client] Error {attempt=1 budget.leased=6 budget.lost=6 decision=not_retryable reason=panicked rpc.response.status_code=UNKNOWN}
`)
}

// A lost reply's credit is not used up by an attempt that reaches nobody: a
// server that restarts is found again.
func TestCreditIsKeptForAnAttemptThatReachesAServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var calls, dials atomic.Int64
		var n *harness.Node
		n = harness.Serve(t, func(ctx context.Context) error {
			if calls.Add(1) == 1 {
				n.Cut()
				<-ctx.Done()
			}
			return nil
		}, harness.NewServer(t).ServerOptions()...)
		b := harness.FixedBudget(budget.Burst(20))
		client := harness.NewClient(t, interceptors.WithBudget(b), harness.Policy(interceptors.Policy{Retry: &interceptors.RetryPolicy{
			MaxAttempts: 10,
			Backoff:     interceptors.Backoff{Base: 2 * time.Second, Max: 2 * time.Second, Jitter: interceptors.NoJitter},
		}}))
		cc, err := grpc.NewClient("passthrough:///node", append(client.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				if d := dials.Add(1); d == 2 || d == 3 {
					return nil, &net.OpError{Op: "dial", Err: context.DeadlineExceeded}
				}
				conn, err := n.Listener.DialContext(ctx)
				n.Mu.Lock()
				defer n.Mu.Unlock()
				n.Conns = append(n.Conns, conn)
				return conn, err
			}))...)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cc.Close() }()
		if err := harness.Idempotent(cc)(t.Context()); err != nil || calls.Load() != 2 {
			t.Errorf("%v after %d calls, want success after 2", err, calls.Load())
		}
		if harness.Balance(b) != 19 { // one extra attempt reached a server
			t.Errorf("balance %v, want 19", harness.Balance(b))
		}
	})
}
