package harness

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hopbound/hopbound/interceptors"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// Traced returns an option that records spans, and their recorder.
func Traced(opts ...sdktrace.TracerProviderOption) (*tracetest.SpanRecorder, interceptors.Option) {
	recorder := tracetest.NewSpanRecorder()
	opts = append(opts, sdktrace.WithSpanProcessor(recorder))
	return recorder, interceptors.WithTracerProvider(sdktrace.NewTracerProvider(opts...))
}

// Tree writes spans as an indented tree, in the order in which they started, with their kind, status,
// attributes of Hopbound, and events. It leaves out what depends on the clock.
func Tree(spans []sdktrace.ReadOnlySpan) string {
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
		if strings.HasSuffix(key, "_ms") && key != "hopbound.backoff_ms" || slices.Contains([]string{"rpc.method", "rpc.system.name", "error.type", "server.address", "network.peer.address"}, key) {
			continue
		}
		out = append(out, strings.TrimPrefix(key, "hopbound.")+"="+kv.Value.String())
	}
	sort.Strings(out)
	return strings.Join(out, " ")
}

// Compare fails the test if two texts differ. Newlines at the start of want do not count.
func Compare(t *testing.T, got, want string) {
	t.Helper()
	want = strings.TrimLeft(want, "\n")
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// SpanCounter counts spans that have started and ended.
type SpanCounter struct{ Started, Ended atomic.Int64 }

// OnStart implements [sdktrace.SpanProcessor].
func (o *SpanCounter) OnStart(context.Context, sdktrace.ReadWriteSpan) { o.Started.Add(1) }

// OnEnd implements [sdktrace.SpanProcessor].
func (o *SpanCounter) OnEnd(sdktrace.ReadOnlySpan) { o.Ended.Add(1) }

// Shutdown implements [sdktrace.SpanProcessor].
func (o *SpanCounter) Shutdown(context.Context) error { return nil }

// ForceFlush implements [sdktrace.SpanProcessor].
func (o *SpanCounter) ForceFlush(context.Context) error { return nil }
