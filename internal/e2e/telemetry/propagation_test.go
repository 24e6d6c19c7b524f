package telemetry_test

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
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// capital is a propagator whose field has capitals, as that of AWS X-Ray has.
type capital struct{ propagation.TraceContext }

func (capital) Fields() []string { return []string{"TraceParent"} }

func TestTraceContextOfACallerIsNotPassedOn(t *testing.T) {
	t.Parallel()
	_, spans := harness.Traced()
	var got []string
	n := harness.Serve(t, func(ctx context.Context) error {
		got = metadata.ValueFromIncomingContext(ctx, "traceparent")
		return nil
	})
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "the caller's")
	if err := harness.Idempotent(n.Dial(harness.NewClient(t, spans, interceptors.WithPropagators(capital{})).DialOptions()...))(ctx); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0] == "the caller's" {
		t.Errorf("the server got %q", got)
	}
}

// Of several trace contexts the last is nearest to the wire.
func TestServerSpanIsAChildOfTheLastTraceContext(t *testing.T) {
	t.Parallel()
	recorder, spans := harness.Traced()
	n := harness.Serve(t, func(context.Context) error { return nil }, harness.NewServer(t, spans).ServerOptions()...)
	const first, last = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b8-01"
	if err := harness.Idempotent(n.Dial())(metadata.AppendToOutgoingContext(t.Context(), "traceparent", first, "traceparent", last)); err != nil {
		t.Fatal(err)
	}
	if got := recorder.Ended()[0].Parent().SpanID().String(); got != "00f067aa0ba902b8" {
		t.Errorf("the parent is %s", got)
	}
}

func TestAttemptsHaveTheKindThatIsSet(t *testing.T) {
	t.Parallel()
	if _, err := interceptors.NewClient(interceptors.WithAttemptSpans(trace.SpanKindServer)); err == nil || !strings.Contains(err.Error(), "WithAttemptSpans(server)") {
		t.Errorf("got %v", err)
	}
	for _, kind := range []trace.SpanKind{trace.SpanKindClient, trace.SpanKindInternal} {
		recorder, spans := harness.Traced()
		n := harness.Serve(t, func(context.Context) error { return nil })
		if err := harness.Idempotent(n.Dial(harness.NewClient(t, spans, interceptors.WithAttemptSpans(kind)).DialOptions()...))(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := recorder.Ended()[0].SpanKind(); got != kind {
			t.Errorf("the attempt is %v, want %v", got, kind)
		}
	}
}

// Where a caller's context reaches the handler, as it does in one process without a
// network, logs tell of the handler's own call.
func TestHandlerLogsItsOwnCallThoughItHasItsCallersContext(t *testing.T) {
	t.Parallel()
	server, client := harness.NewServer(t), harness.NewClient(t)
	var inHandler, atRoot string
	invoker := func(ctx context.Context, method string, req, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
		md, _ := metadata.FromOutgoingContext(ctx)
		_, err := server.UnaryInterceptor()(metadata.NewIncomingContext(ctx, md), req, &grpc.UnaryServerInfo{FullMethod: method},
			func(ctx context.Context, _ any) (any, error) {
				inHandler = fmt.Sprint(interceptors.LogFields(ctx)...)
				return nil, nil //nolint:nilnil // nobody looks
			})
		return err
	}
	err := client.UnaryInterceptor()(t.Context(), "/hopbound.test.v1.TestService/Idempotent", &testv1.IdempotentRequest{}, &testv1.IdempotentResponse{}, nil, invoker)
	if err != nil || !strings.Contains(inHandler, "hopbound.budget.left") || strings.Contains(inHandler, "leased") {
		t.Errorf("%v; logged %s", err, inHandler)
	}
	_, err = server.UnaryInterceptor()(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/a/b"}, func(ctx context.Context, _ any) (any, error) {
		atRoot = fmt.Sprint(interceptors.LogFields(ctx)...)
		return nil, nil //nolint:nilnil // nobody looks
	})
	if err != nil || strings.Contains(atRoot, "budget") {
		t.Errorf("%v; a root that was granted nothing yet logs %s", err, atRoot)
	}
}

// A key that the application has put among the metadata is one too.
func TestSpanHasTheHashOfAKeyInTheMetadata(t *testing.T) {
	t.Parallel()
	recorder, spans := harness.Traced()
	n := harness.Serve(t, func(context.Context) error { return nil })
	ctx := metadata.AppendToOutgoingContext(t.Context(), idempotency.Header, "an order")
	if err := harness.Write(n.Dial(harness.NewClient(t, spans).DialOptions()...))(ctx); err != nil {
		t.Fatal(err)
	}
	if got := harness.Tree(recorder.Ended()); !strings.Contains(got, "idempotency.key_hash=39c75a60ef347111") {
		t.Error(got)
	}
}

func TestHeadroomIsMeasuredOnlyForCallsWithADeadline(t *testing.T) {
	t.Parallel()
	reader, meter := harness.Metered()
	n := harness.Serve(t, func(context.Context) error { return nil }, harness.NewServer(t, meter, interceptors.WithDefaultDeadline(time.Minute)).ServerOptions()...)
	if err := harness.Idempotent(n.Dial())(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := harness.Collected(t, reader); strings.Contains(got, "headroom") {
		t.Error(got)
	}
}
