package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
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
	defer func() {
		if shut := backend.shutdown(ctx); shut != nil {
			err = errors.Join(err, fmt.Errorf("-otlp %s: %w", cfg.otlp, shut))
		}
	}()
	traced := func(hop int) providers {
		name := fmt.Sprintf("service %d", hop)
		if hop == 0 {
			name = "the user"
		}
		opts := append(backend.traces(), sdktrace.WithSpanProcessor(recorder),
			sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", name))))
		return providers{traces: backend.keep(sdktrace.NewTracerProvider(opts...))}
	}
	c, err := start(ctx, cfg, builder{stack: hopbound, attempts: cfg.attempts, providers: traced}, fault{fail: 1})
	if err != nil {
		return err
	}
	_ = c.request(ctx, cfg.timeout) // it fails, which is what there is to see
	c.close()                       // waits for the handlers, so that all spans have ended
	if ctx.Err() != nil {
		return ctx.Err()
	}
	fmt.Fprint(out, "\nOne request while the last service is down, as its trace shows it:\n\n")
	return writeTree(out, recorder.Ended())
}

// writeTree prints the spans of a request as a tree.
func writeTree(out io.Writer, spans []sdktrace.ReadOnlySpan) error {
	if len(spans) == 0 {
		return errors.New("the request left no trace")
	}
	t := &tree{children: map[trace.SpanID][]sdktrace.ReadOnlySpan{}}
	for _, s := range spans {
		t.children[s.Parent().SpanID()] = append(t.children[s.Parent().SpanID()], s)
	}
	t.walk(trace.SpanID{}, "")
	_, err := io.WriteString(out, t.text.String())
	return err
}

type tree struct {
	children map[trace.SpanID][]sdktrace.ReadOnlySpan
	text     strings.Builder
}

// walk prints the spans below a parent, in the order in which they began, and
// the pauses of a call between its attempts.
func (t *tree) walk(parent trace.SpanID, indent string) {
	spans := t.children[parent]
	slices.SortFunc(spans, func(a, b sdktrace.ReadOnlySpan) int { return a.StartTime().Compare(b.StartTime()) })
	for _, s := range spans {
		fmt.Fprintf(&t.text, "%s%s\n", indent, line(s))
		if s.SpanKind() != trace.SpanKindInternal {
			t.walk(s.SpanContext().SpanID(), indent+"  ")
			continue
		}
		t.walkCall(s, indent+"  ")
	}
}

// walkCall prints the attempts of a call with the pauses where they were.
func (t *tree) walkCall(call sdktrace.ReadOnlySpan, indent string) {
	attempts := t.children[call.SpanContext().SpanID()]
	slices.SortFunc(attempts, func(a, b sdktrace.ReadOnlySpan) int { return a.StartTime().Compare(b.StartTime()) })
	events := call.Events()
	for _, a := range attempts {
		for len(events) > 0 && events[0].Time.Before(a.StartTime()) {
			e := attributes(events[0].Attributes)
			fmt.Fprintf(&t.text, "%s%s of %.2f ms after %s\n", indent, e["hopbound.reason"].AsString(),
				e["hopbound.backoff_ms"].AsFloat64(), e["rpc.response.status_code"].AsString())
			events = events[1:]
		}
		fmt.Fprintf(&t.text, "%s%s\n", indent, line(a))
		t.walk(a.SpanContext().SpanID(), indent+"  ")
	}
}

// line is what there is to say of a span.
func line(s sdktrace.ReadOnlySpan) string {
	a := attributes(s.Attributes())
	took := s.EndTime().Sub(s.StartTime()).Round(10 * time.Microsecond)
	code := cmp.Or(a["rpc.response.status_code"].AsString(), "?")
	left := time.Duration(a["hopbound.deadline.remaining_ms"].AsFloat64() * float64(time.Millisecond)).Round(time.Millisecond)
	used := plural(a["hopbound.budget.used"].AsInt64(), "token")
	switch s.SpanKind() {
	case trace.SpanKindClient:
		return fmt.Sprintf("attempt %d: %s, %s after %v; leased %s, %s used below; %v left",
			a["hopbound.attempt"].AsInt64(), a["hopbound.decision"].AsString(), code, took,
			plural(a["hopbound.budget.leased"].AsInt64(), "token"), used, left)
	case trace.SpanKindServer:
		return fmt.Sprintf("%s: %s after %v; %s used here and below; %v left", service(s), code, took, used, left)
	default:
		return fmt.Sprintf("call of %s: %s, %s after %s and %v",
			service(s), a["hopbound.decision"].AsString(), code, plural(a["hopbound.attempts"].AsInt64(), "attempt"), took)
	}
}

func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func service(s sdktrace.ReadOnlySpan) string {
	return attributes(s.Resource().Attributes())["service.name"].AsString()
}

func attributes(kvs []attribute.KeyValue) map[attribute.Key]attribute.Value {
	out := make(map[attribute.Key]attribute.Value, len(kvs))
	for _, kv := range kvs {
		out[kv.Key] = kv.Value
	}
	return out
}
