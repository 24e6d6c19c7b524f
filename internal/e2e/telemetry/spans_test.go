package telemetry_test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
)

var update = flag.Bool("update", false, "write the golden files of spans")

// TestSpansAreThoseOfTheGoldenFiles compares all that is exported of some calls
// with testdata/spans: names, kinds, parents, times, attributes, events and
// status. Time is virtual, so that all of it is the same each time.
func TestSpansAreThoseOfTheGoldenFiles(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(t *testing.T, spans interceptors.Option){
		"success":            leafSpans(harness.FailFirst(0)),
		"retry_then_success": leafSpans(harness.FailFirst(1)),
		"exhausted":          leafSpans(harness.FailFirst(9)),
		"budget_empty":       leafSpans(harness.FailFirst(9), interceptors.WithBudget(harness.FixedBudget(budget.PerRequest(1), budget.Burst(2)))),
		"marked":             markedSpans,
		"deadline":           deadlineSpans,
		"hedged":             hedgedSpans,
		"idempotency":        keyedSpans,
		"stream":             streamSpans,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				recorder, spans := harness.Traced()
				run(t, spans)
				synctest.Wait()
				golden(t, name, whole(recorder.Ended()))
			})
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "spans", name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// whole writes spans as a tree, with all that there is to them.
func whole(spans []sdktrace.ReadOnlySpan) string {
	children := map[trace.SpanID][]sdktrace.ReadOnlySpan{}
	var began time.Time
	for _, s := range spans {
		children[s.Parent().SpanID()] = append(children[s.Parent().SpanID()], s)
		if began.IsZero() || s.StartTime().Before(began) {
			began = s.StartTime()
		}
	}
	var b strings.Builder
	written := 0
	var walk func(parent trace.SpanID, indent string)
	walk = func(parent trace.SpanID, indent string) {
		slices.SortFunc(children[parent], func(a, b sdktrace.ReadOnlySpan) int {
			return cmp.Or(a.StartTime().Compare(b.StartTime()), cmp.Compare(attemptOf(a), attemptOf(b)))
		})
		for _, s := range children[parent] {
			written++
			fmt.Fprintf(&b, "%s%s [%v] from %v for %v, status %v %q\n", indent, s.Name(), s.SpanKind(),
				s.StartTime().Sub(began), s.EndTime().Sub(s.StartTime()), s.Status().Code, s.Status().Description)
			writeAttributes(&b, indent+"  - ", s.Attributes())
			for _, e := range s.Events() {
				fmt.Fprintf(&b, "%s  * %s at %v\n", indent, e.Name, e.Time.Sub(began))
				writeAttributes(&b, indent+"      - ", e.Attributes)
			}
			walk(s.SpanContext().SpanID(), indent+"    ")
		}
	}
	walk(trace.SpanID{}, "")
	if written != len(spans) {
		fmt.Fprintf(&b, "%d spans have a parent that was not exported\n", len(spans)-written)
	}
	return b.String()
}

func attemptOf(s sdktrace.ReadOnlySpan) int64 {
	for _, kv := range s.Attributes() {
		if kv.Key == "hopbound.attempt" {
			return kv.Value.AsInt64()
		}
	}
	return 0
}

func writeAttributes(b *strings.Builder, indent string, kvs []attribute.KeyValue) {
	set := attribute.NewSet(kvs...)
	for _, kv := range set.ToSlice() {
		fmt.Fprintf(b, "%s%s = %v\n", indent, kv.Key, kv.Value.String())
	}
}

// leafSpans calls a leaf that fails as it is told, and takes a millisecond.
func leafSpans(fail func(int64) error, opts ...interceptors.ClientOption) func(*testing.T, interceptors.Option) {
	return func(t *testing.T, spans interceptors.Option) {
		t.Helper()
		leaf := &harness.Counter{Fail: fail}
		n := harness.Serve(t, func(ctx context.Context) error {
			time.Sleep(ms)
			return leaf.Handle(ctx)
		}, harness.NewServer(t, spans).ServerOptions()...)
		_ = harness.Within(t, harness.Idempotent(n.Dial(harness.NewClient(t, append(opts, harness.FixedBackoff(), spans)...).DialOptions()...)), time.Second)
	}
}

// markedSpans calls a hop that calls a leaf which is down.
func markedSpans(t *testing.T, spans interceptors.Option) {
	t.Helper()
	leaf := &harness.Counter{Fail: harness.FailFirst(9)}
	n := harness.Serve(t, leaf.Handle, harness.NewServer(t, spans).ServerOptions()...)
	down := harness.Idempotent(n.Dial(harness.NewClient(t, harness.FixedBackoff(), spans).DialOptions()...))
	n = harness.Serve(t, func(ctx context.Context) error { return down(ctx) }, harness.NewServer(t, spans).ServerOptions()...)
	_ = harness.Within(t, harness.Idempotent(n.Dial(harness.NewClient(t, harness.FixedBackoff(), spans).DialOptions()...)), time.Second)
}

// deadlineSpans calls a leaf that fails when there is no time left for another
// pause, and then one with no time at all.
func deadlineSpans(t *testing.T, spans interceptors.Option) {
	t.Helper()
	n := harness.Serve(t, (&harness.Counter{Fail: harness.FailFirst(9)}).Handle, harness.NewServer(t, spans).ServerOptions()...)
	do := harness.Idempotent(n.Dial(harness.NewClient(t, harness.FixedBackoff(), spans).DialOptions()...))
	_ = harness.Within(t, do, 4*ms)
	_ = harness.Within(t, do, -ms)
}

// hedgedSpans calls a leaf that is slow the first time.
func hedgedSpans(t *testing.T, spans interceptors.Option) {
	t.Helper()
	var calls atomic.Int64
	n := harness.Serve(t, func(ctx context.Context) error {
		if calls.Add(1) == 1 {
			<-ctx.Done()
			return ctx.Err()
		}
		time.Sleep(ms)
		return nil
	}, harness.NewServer(t, spans).ServerOptions()...)
	client := harness.NewClient(t, harness.Hedging(interceptors.HedgePolicy{MaxAttempts: 2, Delay: 10 * ms}), spans)
	_ = harness.Within(t, harness.Idempotent(n.Dial(client.DialOptions()...)), time.Second)
}

// keyedSpans pays once, joins that, and asks for it again.
func keyedSpans(t *testing.T, spans interceptors.Option) {
	t.Helper()
	b := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error {
		time.Sleep(20 * ms)
		return nil
	}}
	n := b.OpenWith(t, interceptors.WithIdempotency(idempotency.NewMemory()), spans)
	c := testv1.NewTestServiceClient(n.Dial(harness.NewClient(t, spans).DialOptions()...))
	pay := func() { _, _ = c.Pay(idempotency.WithKey(t.Context(), "an order"), harness.Rent()) }
	done := make(chan struct{})
	go func() {
		defer close(done)
		pay()
	}()
	time.Sleep(5 * ms)
	pay()
	<-done
	time.Sleep(5 * ms)
	pay()
}

// streamSpans watches a stream that fails once before its first message and then
// after its second.
func streamSpans(t *testing.T, spans interceptors.Option) {
	t.Helper()
	var calls atomic.Int64
	n := harness.ServeStreams(t, func(s harness.Side, _ grpc.ServerStream) error {
		if calls.Add(1) == 1 {
			return harness.ErrUnavailable
		}
		for range 2 {
			_ = s.Send("news")
			time.Sleep(ms)
		}
		return harness.ErrUnavailable
	}, harness.NewServer(t, spans).ServerOptions()...)
	client := harness.NewClient(t, harness.FixedBackoff(), spans)
	_, _ = harness.Kinds()[0].Exchange(t.Context(), n.Dial(client.DialOptions()...), []string{"news"})
}
