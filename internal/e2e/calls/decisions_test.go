package calls_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"github.com/hopbound/hopbound/internal/wire"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// decisionsOf returns what attempts and calls tell, in the order in which they
// ended: the decision, and the reason if there is one.
func decisionsOf(spans []sdktrace.ReadOnlySpan, kind string) string {
	var told []string
	for _, s := range spans {
		if s.SpanKind().String() != kind {
			continue
		}
		var decision, reason string
		for _, kv := range s.Attributes() {
			switch kv.Key {
			case "hopbound.decision":
				decision = kv.Value.AsString()
			case "hopbound.reason":
				reason = "/" + kv.Value.AsString()
			}
		}
		told = append(told, decision+reason)
	}
	return strings.Join(told, " ")
}

// What a server has said for good is passed on, though the call was not to be
// hedged any more when it came.
func TestHedgedCallKeepsTheNoRetryMark(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		recorder, spans := harness.Traced()
		n := harness.Serve(t, func(ctx context.Context) error {
			time.Sleep(30 * ms)
			return interceptors.DoNotRetry(ctx, harness.ErrUnavailable)
		})
		client := harness.NewClient(t, harness.Hedging(interceptors.HedgePolicy{MaxAttempts: 2, Delay: 10 * ms}), spans,
			interceptors.WithBudget(harness.FixedBudget(budget.PerRequest(0), budget.Burst(0), budget.MinPerSecond(0))))
		down := harness.Idempotent(n.Dial(client.DialOptions()...))
		var trailer metadata.MD
		n = harness.Serve(t, func(ctx context.Context) error { return down(ctx) }, harness.NewServer(t).ServerOptions()...)
		ctx := metadata.AppendToOutgoingContext(t.Context(), wire.ContextKey, "1;b=0;a=1")
		_ = harness.Idempotent(n.Dial())(ctx, grpc.Trailer(&trailer))
		if got := fmt.Sprint(trailer["hop-report"], trailer["grpc-retry-pushback-ms"]); strings.Contains(got, "n=1") || !strings.Contains(got, "-1") {
			t.Errorf("reported %s, want a failure that is marked for good", got)
		}
		if got := decisionsOf(recorder.Ended(), "internal"); got != "pushback" {
			t.Errorf("the call tells %q", got)
		}
	})
}

// An attempt whose server wants the next one later is told of by what becomes of
// that.
func TestDecisionOfAnAttemptWithPushbackDependsOnTheNextHedge(t *testing.T) {
	t.Parallel()
	for pushback, want := range map[string]string{"20": "retried hedge_lost done", "5000": "hedge_lost done"} {
		synctest.Test(t, func(t *testing.T) {
			recorder, spans := harness.Traced()
			var calls atomic.Int64
			n := harness.Serve(t, func(ctx context.Context) error {
				if calls.Add(1) == 1 {
					_ = grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", pushback))
					time.Sleep(15 * ms)
					return harness.ErrUnavailable
				}
				select {
				case <-time.After(100 * ms):
				case <-ctx.Done():
				}
				return ctx.Err()
			})
			client := harness.NewClient(t, harness.Hedging(interceptors.HedgePolicy{MaxAttempts: 3, Delay: 10 * ms}), interceptors.WithBudget(harness.FixedBudget()), spans)
			if err := harness.Idempotent(n.Dial(client.DialOptions()...))(t.Context()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			got := decisionsOf(recorder.Ended(), "client")
			if sorted(got) != sorted(want) {
				t.Errorf("pushback %s: attempts tell %q, want %q", pushback, got, want)
			}
		})
	}
}

func sorted(words string) string {
	return strings.Join(slices.Sorted(strings.FieldsSeq(words)), " ")
}

// explosive is a propagator that panics the nth time that it is used.
type explosive struct {
	propagation.TraceContext
	left atomic.Int64
}

func (b *explosive) Inject(ctx context.Context, carrier propagation.TextMapCarrier) {
	if b.left.Add(-1) == 0 {
		panic("bomb")
	}
	b.TraceContext.Inject(ctx, carrier)
}

// A propagator that panics breaks the call that it is used for, and leaves nothing
// behind: no span, no goroutine, no token.
func TestPropagatorThatPanicsLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		nth  int64
		opt  interceptors.ClientOption
		call func(ctx context.Context, cc *grpc.ClientConn) error
	}{
		"unary":        {1, harness.FixedBackoff(), func(ctx context.Context, cc *grpc.ClientConn) error { return harness.Idempotent(cc)(ctx) }},
		"unary retry":  {2, harness.FixedBackoff(), func(ctx context.Context, cc *grpc.ClientConn) error { return harness.Idempotent(cc)(ctx) }},
		"hedge":        {2, harness.Hedging(interceptors.HedgePolicy{MaxAttempts: 3}), func(ctx context.Context, cc *grpc.ClientConn) error { return harness.Idempotent(cc)(ctx) }},
		"stream":       {1, harness.FixedBackoff(), exchangeNews},
		"stream retry": {2, harness.FixedBackoff(), exchangeNews},
		"stream hedge": {2, harness.Hedging(interceptors.HedgePolicy{MaxAttempts: 3}), exchangeNews},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			recorder, spans := harness.Traced()
			_, meter := harness.Metered()
			b := &explosive{}
			b.left.Store(tc.nth)
			leaf := &harness.Counter{Fail: harness.FailFirst(1)}
			n := harness.NewNode(t)
			testv1.RegisterTestServiceServer(n.Server, watching{handle: leaf.Handle})
			n.Start()
			tokens := harness.FixedBudget()
			client := harness.NewClient(t, tc.opt, spans, meter, interceptors.WithPropagators(b), interceptors.WithBudget(tokens))
			cc := n.Dial(client.DialOptions()...)
			func() {
				defer func() {
					if v := recover(); v != "bomb" {
						t.Errorf("recovered %v", v)
					}
				}()
				_ = tc.call(t.Context(), cc)
			}()
			_ = cc.Close() // waits for nothing, but ends what is under way
			if started, ended := len(recorder.Started()), len(recorder.Ended()); started != ended || started == 0 {
				t.Errorf("%d spans started, %d ended", started, ended)
			}
			if !strings.Contains(decisionsOf(recorder.Ended(), "internal"), "not_retryable/panicked") {
				t.Errorf("the call tells %q", decisionsOf(recorder.Ended(), "internal"))
			}
		})
	}
}

// watching serves a unary method and a stream with one handler.
type watching struct {
	testv1.UnimplementedTestServiceServer
	handle harness.Handler
}

func (w watching) Idempotent(ctx context.Context, _ *testv1.IdempotentRequest) (*testv1.IdempotentResponse, error) {
	return &testv1.IdempotentResponse{}, w.handle(ctx)
}

func (w watching) Watch(_ *testv1.WatchRequest, ss grpc.ServerStreamingServer[testv1.WatchResponse]) error {
	return w.handle(ss.Context())
}

func exchangeNews(ctx context.Context, cc *grpc.ClientConn) error {
	_, err := harness.Kinds()[0].Exchange(ctx, cc, []string{"news"})
	return err
}

// A client that observes tells of streams, and of calls that it would hedge, what
// the first retry would have met.
func TestObservingClientCountsDecisionsOfStreamsAndHedges(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		opt  interceptors.ClientOption
		call func(ctx context.Context, cc *grpc.ClientConn) error
	}{
		"stream": {harness.FixedBackoff(), exchangeNews},
		"hedge":  {harness.Hedging(interceptors.HedgePolicy{MaxAttempts: 2}), func(ctx context.Context, cc *grpc.ClientConn) error { return harness.Idempotent(cc)(ctx) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			recorder, spans := harness.Traced()
			n := harness.NewNode(t)
			testv1.RegisterTestServiceServer(n.Server, watching{handle: (&harness.Counter{Fail: harness.FailFirst(9)}).Handle})
			n.Start()
			_ = tc.call(t.Context(), n.Dial(harness.NewClient(t, tc.opt, spans, interceptors.WithMode(interceptors.Observe)).DialOptions()...))
			if got := decisionsOf(recorder.Ended(), "client"); got != "retried" {
				t.Errorf("the attempt tells %q", got)
			}
			if strings.Contains(harness.Tree(recorder.Ended()), "leased") {
				t.Error("an attempt that carries no tokens tells of some")
			}
		})
	}
}

func TestSpansOfCallsThatAreNotSentSayWhy(t *testing.T) {
	t.Parallel()
	recorder, spans := harness.Traced()
	n := harness.NewNode(t)
	testv1.RegisterTestServiceServer(n.Server, watching{handle: func(context.Context) error { return nil }})
	n.Start()
	cc := n.Dial(harness.NewClient(t, spans, harness.Hedging(interceptors.HedgePolicy{})).DialOptions()...)
	_ = harness.Within(t, harness.Idempotent(cc), -ms)
	_ = harness.Idempotent(cc)(t.Context(), interceptors.UsePolicy(interceptors.Policy{Timeout: -1}))
	_ = harness.Idempotent(cc)(t.Context(), interceptors.UsePolicy(interceptors.Policy{KeyField: "nope"}))
	_ = harness.Idempotent(cc)(t.Context(), interceptors.UseKey(""))
	ctx, cancel := context.WithCancel(t.Context())
	s, err := testv1.NewTestServiceClient(cc).Watch(ctx, &testv1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_, _ = s.Recv()
	want := "deadline/DEADLINE_EXPIRED not_retryable/POLICY_INVALID not_retryable/POLICY_INVALID not_retryable/KEY_INVALID"
	if got := decisionsOf(recorder.Ended(), "internal"); !strings.HasPrefix(got, want+" ") || strings.HasSuffix(got, " ") {
		t.Errorf("calls tell %q, want %q", got, want)
	}
	if n := strings.Count(harness.Tree(recorder.Ended()), "KEY_INVALID"); n != 2 { // of the call, and of the event
		t.Errorf("KEY_INVALID is told %d times", n)
	}
}

func TestCallWhoseTenantPanicsIsCounted(t *testing.T) {
	t.Parallel()
	reader, meter := harness.Metered()
	server := harness.NewServer(t, meter, interceptors.WithIdempotency(idempotency.NewMemory(), idempotency.Tenant(func(context.Context) string { panic("no tenant") })))
	recoverer := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (_ any, err error) {
		defer func() {
			if recover() != nil {
				err = harness.ErrUnavailable
			}
		}()
		return next(ctx, req)
	}
	n := harness.Serve(t, func(context.Context) error { return nil }, append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(recoverer)}, server.ServerOptions()...)...)
	_ = harness.Write(n.Dial())(metadata.AppendToOutgoingContext(t.Context(), idempotency.Header, "k"))
	if got := harness.Collected(t, reader); !strings.Contains(got, "hopbound.idempotency.outcome=given_up,hopbound.mode=enforce} 1\n") {
		t.Error(got)
	}
}

// At a deadline the cancellation by the caller above, whose own deadline it is, may
// come before the hop's: its attempt has run out of time all the same.
func TestAttemptThatIsCancelledAtItsDeadlineHasRunOutOfTime(t *testing.T) {
	t.Parallel()
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			recorder, spans := harness.Traced()
			n := harness.Serve(t, func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			})
			down := harness.Idempotent(n.Dial(harness.NewClient(t, spans).DialOptions()...))
			n = harness.Serve(t, func(ctx context.Context) error { return down(ctx) })
			_ = harness.Within(t, harness.Idempotent(n.Dial()), 100*ms)
			time.Sleep(time.Second)
			if got := decisionsOf(recorder.Ended(), "client"); got != "deadline/passed" {
				t.Errorf("the attempt tells %q", got)
			}
		})
	}
}
