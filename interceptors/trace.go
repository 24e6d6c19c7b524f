package interceptors

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// scope names the tracer and the meter.
const scope = "github.com/hopbound/hopbound/interceptors"

// Attributes of spans and events, beside those of the semantic conventions.
const (
	attrAttempt   = attribute.Key("hopbound.attempt")
	attrAttempts  = attribute.Key("hopbound.attempts")
	attrDecision  = attribute.Key("hopbound.decision")
	attrMode      = attribute.Key("hopbound.mode") // only if it is observe
	attrLeased    = attribute.Key("hopbound.budget.leased")
	attrUsed      = attribute.Key("hopbound.budget.used")
	attrRemaining = attribute.Key("hopbound.deadline.remaining_ms")
	attrExcess    = attribute.Key("hopbound.deadline.excess_ms")
	attrReserve   = attribute.Key("hopbound.deadline.reserve_ms")
	attrBackoff   = attribute.Key("hopbound.backoff_ms")
	attrReason    = attribute.Key("hopbound.reason")
	attrHedge     = attribute.Key("hopbound.hedge") // won or lost, where attempts were made at the same time
	attrSent      = attribute.Key("hopbound.messages.sent")
	attrReceived  = attribute.Key("hopbound.messages.received")
	attrCommitted = attribute.Key("hopbound.committed") // what made a stream unretryable
	attrHeader    = attribute.Key("hopbound.header")

	attrKeyOutcome = attribute.Key("hopbound.idempotency.outcome")
	attrKeyHash    = attribute.Key("hopbound.idempotency.key_hash")
	attrTakenOver  = attribute.Key("hopbound.idempotency.taken_over") // only if it is so
	attrStore      = attribute.Key("hopbound.idempotency.store")
	attrStep       = attribute.Key("hopbound.idempotency.step")
	attrResult     = attribute.Key("hopbound.idempotency.result")
)

// tracing is what spans are made with. It is nil, and nothing is spent, if
// there is no tracer provider.
type tracing struct {
	tracer      trace.Tracer
	propagators propagation.TextMapPropagator
	attemptKind trace.SpanKind // unspecified if it depends on the connection
	makers      sync.Map       // what else makes spans on a connection, by its weak pointer
}

func newTracing(s *settings) *tracing {
	if s.tracers == nil {
		return nil
	}
	t := &tracing{
		tracer:      s.tracers.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL)),
		propagators: s.propagators,
	}
	if t.propagators == nil {
		t.propagators = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	}
	return t
}

// spanOptions are what the spans of a method begin with. They are made once, so
// that a call that is not recorded does not pay for them.
type spanOptions struct {
	callName               string
	call, client, internal []trace.SpanStartOption
	server, edge           []trace.SpanStartOption
}

// options returns what the spans of a method begin with.
func (t *tracing) options(name string) *spanOptions {
	if t == nil {
		return nil
	}
	attributes := trace.WithAttributes(semconv.RPCSystemNameGRPC, semconv.RPCMethod(name))
	client, server := trace.WithSpanKind(trace.SpanKindClient), trace.WithSpanKind(trace.SpanKindServer)
	return &spanOptions{
		callName: "hopbound.call " + name,
		call:     []trace.SpanStartOption{attributes},
		client:   []trace.SpanStartOption{attributes, client},
		internal: []trace.SpanStartOption{attributes},
		server:   []trace.SpanStartOption{attributes, server},
		edge:     []trace.SpanStartOption{attributes, server, trace.WithNewRoot()},
	}
}

// endSpan ends a span with the status of its call.
func endSpan(span trace.Span, err error, mode Mode, failed func(codes.Code) bool, opts ...trace.SpanEndOption) {
	code := codeOf(err)
	span.SetAttributes(semconv.RPCResponseStatusCode(codeName(code)))
	if mode == Observe {
		span.SetAttributes(attrMode.String(mode.String()))
	}
	if failed(code) {
		span.SetStatus(otelcodes.Error, status.Convert(err).Message())
	}
	span.End(opts...)
}

// isFailure reports whether a code is a failure to a client: all but OK.
func isFailure(code codes.Code) bool { return code != codes.OK }

// isServerFault reports whether a code is a failure of the server's own, by the
// semantic conventions for gRPC.
func isServerFault(code codes.Code) bool {
	switch code {
	case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		return true
	default:
		return false
	}
}

// codeName returns a code as the protocol writes it, such as "NOT_FOUND".
func codeName(code codes.Code) string {
	names := [...]string{
		"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
		"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
		"UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
	}
	if int(code) < len(names) {
		return names[code]
	}
	return code.String()
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// context returns the metadata in which a trace travels. Beside what would add the
// same keys again, it leaves them out, since receivers may take either value.
func (t *tracing) context(ctx context.Context, maker spanMaker) []string {
	if t == nil {
		return nil
	}
	kv := make(pairs, 0, 4)
	t.propagators.Inject(ctx, &kv)
	if maker == byGRPC {
		for i := len(kv) - 2; i >= 0; i -= 2 {
			if kv[i] == "traceparent" || kv[i] == "tracestate" {
				kv = slices.Delete(kv, i, i+2)
			}
		}
	}
	return kv
}

// pairs is metadata that a propagator adds to: keys, each followed by its value.
type pairs []string

func (p *pairs) Set(key, value string) {
	key = strings.ToLower(key)
	for i := 0; i < len(*p); i += 2 {
		if (*p)[i] == key {
			(*p)[i+1] = value
			return
		}
	}
	*p = append(*p, key, value)
}

// Get returns nothing: propagators only write here.
func (*pairs) Get(string) string { return "" }

// Keys returns nothing.
func (*pairs) Keys() []string { return nil }

// arriving is incoming metadata that a propagator reads.
type arriving struct{ ctx context.Context }

// Get returns the last value of a key: who adds to metadata that is there
// already, as grpc-go's own tracing does, is nearer to the wire.
func (a arriving) Get(key string) string {
	if values := a.Values(key); len(values) > 0 {
		return values[len(values)-1]
	}
	return ""
}

// Values returns all values of a key, of which baggage may have several.
func (a arriving) Values(key string) []string { return metadata.ValueFromIncomingContext(a.ctx, key) }

// Set does nothing: propagators only read here.
func (arriving) Set(string, string) {}

// Keys returns the keys that there are.
func (a arriving) Keys() []string {
	md, _ := metadata.FromIncomingContext(a.ctx)
	return slices.Collect(maps.Keys(md))
}
