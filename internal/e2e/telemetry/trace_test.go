package telemetry_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"github.com/hopbound/hopbound/internal/wire"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestTraceShowsEveryAttemptAndWhy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		recorder, tracer := harness.Traced()
		leaf := &harness.Counter{Fail: harness.FailFirst(1)}
		n := harness.Serve(t, leaf.Handle, harness.NewServer(t, tracer).ServerOptions()...)
		paused := harness.Policy(interceptors.Policy{Retry: &interceptors.RetryPolicy{
			Backoff: interceptors.Backoff{Base: 5 * ms, Jitter: interceptors.NoJitter},
		}})
		down := harness.Idempotent(n.Dial(harness.NewClient(t, paused, tracer).DialOptions()...))
		n = harness.Serve(t, func(ctx context.Context) error { return down(ctx) }, harness.NewServer(t, tracer).ServerOptions()...)
		do := harness.Idempotent(n.Dial(harness.NewClient(t, paused, tracer).DialOptions()...))
		if err := harness.Within(t, do, time.Second); err != nil {
			t.Fatal(err)
		}
		harness.Compare(t, harness.Tree(recorder.Ended()), `
hopbound.call Idempotent [internal] Unset {attempts=1 decision=done rpc.response.status_code=OK}
  Idempotent [client] Unset {attempt=1 budget.leased=5 budget.used=1 decision=done rpc.response.status_code=OK}
    Idempotent [server] Unset {attempt=1 budget.leased=5 budget.used=1 rpc.response.status_code=OK}
      hopbound.call Idempotent [internal] Unset {attempts=2 decision=done rpc.response.status_code=OK}
        * hopbound.backoff {backoff_ms=5 reason=backoff rpc.response.status_code=UNAVAILABLE}
        Idempotent [client] Error {attempt=1 budget.leased=3 budget.used=0 decision=retried rpc.response.status_code=UNAVAILABLE}
          Idempotent [server] Error {attempt=1 budget.leased=3 budget.used=0 rpc.response.status_code=UNAVAILABLE}
        Idempotent [client] Unset {attempt=2 budget.leased=2 budget.used=0 decision=done rpc.response.status_code=OK}
          Idempotent [server] Unset {attempt=2 budget.leased=2 budget.used=0 rpc.response.status_code=OK}
`)
	})
}

func TestTraceNamesTheReasonForEachDecision(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fail   func(int64) error
		opts   []interceptors.ClientOption
		server []interceptors.ServerOption
		method func(*grpc.ClientConn) harness.Call
		within time.Duration
		want   string // decisions of the attempts
	}{
		"done":             {fail: harness.FailFirst(0), want: "done"},
		"exhausted":        {fail: harness.FailFirst(9), want: "retried retried exhausted"},
		"budget_empty":     {fail: harness.FailFirst(9), opts: []interceptors.ClientOption{interceptors.WithBudget(harness.FixedBudget(budget.PerRequest(1), budget.Burst(2)))}, want: "retried budget_empty"},
		"not_retryable":    {fail: harness.AlwaysFail(status.Error(codes.NotFound, "")), want: "not_retryable"},
		"deadline, paused": {fail: harness.FailFirst(9), within: ms, opts: []interceptors.ClientOption{harness.Policy(interceptors.Policy{Retry: &interceptors.RetryPolicy{Backoff: interceptors.Backoff{Base: time.Hour, Jitter: interceptors.NoJitter}}})}, want: "deadline"},
		"unsafe":           {fail: harness.FailFirst(9), method: harness.Write, opts: []interceptors.ClientOption{harness.Policy(interceptors.Policy{})}, want: "unsafe"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				recorder, tracer := harness.Traced()
				leaf := &harness.Counter{Fail: tc.fail}
				n := harness.Serve(t, leaf.Handle, harness.NewServer(t, tc.server...).ServerOptions()...)
				if tc.method == nil {
					tc.method = harness.Idempotent
				}
				if tc.within == 0 {
					tc.within = time.Second
				}
				do := tc.method(n.Dial(harness.NewClient(t, append([]interceptors.ClientOption{harness.FastRetry(), tracer}, tc.opts...)...).DialOptions()...))
				_ = harness.Within(t, do, tc.within)
				var got []string
				for _, s := range recorder.Ended() {
					if s.SpanKind().String() == "client" {
						for _, kv := range s.Attributes() {
							if kv.Key == "hopbound.decision" {
								got = append(got, kv.Value.AsString())
							}
						}
					}
				}
				if strings.Join(got, " ") != tc.want {
					t.Errorf("decisions %v, want %s", got, tc.want)
				}
			})
		})
	}
}

func TestTraceShowsMarksAndPushback(t *testing.T) {
	t.Parallel()
	for trailer, want := range map[string]string{"hop-report": "marked", "other": "pushback"} {
		recorder, tracer := harness.Traced()
		n := harness.Serve(t, func(ctx context.Context) error {
			_ = grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", "-1", trailer, "1;u=0"))
			return harness.ErrUnavailable
		})
		_ = harness.Idempotent(n.Dial(harness.NewClient(t, harness.FastRetry(), tracer).DialOptions()...))(t.Context())
		if got := harness.Tree(recorder.Ended()); !strings.Contains(got, "attempts=1 decision="+want) {
			t.Errorf("got\n%s\nwant decision %s", got, want)
		}
	}
}

func TestTraceShowsRefusalsAndMalformedHeaders(t *testing.T) {
	t.Parallel()
	recorder, tracer := harness.Traced()
	do := harness.Idempotent(harness.Serve(t, func(context.Context) error { return nil }, harness.NewServer(t, tracer).ServerOptions()...).Dial())
	_ = do(metadata.AppendToOutgoingContext(t.Context(), wire.ContextKey, "1;d=5;s=10;c=000000000000000a;b=1;a=3"))
	_ = do(metadata.AppendToOutgoingContext(t.Context(), wire.ContextKey, "1;nonsense"))
	harness.Compare(t, harness.Tree(recorder.Ended()), `
Idempotent [server] Error {attempt=3 budget.leased=1 budget.used=0 rpc.response.status_code=DEADLINE_EXCEEDED}
  * hopbound.refusal {reason=DEADLINE_EXPIRED}
Idempotent [server] Unset {budget.used=0 rpc.response.status_code=OK}
  * hopbound.malformed {header=hop-context}
`)
}

// A call refused by the client is in the trace too, with no attempt.
func TestTraceShowsCallsThatWereNeverSent(t *testing.T) {
	t.Parallel()
	recorder, tracer := harness.Traced()
	do := harness.Idempotent(harness.Serve(t, func(context.Context) error { return nil }).Dial(harness.NewClient(t, tracer).DialOptions()...))
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Hour))
	defer cancel()
	_ = do(ctx)
	harness.Compare(t, harness.Tree(recorder.Ended()), `
hopbound.call Idempotent [internal] Error {attempts=0 decision=deadline reason=DEADLINE_EXPIRED rpc.response.status_code=DEADLINE_EXCEEDED}
  * hopbound.refusal {reason=DEADLINE_EXPIRED}
`)
}

func TestCallThatIsNotSampledIsPassedOnAndNotRecorded(t *testing.T) {
	t.Parallel()
	recorder, tracer := harness.Traced(sdktrace.WithSampler(sdktrace.NeverSample()))
	var parent string
	n := harness.Serve(t, func(ctx context.Context) error {
		parent = strings.Join(metadata.ValueFromIncomingContext(ctx, "traceparent"), ",")
		return nil
	}, harness.NewServer(t, tracer).ServerOptions()...)
	if err := harness.Idempotent(n.Dial(harness.NewClient(t, tracer).DialOptions()...))(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(recorder.Ended()) != 0 || !strings.HasSuffix(parent, "-00") {
		t.Errorf("%d spans, traceparent %q; want none, and one that is not sampled", len(recorder.Ended()), parent)
	}
}
