package telemetry

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hopbound/hopbound/internal/hoperr"
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

// tracing makes spans. It is nil if there is no tracer provider.
type tracing struct {
	tracer      trace.Tracer
	propagators propagation.TextMapPropagator
}

func newTracing(s *Settings) *tracing {
	if s.Tracers == nil {
		return nil
	}
	t := &tracing{
		tracer:      s.Tracers.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL)),
		propagators: s.Propagators,
	}
	if t.propagators == nil {
		t.propagators = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	}
	return t
}

// endSpan ends a span with the status of its call.
func endSpan(span trace.Span, err error, observe bool, failed func(codes.Code) bool, opts ...trace.SpanEndOption) {
	code := hoperr.Code(err)
	span.SetAttributes(semconv.RPCResponseStatusCode(codeName(code)))
	if observe {
		span.SetAttributes(attrMode.String(modeName(true)))
	}
	if failed(code) {
		span.SetAttributes(semconv.ErrorTypeKey.String(codeName(code)))
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

// Millis returns a duration in milliseconds.
func Millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// context returns the metadata that carries the trace. If a stats handler sends a W3C trace context of its
// own, none is added, because receivers may take either of two values.
func (t *tracing) context(ctx context.Context, sends bool) []string {
	if t == nil {
		return nil
	}
	kv := make(pairs, 0, 4)
	t.propagators.Inject(ctx, &kv)
	if sends {
		for i := len(kv) - 2; i >= 0; i -= 2 {
			if kv[i] == "traceparent" || kv[i] == "tracestate" {
				kv = slices.Delete(kv, i, i+2)
			}
		}
	}
	return kv
}

// pairs is what a propagator writes to: keys, each followed by its value.
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

// Get returns nothing: propagators only write to pairs.
func (*pairs) Get(string) string { return "" }

// Keys returns nothing.
func (*pairs) Keys() []string { return nil }

// incomingMetadata is what a propagator reads.
type incomingMetadata struct{ ctx context.Context }

// Get returns the last value of a key: whoever adds a value to existing metadata, as grpc-go's
// own tracing does, is nearer to the wire.
func (a incomingMetadata) Get(key string) string {
	if values := a.Values(key); len(values) > 0 {
		return values[len(values)-1]
	}
	return ""
}

// Values returns all values of a key, of which baggage may have several.
func (a incomingMetadata) Values(key string) []string {
	return metadata.ValueFromIncomingContext(a.ctx, key)
}

// Set does nothing: propagators only read incoming metadata.
func (incomingMetadata) Set(string, string) {}

// Keys returns the keys of the metadata.
func (a incomingMetadata) Keys() []string {
	md, _ := metadata.FromIncomingContext(a.ctx)
	return slices.Collect(maps.Keys(md))
}
