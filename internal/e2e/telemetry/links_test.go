package telemetry_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A call that joins a run, and one that gets its outcome later, link to the span of the run. So do
// those that get a stored failure, or an outcome that was too large to store.
func TestReplayedAndJoinedCallsLinkToTheRun(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err  error
		opts []idempotency.Option
	}{
		"a success":                     {},
		"a failure":                     {err: idempotency.Final(status.Error(codes.NotFound, "no account"))},
		"an outcome too large to store": {idempotency.Final(status.Error(codes.NotFound, strings.Repeat("x", 2000))), []idempotency.Option{idempotency.MaxOutcome(1024)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				recorder, spans := harness.Traced()
				b := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error {
					time.Sleep(20 * ms)
					return tc.err
				}}
				n := b.OpenWith(t, interceptors.WithIdempotency(idempotency.NewMemory(), tc.opts...), spans)
				c := testv1.NewTestServiceClient(n.Dial(harness.NewClient(t, spans).DialOptions()...))
				pay := func() { _, _ = c.Pay(idempotency.WithKey(t.Context(), "an order"), harness.Rent()) }
				go pay()
				synctest.Wait()
				pay()
				pay()
				synctest.Wait()
				runs, links := map[string]trace.SpanID{}, map[string]trace.SpanID{}
				for _, s := range recorder.Ended() {
					if outcome := valueOf(s, "hopbound.idempotency.outcome"); outcome != "" {
						runs[outcome] = s.SpanContext().SpanID()
						for _, l := range s.Links() {
							links[outcome] = l.SpanContext.SpanID()
						}
					}
				}
				for _, outcome := range []string{"joined", "replayed"} {
					if links[outcome] != runs["executed"] || !links[outcome].IsValid() {
						t.Errorf("%s links to %v, the run is %v", outcome, links[outcome], runs)
					}
				}
			})
		})
	}
}

func valueOf(s sdktrace.ReadOnlySpan, key attribute.Key) string {
	for _, kv := range s.Attributes() {
		if kv.Key == key {
			return kv.Value.String()
		}
	}
	return ""
}

// At a deadline, the client's and the server's spans and metrics have one status, also if the handler
// succeeds late, and the server's span says how late it was.
func TestBothSidesAgreeAtADeadline(t *testing.T) {
	t.Parallel()
	for name, result := range map[string]error{"it succeeds": nil, "it fails": context.DeadlineExceeded} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				recorder, spans := harness.Traced()
				reader, meter := harness.Metered()
				n := harness.Serve(t, func(context.Context) error {
					time.Sleep(150 * ms) // it does not look at its context
					return result
				}, harness.NewServer(t, spans, meter).ServerOptions()...)
				_ = harness.Within(t, harness.Idempotent(n.Dial(harness.NewClient(t, spans, meter).DialOptions()...)), 100*ms)
				time.Sleep(time.Second)
				kinds := map[trace.SpanKind]bool{}
				for _, s := range recorder.Ended() {
					kinds[s.SpanKind()] = true
					if got := valueOf(s, "rpc.response.status_code"); got != "DEADLINE_EXCEEDED" {
						t.Errorf("%s (%v) has the status %s", s.Name(), s.SpanKind(), got)
					}
					if late := valueOf(s, "hopbound.deadline.late_ms"); s.SpanKind() == trace.SpanKindServer && late != "50" {
						t.Errorf("the server's span is %q ms late", late)
					}
				}
				if len(kinds) != 3 {
					t.Errorf("kinds of spans: %v", kinds)
				}
				got := harness.Collected(t, reader)
				for _, metric := range []string{"grpc.client.call.duration", "grpc.client.attempt.duration", "hopbound.client.calls", "grpc.server.call.duration", "hopbound.server.calls"} {
					for line := range strings.Lines(got) {
						if strings.HasPrefix(line, metric+" ") && !strings.Contains(line, "grpc.status=DEADLINE_EXCEEDED") {
							t.Error(line)
						}
					}
				}
			})
		})
	}
}

// In a handler and below a client, log lines have the identifiers of the span.
func TestLogFieldsIdentifyTheTrace(t *testing.T) {
	t.Parallel()
	recorder, spans := harness.Traced()
	var fields []any
	n := harness.Serve(t, func(ctx context.Context) error {
		fields = interceptors.LogFields(ctx)
		return nil
	}, harness.NewServer(t, spans).ServerOptions()...)
	if err := harness.Idempotent(n.Dial(harness.NewClient(t, spans).DialOptions()...))(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, s := range recorder.Ended() {
		if s.SpanKind() != trace.SpanKindServer {
			continue
		}
		got := map[any]any{}
		for i := 0; i < len(fields); i += 2 {
			got[fields[i]] = fields[i+1]
		}
		if got["trace_id"] != s.SpanContext().TraceID().String() || got["span_id"] != s.SpanContext().SpanID().String() {
			t.Errorf("fields %v of span %v", fields, s.SpanContext())
		}
		return
	}
	t.Error("no span of the server")
}

// What callers cannot see is logged, once in a second for each kind, with the number of messages that
// were suppressed.
func TestWhatIsHiddenFromCallersIsLogged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var book bytes.Buffer
		logger := interceptors.WithLogger(slog.New(slog.NewTextHandler(&book, nil)))
		n := harness.Serve(t, func(context.Context) error { return nil }, harness.NewServer(t, logger).ServerOptions()...)
		plain := harness.Idempotent(n.Dial())
		for range 3 {
			_ = plain(metadata.AppendToOutgoingContext(t.Context(), "hop-context", "nonsense"))
		}
		late := harness.Idempotent(n.Dial(harness.NewClient(t, logger).DialOptions()...))
		for range 2 {
			_ = harness.Within(t, late, -ms)
		}
		time.Sleep(time.Second)
		_ = plain(metadata.AppendToOutgoingContext(t.Context(), "hop-context", "nonsense"))
		_ = harness.Within(t, late, -ms)
		for _, want := range []string{
			`msg="hopbound: a malformed value was ignored" side=server method=/hopbound.test.v1.TestService/Idempotent header=hop-context suppressed=0`,
			`msg="hopbound: a malformed value was ignored" side=server method=/hopbound.test.v1.TestService/Idempotent header=hop-context suppressed=2`,
			`msg="hopbound: a call was rejected" side=client method=/hopbound.test.v1.TestService/Idempotent reason=DEADLINE_EXPIRED suppressed=0`,
			`msg="hopbound: a call was rejected" side=client method=/hopbound.test.v1.TestService/Idempotent reason=DEADLINE_EXPIRED suppressed=1`,
		} {
			if strings.Count(book.String(), want) != 1 || strings.Count(book.String(), "\n") != 4 {
				t.Errorf("want one line with %s in\n%s", want, book.String())
			}
		}
	})
}
