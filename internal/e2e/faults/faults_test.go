package faults_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/fault"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newFaults(t testing.TB, rule fault.Rule, opts ...fault.Option) *fault.Faults {
	t.Helper()
	if rule.Share == 0 {
		rule.Share = 1
	}
	rule.Name = "test"
	f, err := fault.New([]fault.Rule{rule}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Enable(); err != nil {
		t.Fatal(err)
	}
	return f
}

// A write whose replies are lost is retried with its key, and made once.
func TestWriteWithLostRepliesIsMadeOnce(t *testing.T) {
	t.Parallel()
	writes := &harness.Counter{}
	n := harness.Serve(t, writes.Handle, harness.NewServer(t, interceptors.WithIdempotency(idempotency.NewMemory())).ServerOptions()...)
	f := newFaults(t, fault.Rule{LoseReply: true, Share: 0.5}, fault.Seed(1))
	write := harness.Write(n.Dial(append(harness.NewClient(t, harness.FastRetryUpTo(10)).DialOptions(), f.DialOptions()...)...))
	for range 20 {
		key := interceptors.UseKey(idempotency.NewKey())
		for err := write(t.Context(), key); err != nil; err = write(t.Context(), key) { // as an application repeats it
			harness.WantError(t, err, codes.Unavailable, "")
		}
	}
	if got := writes.Calls.Load(); got != 20 {
		t.Errorf("%d writes", got)
	}
}

// An attempt whose reply is lost has the lent tokens counted as used, as with a broken connection.
func TestLostReplyCostsWhatWasLent(t *testing.T) {
	t.Parallel()
	leaf := &harness.Counter{}
	n := harness.Serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...)
	f := newFaults(t, fault.Rule{LoseReply: true})
	var trailer metadata.MD
	call := harness.Idempotent(n.Dial(append(harness.NewClient(t, harness.FastRetryUpTo(20)).DialOptions(), f.DialOptions()...)...))
	harness.WantError(t, call(t.Context(), grpc.Trailer(&trailer)), codes.Unavailable, "")
	if got := leaf.Calls.Load(); got > 6 || got < 2 || len(trailer) > 0 {
		t.Errorf("%d attempts, and the trailer is %v", got, trailer)
	}
}

// However wrong the clock of a client is, no call is rejected that gRPC alone would have served.
func TestWrongClocksRejectNoCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		leaf := &harness.Counter{}
		n := harness.Serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...)
		var f *fault.Faults
		for _, skew := range []time.Duration{time.Hour, -time.Hour, -80 * 365 * 24 * time.Hour, 200 * 365 * 24 * time.Hour} {
			f = newFaults(t, fault.Rule{ClockSkew: skew})
			call := harness.Idempotent(n.Dial(append(harness.NewClient(t).DialOptions(), f.DialOptions()...)...))
			for range 10 {
				if err := harness.Within(t, call, time.Second); err != nil {
					t.Errorf("with a skew of %v: %v", skew, err)
				}
				time.Sleep(20 * time.Second)
			}
		}
	})
}

// The guard of a request reaches a service two hops below, and selects only this request.
func TestGuardReachesServicesBelow(t *testing.T) {
	t.Parallel()
	f := newFaults(t, fault.Rule{Guard: "secret", Code: codes.Internal})
	off := newFaults(t, fault.Rule{Guard: "other", Code: codes.Internal})
	leaf := harness.Serve(t, (&harness.Counter{}).Handle, append(harness.NewServer(t).ServerOptions(), f.ServerOptions()...)...)
	middle := harness.Idempotent(leaf.Dial(append(harness.NewClient(t).DialOptions(), off.DialOptions()...)...))
	hop := harness.Serve(t, func(ctx context.Context) error { return middle(ctx) }, append(harness.NewServer(t).ServerOptions(), off.ServerOptions()...)...)
	call := harness.Idempotent(hop.Dial(harness.NewClient(t).DialOptions()...))
	if err := call(t.Context()); err != nil {
		t.Error(err)
	}
	harness.WantError(t, call(metadata.AppendToOutgoingContext(t.Context(), fault.Header, "secret")), codes.Internal, "")
}

// Each fault is an event on the span of what it has hit, and is counted.
func TestFaultsAreLabelled(t *testing.T) {
	t.Parallel()
	for kind, rule := range map[string]fault.Rule{
		"latency":    {Latency: time.Microsecond},
		"error":      {Code: codes.Internal},
		"lost_reply": {LoseReply: true},
		"clock_skew": {ClockSkew: time.Second},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			recorder, reader := tracetest.NewSpanRecorder(), metric.NewManualReader()
			traces := interceptors.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)))
			f := newFaults(t, rule, fault.WithMeterProvider(metric.NewMeterProvider(metric.WithReader(reader))))
			n := harness.Serve(t, (&harness.Counter{}).Handle)
			call := harness.Idempotent(n.Dial(append(harness.NewClient(t, traces).DialOptions(), f.DialOptions()...)...))
			f.Disable()
			_ = call(t.Context()) // from here on, attempts have spans of their own
			if err := f.Enable(); err != nil {
				t.Fatal(err)
			}
			_ = call(t.Context(), interceptors.NoRetry())
			var labelled []string
			for _, s := range recorder.Ended() {
				for _, e := range s.Events() {
					if e.Name == "hopbound.fault" {
						labelled = append(labelled, s.Name()+" "+e.Attributes[0].Value.AsString()+" "+e.Attributes[1].Value.AsString())
					}
				}
			}
			if len(labelled) != 1 || !strings.HasSuffix(labelled[0], "/Idempotent test "+kind) || strings.HasPrefix(labelled[0], "hopbound.call") {
				t.Errorf("labelled are %v", labelled)
			}
			if got := slices.Collect(maps.Keys(harness.Sums(t, reader, "hopbound.fault.injected"))); !slices.Equal(got, []string{"hopbound.fault.kind=" + kind + ",hopbound.fault.rule=test"}) {
				t.Errorf("counted %v", got)
			}
		})
	}
}
