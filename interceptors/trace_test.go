package interceptors_test

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/wire"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func traced(opts ...sdktrace.TracerProviderOption) (*tracetest.SpanRecorder, interceptors.Option) {
	recorder := tracetest.NewSpanRecorder()
	opts = append(opts, sdktrace.WithSpanProcessor(recorder))
	return recorder, interceptors.WithTracerProvider(sdktrace.NewTracerProvider(opts...))
}

// tree writes spans as an indented tree, in the order in which they began, with
// their kind, status, the attributes of this package, and events. What depends
// on the clock is left out.
func tree(spans []sdktrace.ReadOnlySpan) string {
	children := map[string][]sdktrace.ReadOnlySpan{}
	known := map[string]bool{}
	for _, s := range spans {
		known[s.SpanContext().SpanID().String()] = true
	}
	for _, s := range spans {
		parent := s.Parent().SpanID().String()
		if !known[parent] {
			parent = ""
		}
		children[parent] = append(children[parent], s)
	}
	var b strings.Builder
	var walk func(parent, indent string)
	walk = func(parent, indent string) {
		sort.SliceStable(children[parent], func(i, j int) bool {
			return children[parent][i].StartTime().Before(children[parent][j].StartTime())
		})
		for _, s := range children[parent] {
			name := strings.ReplaceAll(s.Name(), "hopbound.test.v1.TestService/", "")
			fmt.Fprintf(&b, "%s%s [%s] %s {%s}\n", indent, name, s.SpanKind(), s.Status().Code, attrs(s.Attributes()))
			for _, e := range s.Events() {
				fmt.Fprintf(&b, "%s  * %s {%s}\n", indent, e.Name, attrs(e.Attributes))
			}
			walk(s.SpanContext().SpanID().String(), indent+"  ")
		}
	}
	walk("", "")
	return b.String()
}

func attrs(kvs []attribute.KeyValue) string {
	var out []string
	for _, kv := range kvs {
		key := string(kv.Key)
		if strings.HasSuffix(key, "_ms") && key != "hopbound.backoff_ms" || key == "rpc.method" || key == "rpc.system.name" {
			continue
		}
		out = append(out, strings.TrimPrefix(key, "hopbound.")+"="+kv.Value.String())
	}
	sort.Strings(out)
	return strings.Join(out, " ")
}

func compare(t *testing.T, got, want string) {
	t.Helper()
	want = strings.TrimLeft(want, "\n")
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestTraceShowsEveryAttemptAndWhy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		recorder, tracer := traced()
		leaf := &counter{fail: failing(1)}
		n := serve(t, leaf.handle, newServer(t, tracer).ServerOptions()...)
		paused := policy(interceptors.Policy{Retry: &interceptors.RetryPolicy{
			Backoff: interceptors.Backoff{Base: 5 * ms, Jitter: interceptors.NoJitter},
		}})
		down := idempotent(n.dial(newClient(t, paused, tracer).DialOptions()...))
		n = serve(t, func(ctx context.Context) error { return down(ctx) }, newServer(t, tracer).ServerOptions()...)
		do := idempotent(n.dial(newClient(t, paused, tracer).DialOptions()...))
		if err := within(t, do, time.Second); err != nil {
			t.Fatal(err)
		}
		compare(t, tree(recorder.Ended()), `
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
		method func(*grpc.ClientConn) call
		within time.Duration
		want   string // decisions of the attempts
	}{
		"done":             {fail: failing(0), want: "done"},
		"exhausted":        {fail: failing(9), want: "retried retried exhausted"},
		"budget_empty":     {fail: failing(9), opts: []interceptors.ClientOption{interceptors.WithBudget(fixedBudget(budget.PerRequest(1), budget.Burst(2)))}, want: "retried budget_empty"},
		"not_retryable":    {fail: always(status.Error(codes.NotFound, "")), want: "not_retryable"},
		"deadline, paused": {fail: failing(9), within: ms, opts: []interceptors.ClientOption{policy(interceptors.Policy{Retry: &interceptors.RetryPolicy{Backoff: interceptors.Backoff{Base: time.Hour, Jitter: interceptors.NoJitter}}})}, want: "deadline"},
		"unsafe":           {fail: failing(9), method: write, opts: []interceptors.ClientOption{policy(interceptors.Policy{})}, want: "unsafe"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				recorder, tracer := traced()
				leaf := &counter{fail: tc.fail}
				n := serve(t, leaf.handle, newServer(t, tc.server...).ServerOptions()...)
				if tc.method == nil {
					tc.method = idempotent
				}
				if tc.within == 0 {
					tc.within = time.Second
				}
				do := tc.method(n.dial(newClient(t, append([]interceptors.ClientOption{quick(), tracer}, tc.opts...)...).DialOptions()...))
				_ = within(t, do, tc.within)
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
		recorder, tracer := traced()
		n := serve(t, func(ctx context.Context) error {
			_ = grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", "-1", trailer, "1;u=0"))
			return errUnavailable
		})
		_ = idempotent(n.dial(newClient(t, quick(), tracer).DialOptions()...))(t.Context())
		if got := tree(recorder.Ended()); !strings.Contains(got, "attempts=1 decision="+want) {
			t.Errorf("got\n%s\nwant decision %s", got, want)
		}
	}
}

func TestTraceShowsRefusalsAndMalformedHeaders(t *testing.T) {
	t.Parallel()
	recorder, tracer := traced()
	do := idempotent(serve(t, func(context.Context) error { return nil }, newServer(t, tracer).ServerOptions()...).dial())
	_ = do(metadata.AppendToOutgoingContext(t.Context(), wire.ContextKey, "1;d=5;s=10;c=000000000000000a;b=1;a=3"))
	_ = do(metadata.AppendToOutgoingContext(t.Context(), wire.ContextKey, "1;nonsense"))
	compare(t, tree(recorder.Ended()), `
Idempotent [server] Error {attempt=3 budget.leased=1 budget.used=0 rpc.response.status_code=DEADLINE_EXCEEDED}
  * hopbound.refusal {reason=DEADLINE_EXPIRED}
Idempotent [server] Unset {budget.used=0 rpc.response.status_code=OK}
  * hopbound.malformed {header=hop-context}
`)
}

// A call refused by the client is in the trace too, with no attempt.
func TestTraceShowsCallsThatWereNeverSent(t *testing.T) {
	t.Parallel()
	recorder, tracer := traced()
	do := idempotent(serve(t, func(context.Context) error { return nil }).dial(newClient(t, tracer).DialOptions()...))
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Hour))
	defer cancel()
	_ = do(ctx)
	compare(t, tree(recorder.Ended()), `
hopbound.call Idempotent [internal] Error {attempts=0 decision=deadline reason=DEADLINE_EXPIRED rpc.response.status_code=DEADLINE_EXCEEDED}
  * hopbound.refusal {reason=DEADLINE_EXPIRED}
`)
}

func TestCallThatIsNotSampledIsPassedOnAndNotRecorded(t *testing.T) {
	t.Parallel()
	recorder, tracer := traced(sdktrace.WithSampler(sdktrace.NeverSample()))
	var parent string
	n := serve(t, func(ctx context.Context) error {
		parent = strings.Join(metadata.ValueFromIncomingContext(ctx, "traceparent"), ",")
		return nil
	}, newServer(t, tracer).ServerOptions()...)
	if err := idempotent(n.dial(newClient(t, tracer).DialOptions()...))(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(recorder.Ended()) != 0 || !strings.HasSuffix(parent, "-00") {
		t.Errorf("%d spans, traceparent %q; want none, and one that is not sampled", len(recorder.Ended()), parent)
	}
}
