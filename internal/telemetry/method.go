package telemetry

import (
	"sync/atomic"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// Method is a method in traces and metrics.
type Method struct {
	Name  string // service/method
	spans *spanOptions
	known atomic.Bool // registered or configured, so that metrics may name it
}

// other is how metrics name all methods that are neither registered nor configured, whose names
// callers may make up (gRFC A66), and all unknown targets and codes.
const other = "other"

func newMethod(t *tracing, name string, known bool) *Method {
	m := &Method{Name: name, spans: t.options(name)}
	m.known.Store(known)
	return m
}

// Label returns the method's name in metrics.
func (m *Method) Label() string {
	if m.known.Load() {
		return m.Name
	}
	return other
}

// Register records that the program was built with the method, so that metrics may name it.
func (m *Method) Register() {
	if !m.known.Load() {
		m.known.Store(true)
	}
}

// spanOptions are what the spans of a method start with. They are made once, so that a call that
// is not sampled does not pay for them.
type spanOptions struct {
	callName               string
	call, client, internal []trace.SpanStartOption
	server, edge           []trace.SpanStartOption
}

// options returns what the spans of a method start with.
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
