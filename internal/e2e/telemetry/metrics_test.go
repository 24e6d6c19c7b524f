package telemetry_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

func TestMetricsOfACallThatIsRetried(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reader, meter := harness.Metered()
		leaf := &harness.Counter{Fail: harness.FailFirst(1)}
		n := harness.Serve(t, leaf.Handle, harness.NewServer(t, meter).ServerOptions()...)
		b := budget.New(budget.Name("shop"), budget.MinPerSecond(0))
		if err := harness.Within(t, harness.Idempotent(n.Dial(harness.NewClient(t, harness.FixedBackoff(), meter, interceptors.WithBudget(b)).DialOptions()...)), time.Second); err != nil {
			t.Fatal(err)
		}
		harness.Compare(t, harness.Collected(t, reader), `
grpc.client.attempt.duration s {grpc.method=Idempotent,grpc.status=OK,grpc.target=passthrough:///node} 1 of 0
grpc.client.attempt.duration s {grpc.method=Idempotent,grpc.status=UNAVAILABLE,grpc.target=passthrough:///node} 1 of 0
grpc.client.attempt.started {attempt} {grpc.method=Idempotent,grpc.target=passthrough:///node} 2
grpc.client.call.duration s {grpc.method=Idempotent,grpc.status=OK,grpc.target=passthrough:///node} 1 of 0.005
grpc.client.call.retries {retry} {grpc.method=Idempotent,grpc.target=passthrough:///node} 1 of 1
grpc.client.call.retry_delay s {grpc.method=Idempotent} 1 of 0.005
grpc.server.call.duration s {grpc.method=Idempotent,grpc.status=OK} 1 of 0
grpc.server.call.duration s {grpc.method=Idempotent,grpc.status=UNAVAILABLE} 1 of 0
hopbound.budget.balance {token} {grpc.target=passthrough:///node,hopbound.budget=shop,hopbound.mode=enforce} 2.2
hopbound.client.attempts {attempt} {grpc.target=passthrough:///node,hopbound.decision=done,hopbound.mode=enforce,hopbound.reached=true} 1
hopbound.client.attempts {attempt} {grpc.target=passthrough:///node,hopbound.decision=retried,hopbound.mode=enforce,hopbound.reached=true} 1
hopbound.client.calls {call} {grpc.status=OK,grpc.target=passthrough:///node,hopbound.mode=enforce,hopbound.root=true} 1
hopbound.client.decisions {attempt} {grpc.method=Idempotent,hopbound.decision=done,hopbound.mode=enforce} 1
hopbound.client.decisions {attempt} {grpc.method=Idempotent,hopbound.decision=retried,hopbound.mode=enforce} 1
hopbound.client.roots {call} {grpc.method=Idempotent} 1
hopbound.server.calls {call} {grpc.method=Idempotent,grpc.status=OK,hopbound.mode=enforce,hopbound.root=false} 1
hopbound.server.calls {call} {grpc.method=Idempotent,grpc.status=UNAVAILABLE,hopbound.mode=enforce,hopbound.root=false} 1
hopbound.server.deadline.headroom s {grpc.method=Idempotent} 2 of 1.995
hopbound.server.forgotten_clocks {clock} {} 0
`)
	})
}

func TestMetricsOfAHedgeAndOfWastedWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reader, meter := harness.Metered()
		n := harness.Serve(t, func(context.Context) error {
			time.Sleep(30 * ms) // whatever its caller has said
			return nil
		}, harness.NewServer(t, meter).ServerOptions()...)
		client := harness.NewClient(t, harness.Hedging(interceptors.HedgePolicy{MaxAttempts: 2, Delay: 10 * ms}), meter)
		_ = harness.Within(t, harness.Idempotent(n.Dial(client.DialOptions()...)), 20*ms)
		time.Sleep(time.Minute)
		got := harness.Collected(t, reader)
		for _, want := range []string{
			"grpc.client.call.hedges {hedge} {grpc.method=Idempotent,grpc.target=passthrough:///node} 1 of 1\n",
			"hopbound.client.calls {call} {grpc.status=DEADLINE_EXCEEDED,grpc.target=passthrough:///node,hopbound.mode=enforce,hopbound.root=true} 1\n",
			// Both handlers return a success, which nobody gets.
			"hopbound.server.calls {call} {grpc.method=Idempotent,grpc.status=DEADLINE_EXCEEDED,hopbound.mode=enforce,hopbound.root=false} 2\n",
			"hopbound.server.wasted s {grpc.method=Idempotent} 0.03\n", // of the first 10 ms, and of the second 20
			"hopbound.server.deadline.headroom s {grpc.method=Idempotent} 2 of 0.03\n",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in\n%s", want, got)
			}
		}
	})
}

// namedPolicies are policies that may change, with a name.
type namedPolicies struct{}

func (namedPolicies) ForMethod(string) interceptors.Policy { return interceptors.Policy{} }

func (namedPolicies) MethodPolicies() interceptors.MethodPolicies {
	return interceptors.MethodPolicies{"/file.Service/Method": {}, "/file.Service/": {}}
}

// Names of methods are labels only if the program is made with them: a client that
// calls any name, and a server that takes any, have one series for all of them.
func TestNamesOfUnknownMethodsAreNoLabels(t *testing.T) {
	t.Parallel()
	clients, clientMeter := harness.Metered()
	servers, serverMeter := harness.Metered()
	n := harness.NewNode(t, append(harness.NewServer(t, serverMeter).ServerOptions(),
		grpc.UnknownServiceHandler(func(_ any, ss grpc.ServerStream) error {
			if err := ss.RecvMsg(&emptypb.Empty{}); err != nil {
				return err
			}
			return ss.SendMsg(&emptypb.Empty{})
		}))...)
	testv1.RegisterTestServiceServer(n.Server, harness.Service{Handle: func(context.Context) error { return nil }})
	n.Start()
	cc := n.Dial(harness.NewClient(t, clientMeter, interceptors.WithPolicy(interceptors.MethodPolicies{
		"/named.Service/Method": {Timeout: time.Minute}, "/named.Service/": {}, "": {},
	})).DialOptions()...)
	call := func(method string, opts ...grpc.CallOption) {
		t.Helper()
		if err := cc.Invoke(t.Context(), method, &emptypb.Empty{}, &emptypb.Empty{}, opts...); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		call(fmt.Sprintf("/unknown.Service/Method%d", i))
	}
	call("/named.Service/Method")
	dynamic := n.Dial(harness.NewClient(t, clientMeter, interceptors.WithPolicy(namedPolicies{})).DialOptions()...)
	for _, method := range []string{"/file.Service/Method", "/file.Service/Other"} {
		if err := dynamic.Invoke(t.Context(), method, &emptypb.Empty{}, &emptypb.Empty{}); err != nil {
			t.Fatal(err)
		}
	}
	call("/generated.Service/Method", grpc.StaticMethod())
	call("/hopbound.test.v1.TestService/Idempotent")
	const client = "grpc.client.attempt.started {attempt} {grpc.method=%s,grpc.target=passthrough:///node} %d\n"
	got := harness.Collected(t, clients)
	for name, n := range map[string]int{"other": 21, "named.Service/Method": 1, "file.Service/Method": 1, "generated.Service/Method": 1, "Idempotent": 1} {
		if want := fmt.Sprintf(client, name, n); !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	const server = "hopbound.server.calls {call} {grpc.method=%s,grpc.status=OK,hopbound.mode=enforce,hopbound.root=false} %d\n"
	got = harness.Collected(t, servers)
	for name, n := range map[string]int{"other": 24, "Idempotent": 1} {
		if want := fmt.Sprintf(server, name, n); !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "unknown.Service") || strings.Contains(harness.Collected(t, clients), "unknown.Service") {
		t.Error("a name that anybody may choose is a label")
	}
}

func TestMeasurementsLeadToTraces(t *testing.T) {
	t.Parallel()
	reader, meter := harness.Metered()
	recorder, spans := harness.Traced()
	leaf := &harness.Counter{Fail: harness.FailFirst(1)}
	n := harness.Serve(t, leaf.Handle, harness.NewServer(t, meter, spans).ServerOptions()...)
	if err := harness.Within(t, harness.Idempotent(n.Dial(harness.NewClient(t, harness.FixedBackoff(), meter, spans).DialOptions()...)), time.Minute); err != nil {
		t.Fatal(err)
	}
	trace := recorder.Ended()[0].SpanContext().TraceID()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	linked := map[string]bool{}
	for _, s := range all.ScopeMetrics {
		for _, m := range s.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					for _, e := range p.Exemplars {
						linked[m.Name] = linked[m.Name] || string(e.TraceID) == string(trace[:])
					}
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					for _, e := range p.Exemplars {
						linked[m.Name] = linked[m.Name] || string(e.TraceID) == string(trace[:])
					}
				}
			}
		}
	}
	for _, name := range []string{"hopbound.client.calls", "hopbound.client.attempts", "hopbound.client.decisions", "grpc.client.call.duration", "grpc.client.attempt.duration", "grpc.server.call.duration", "hopbound.server.calls", "hopbound.server.deadline.headroom", "grpc.client.call.retry_delay"} {
		if !linked[name] {
			t.Errorf("%s has no exemplar of the trace", name)
		}
	}
}

// A client that is garbage is not asked for its balance any more, nor kept.
func TestBalancesAreObservedAsLongAsTheirClient(t *testing.T) {
	t.Parallel()
	reader, meter := harness.Metered()
	n := harness.Serve(t, func(context.Context) error { return nil })
	func() {
		client := harness.NewClient(t, meter)
		cc, err := grpc.NewClient(harness.Target, append(client.DialOptions(), n.Dialer()...)...)
		if err != nil {
			t.Fatal(err)
		}
		if err := harness.Idempotent(cc)(t.Context()); err != nil {
			t.Fatal(err)
		}
		_ = cc.Close()
		for range 10 { // it stays as long as the client does
			runtime.GC()
			const want = "hopbound.budget.balance {token} {grpc.target=passthrough:///node,hopbound.budget=default,hopbound.mode=enforce} 3\n"
			if got := harness.Collected(t, reader); !strings.Contains(got, want) {
				t.Fatal(got)
			}
		}
		runtime.KeepAlive(client)
	}()
	for strings.Contains(harness.Collected(t, reader), "hopbound.budget.balance") { // or the test times out
		runtime.GC()
		time.Sleep(time.Millisecond) // for the cleanup, which has a goroutine of its own
	}
}

// The buckets of headroom are narrow where deadlines are: a percentile that Prometheus estimates from them
// is off by at most a quarter.
func TestBucketsOfHeadroomFitDeadlines(t *testing.T) {
	t.Parallel()
	for _, deadline := range []time.Duration{
		50 * ms, 100 * ms, 200 * ms, 250 * ms, 500 * ms, time.Second, 1500 * ms, 2 * time.Second, 3 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
	} {
		synctest.Test(t, func(t *testing.T) {
			reader, meter := harness.Metered()
			n := harness.Serve(t, func(context.Context) error { return nil }, harness.NewServer(t, meter).ServerOptions()...)
			do := harness.Idempotent(n.Dial(harness.NewClient(t).DialOptions()...))
			if err := harness.Within(t, do, deadline-deadline/200); err != nil {
				t.Fatal(err)
			}
			var all metricdata.ResourceMetrics
			if err := reader.Collect(t.Context(), &all); err != nil {
				t.Fatal(err)
			}
			for _, scope := range all.ScopeMetrics {
				for _, m := range scope.Metrics {
					h, ok := m.Data.(metricdata.Histogram[float64])
					if !ok || m.Name != "hopbound.server.deadline.headroom" {
						continue
					}
					i := slices.IndexFunc(h.DataPoints[0].BucketCounts, func(n uint64) bool { return n > 0 })
					lower, upper := h.DataPoints[0].Bounds[i-1], h.DataPoints[0].Bounds[i]
					if left := h.DataPoints[0].Sum; left-lower > left/4 || upper-lower > left/4 {
						t.Errorf("%v is estimated between %v and %v s", deadline, lower, upper)
					}
				}
			}
		})
	}
}
