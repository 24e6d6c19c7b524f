package interceptors_test

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// collected returns all that a reader has, a line for each series, sorted.
func collected(t *testing.T, reader *sdkmetric.ManualReader) string {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		t.Fatal(err)
	}
	var lines []string
	add := func(name, unit string, set attribute.Set, value any) {
		encoded := set.Encoded(attribute.DefaultEncoder())
		encoded = strings.ReplaceAll(encoded, "hopbound.test.v1.TestService/", "")
		lines = append(lines, fmt.Sprintf("%s %s {%s} %v", name, unit, encoded, value))
	}
	for _, s := range all.ScopeMetrics {
		for _, m := range s.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					add(m.Name, m.Unit, p.Attributes, p.Value)
				}
			case metricdata.Sum[float64]:
				for _, p := range data.DataPoints {
					add(m.Name, m.Unit, p.Attributes, p.Value)
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					add(m.Name, m.Unit, p.Attributes, p.Value)
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					add(m.Name, m.Unit, p.Attributes, math.Round(p.Value*1000)/1000)
				}
			case metricdata.Histogram[int64]:
				for _, p := range data.DataPoints {
					add(m.Name, m.Unit, p.Attributes, fmt.Sprint(p.Count, " of ", p.Sum))
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					add(m.Name, m.Unit, p.Attributes, fmt.Sprint(p.Count, " of ", p.Sum))
				}
			default:
				t.Fatalf("%s is a %T", m.Name, m.Data)
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

func TestMetricsOfACallThatIsRetried(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reader, meter := metered()
		leaf := &counter{fail: failing(1)}
		n := serve(t, leaf.handle, newServer(t, meter).ServerOptions()...)
		b := budget.New(budget.Name("shop"), budget.MinPerSecond(0))
		if err := within(t, idempotent(n.dial(newClient(t, paused(), meter, interceptors.WithBudget(b)).DialOptions()...)), time.Second); err != nil {
			t.Fatal(err)
		}
		compare(t, collected(t, reader), `
grpc.client.call.retries {retry} {grpc.method=Idempotent,grpc.target=passthrough:///node} 1 of 1
grpc.client.call.retry_delay s {grpc.method=Idempotent,grpc.target=passthrough:///node} 1 of 0.005
hopbound.budget.balance {token} {grpc.target=passthrough:///node,hopbound.budget=shop,hopbound.mode=enforce} 2.2
hopbound.client.attempts {attempt} {grpc.method=Idempotent,grpc.target=passthrough:///node,hopbound.decision=done,hopbound.mode=enforce} 1
hopbound.client.attempts {attempt} {grpc.method=Idempotent,grpc.target=passthrough:///node,hopbound.decision=retried,hopbound.mode=enforce} 1
hopbound.client.calls {call} {grpc.method=Idempotent,grpc.status=OK,grpc.target=passthrough:///node,hopbound.mode=enforce} 1
hopbound.client.roots {call} {grpc.method=Idempotent} 1
hopbound.server.calls {call} {grpc.method=Idempotent,grpc.status=OK,hopbound.mode=enforce} 1
hopbound.server.calls {call} {grpc.method=Idempotent,grpc.status=UNAVAILABLE,hopbound.mode=enforce} 1
hopbound.server.deadline.headroom s {grpc.method=Idempotent} 2 of 1.995
hopbound.server.forgotten_clocks {clock} {} 0
`)
	})
}

func TestMetricsOfAHedgeAndOfWorkForNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reader, meter := metered()
		n := serve(t, func(context.Context) error {
			time.Sleep(30 * ms) // whatever its caller has said
			return nil
		}, newServer(t, meter).ServerOptions()...)
		client := newClient(t, hedging(interceptors.HedgePolicy{MaxAttempts: 2, Delay: 10 * ms}), meter)
		_ = within(t, idempotent(n.dial(client.DialOptions()...)), 20*ms)
		time.Sleep(time.Minute)
		got := collected(t, reader)
		for _, want := range []string{
			"grpc.client.call.hedges {hedge} {grpc.method=Idempotent,grpc.target=passthrough:///node} 1 of 1\n",
			"hopbound.client.calls {call} {grpc.method=Idempotent,grpc.status=DEADLINE_EXCEEDED,grpc.target=passthrough:///node,hopbound.mode=enforce} 1\n",
			// Both handlers return a success, which nobody gets.
			"hopbound.server.calls {call} {grpc.method=Idempotent,grpc.status=DEADLINE_EXCEEDED,hopbound.mode=enforce} 2\n",
			"hopbound.server.wasted s {grpc.method=Idempotent} 0.03\n", // of the first 10 ms, and of the second 20
			"hopbound.server.deadline.headroom s {grpc.method=Idempotent} 2 of 0.03\n",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in\n%s", want, got)
			}
		}
	})
}

// Names of methods are labels only if the program is made with them: a client that
// calls any name, and a server that takes any, have one series for all of them.
func TestNamesOfUnknownMethodsAreNoLabels(t *testing.T) {
	t.Parallel()
	clients, clientMeter := metered()
	servers, serverMeter := metered()
	n := newNode(t, append(newServer(t, serverMeter).ServerOptions(),
		grpc.UnknownServiceHandler(func(_ any, ss grpc.ServerStream) error {
			if err := ss.RecvMsg(&emptypb.Empty{}); err != nil {
				return err
			}
			return ss.SendMsg(&emptypb.Empty{})
		}))...)
	testv1.RegisterTestServiceServer(n.server, service{handle: func(context.Context) error { return nil }})
	n.start()
	cc := n.dial(newClient(t, clientMeter, interceptors.WithPolicy(interceptors.MethodPolicies{
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
	call("/generated.Service/Method", grpc.StaticMethod())
	call("/hopbound.test.v1.TestService/Idempotent")
	const client = "hopbound.client.calls {call} {grpc.method=%s,grpc.status=OK,grpc.target=passthrough:///node,hopbound.mode=enforce} %d\n"
	got := collected(t, clients)
	for name, n := range map[string]int{"other": 20, "named.Service/Method": 1, "generated.Service/Method": 1, "Idempotent": 1} {
		if want := fmt.Sprintf(client, name, n); !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	const server = "hopbound.server.calls {call} {grpc.method=%s,grpc.status=OK,hopbound.mode=enforce} %d\n"
	got = collected(t, servers)
	for name, n := range map[string]int{"other": 22, "Idempotent": 1} {
		if want := fmt.Sprintf(server, name, n); !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "unknown.Service") || strings.Contains(collected(t, clients), "unknown.Service") {
		t.Error("a name that anybody may choose is a label")
	}
}

func TestMeasurementsLeadToTraces(t *testing.T) {
	t.Parallel()
	reader, meter := metered()
	recorder, spans := traced()
	leaf := &counter{fail: failing(1)}
	n := serve(t, leaf.handle, newServer(t, meter, spans).ServerOptions()...)
	if err := within(t, idempotent(n.dial(newClient(t, paused(), meter, spans).DialOptions()...)), time.Minute); err != nil {
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
	for _, name := range []string{"hopbound.client.calls", "hopbound.client.attempts", "hopbound.server.calls", "hopbound.server.deadline.headroom", "grpc.client.call.retry_delay"} {
		if !linked[name] {
			t.Errorf("%s has no exemplar of the trace", name)
		}
	}
}

// A client that is garbage is not asked for its balance any more, nor kept.
func TestBalancesAreObservedAsLongAsTheirClient(t *testing.T) {
	t.Parallel()
	reader, meter := metered()
	n := serve(t, func(context.Context) error { return nil })
	func() {
		client := newClient(t, meter)
		cc, err := grpc.NewClient(nodeTarget, append(client.DialOptions(), n.dialer()...)...)
		if err != nil {
			t.Fatal(err)
		}
		if err := idempotent(cc)(t.Context()); err != nil {
			t.Fatal(err)
		}
		_ = cc.Close()
		for range 10 { // it stays as long as the client does
			runtime.GC()
			const want = "hopbound.budget.balance {token} {grpc.target=passthrough:///node,hopbound.budget=default,hopbound.mode=enforce} 3\n"
			if got := collected(t, reader); !strings.Contains(got, want) {
				t.Fatal(got)
			}
		}
		runtime.KeepAlive(client)
	}()
	for strings.Contains(collected(t, reader), "hopbound.budget.balance") { // or the test times out
		runtime.GC()
		time.Sleep(time.Millisecond) // for the cleanup, which has a goroutine of its own
	}
}
