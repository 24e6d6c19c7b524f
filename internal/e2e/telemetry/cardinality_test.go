package telemetry_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// shape is traffic of a client: each method is called at each target, and fails in ordinary ways.
type shape struct{ methods, targets int }

// failures are the codes with which calls fail, in turn.
func failures() []codes.Code {
	return []codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.Internal, codes.NotFound, codes.ResourceExhausted}
}

// run makes the calls, without a network. It returns how many ended with which status at which target.
func (s shape) run(t *testing.T, client *interceptors.Client, server *interceptors.Server) map[string]int64 {
	t.Helper()
	ended := map[string]int64{}
	serve := func(context.Context, any) (any, error) { return &emptypb.Empty{}, nil }
	for target := range s.targets {
		name := fmt.Sprintf("passthrough:///target-%d", target)
		cc, err := grpc.NewClient(name, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		for method := range s.methods {
			full := fmt.Sprintf("/shop.v1.Shop/Method%d", method)
			for _, code := range append(failures(), codes.OK) { // the failures come last where there is room for few
				failure := status.Error(code, "")
				err := client.UnaryInterceptor()(t.Context(), full, nil, nil, cc,
					func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return failure }, grpc.StaticMethod())
				ended[name+" "+codeNames()[status.Code(err)]]++
				ctx := metadata.NewIncomingContext(t.Context(), metadata.MD{})
				_, _ = server.UnaryInterceptor()(metadata.NewIncomingContext(t.Context(), metadata.Pairs("hop-context", "malformed")), nil, &grpc.UnaryServerInfo{FullMethod: full}, serve)
				late, cancel := context.WithTimeout(ctx, -1)
				_, _ = server.UnaryInterceptor()(late, nil, &grpc.UnaryServerInfo{FullMethod: full}, serve)
				cancel()
				_, _ = server.UnaryInterceptor()(ctx, nil, &grpc.UnaryServerInfo{FullMethod: full}, func(context.Context, any) (any, error) { return nil, failure })
			}
		}
		_ = cc.Close()
	}
	return ended
}

func codeNames() map[codes.Code]string {
	return map[codes.Code]string{
		codes.OK: "OK", codes.Unavailable: "UNAVAILABLE", codes.DeadlineExceeded: "DEADLINE_EXCEEDED",
		codes.Internal: "INTERNAL", codes.NotFound: "NOT_FOUND", codes.ResourceExhausted: "RESOURCE_EXHAUSTED",
	}
}

// No instrument comes near the limit of the SDK, whatever the number of methods and targets.
func TestAttributeSetsAreFew(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]shape{
		"50 methods at 20 targets": {50, 20},
		"1 method at 1600 targets": {1, 1600},
		"1300 methods at 1 target": {1300, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reader, meter := harness.Metered()
			ended := s.run(t, harness.NewClient(t, meter), harness.NewServer(t, meter))
			var all metricdata.ResourceMetrics
			if err := reader.Collect(t.Context(), &all); err != nil {
				t.Fatal(err)
			}
			most, of := 0, ""
			for _, scope := range all.ScopeMetrics {
				for _, m := range scope.Metrics {
					if n := len(setsOf(m.Data)); n > most {
						most, of = n, m.Name
					}
				}
			}
			if t.Logf("most attribute sets: %d, of %s", most, of); most >= 1500 {
				t.Error("too many attribute sets")
			}
			counted := countsByTarget(t, reader)
			if name == "50 methods at 20 targets" && !maps.Equal(counted, ended) {
				t.Errorf("counted %v of %v", counted, ended)
			}
			if got, want := byStatus(counted), byStatus(ended); !maps.Equal(got, want) {
				t.Errorf("counted %v of %v", got, want)
			}
		})
	}
}

// setsOf returns the attribute sets of an instrument.
func setsOf(data metricdata.Aggregation) (sets []attribute.Set) {
	switch data := data.(type) {
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			sets = append(sets, p.Attributes)
		}
	case metricdata.Sum[float64]:
		for _, p := range data.DataPoints {
			sets = append(sets, p.Attributes)
		}
	case metricdata.Gauge[float64]:
		for _, p := range data.DataPoints {
			sets = append(sets, p.Attributes)
		}
	case metricdata.Histogram[int64]:
		for _, p := range data.DataPoints {
			sets = append(sets, p.Attributes)
		}
	case metricdata.Histogram[float64]:
		for _, p := range data.DataPoints {
			sets = append(sets, p.Attributes)
		}
	}
	return sets
}

// countsByTarget returns what the duration of calls counts, by target and status.
func countsByTarget(t *testing.T, reader *sdkmetric.ManualReader) map[string]int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	counts := map[string]int64{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if h, ok := m.Data.(metricdata.Histogram[float64]); ok && m.Name == "grpc.client.call.duration" {
				for _, p := range h.DataPoints {
					target, _ := p.Attributes.Value("grpc.target")
					code, _ := p.Attributes.Value("grpc.status")
					counts[target.AsString()+" "+code.AsString()] += int64(p.Count)
				}
			}
		}
	}
	return counts
}

func byStatus(counts map[string]int64) map[string]int64 {
	sums := map[string]int64{}
	for name, n := range counts {
		_, code, _ := strings.Cut(name, " ")
		sums[code] += n
	}
	return sums
}

// The view of docs/telemetry.md leaves one series for each target and status.
func TestViewDropsTheMethod(t *testing.T) {
	t.Parallel()
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader), sdkmetric.WithView(sdkmetric.NewView(
		sdkmetric.Instrument{Name: "grpc.client.*.duration"},
		sdkmetric.Stream{
			AttributeFilter: attribute.NewDenyKeysFilter("grpc.method"),                                 // durations by target alone
			Aggregation:     sdkmetric.AggregationBase2ExponentialHistogram{MaxSize: 160, MaxScale: 20}, // one series instead of 44
		},
	)))
	shape{5, 3}.run(t, harness.NewClient(t, interceptors.WithMeterProvider(provider)), harness.NewServer(t))
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if h, ok := m.Data.(metricdata.ExponentialHistogram[float64]); ok && m.Name == "grpc.client.call.duration" {
				if len(h.DataPoints) != 3*(len(failures())+1) {
					t.Errorf("%d attribute sets", len(h.DataPoints))
				}
				return
			}
		}
	}
	t.Error("the duration of calls is not exponential")
}
