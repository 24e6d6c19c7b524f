package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/hopbound/hopbound/examples/internal/tree"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// showTrace sends one request through a chain whose last service is down, and
// prints its trace.
func showTrace(ctx context.Context, cfg *config, out io.Writer) (err error) {
	if !slices.Contains(cfg.stacks, hopbound) {
		return nil
	}
	recorder := tracetest.NewSpanRecorder()
	backend, err := newBackend(ctx, cfg.otlp)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, backend.shutdown(ctx)) }()
	traced := func(hop int) providers {
		name := fmt.Sprintf("service %d", hop)
		if hop == 0 {
			name = "the user"
		}
		opts := append(backend.traces(), sdktrace.WithSpanProcessor(recorder),
			sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", name))))
		return providers{traces: backend.register(sdktrace.NewTracerProvider(opts...))}
	}
	c, err := start(ctx, cfg, builder{stack: hopbound, attempts: cfg.attempts, providers: traced}, fault{fail: 1})
	if err != nil {
		return err
	}
	_ = c.request(ctx, cfg.timeout) // it fails, because the last service is down
	c.close()                       // waits for the handlers, so that all spans have ended
	if ctx.Err() != nil {
		return ctx.Err()
	}
	fmt.Fprint(out, "\nThe trace of one request while the last service is down:\n\n")
	return writeTree(out, recorder.Ended())
}

// writeTree prints the spans of a request as a tree.
func writeTree(out io.Writer, spans []sdktrace.ReadOnlySpan) error {
	if len(spans) == 0 {
		return errors.New("the request left no trace")
	}
	var all []*tree.Span
	for _, s := range spans {
		all = append(all, treeSpan(s))
	}
	_, err := tree.Write(out, all)
	return err
}

func treeSpan(s sdktrace.ReadOnlySpan) *tree.Span {
	t := &tree.Span{
		ID: s.SpanContext().SpanID().String(), Name: s.Name(), Service: service(s), Began: s.StartTime(), Ended: s.EndTime(),
		Failed: s.Status().Code == codes.Error, Attributes: values(s.Attributes()),
	}
	if s.Parent().SpanID().IsValid() {
		t.Parent = s.Parent().SpanID().String()
	}
	switch s.SpanKind() {
	case trace.SpanKindClient:
		t.Kind = tree.Client
	case trace.SpanKindServer:
		t.Kind = tree.Server
	default:
	}
	for _, e := range s.Events() {
		t.Events = append(t.Events, tree.Event{Name: e.Name, At: e.Time, Attributes: values(e.Attributes)})
	}
	return t
}

func service(s sdktrace.ReadOnlySpan) string {
	name, _ := values(s.Resource().Attributes())["service.name"].(string)
	return name
}

func values(kvs []attribute.KeyValue) map[string]any {
	out := make(map[string]any, len(kvs))
	for _, kv := range kvs {
		out[string(kv.Key)] = kv.Value.AsInterface()
	}
	return out
}
