package harness

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/hopbound/hopbound/interceptors"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// Metered returns an option that collects metrics, and their reader.
func Metered() (*sdkmetric.ManualReader, interceptors.Option) {
	reader := sdkmetric.NewManualReader()
	return reader, interceptors.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
}

// Sums returns the counts of a counter by its attributes, written k=v,k=v in the order of their
// keys.
func Sums(t *testing.T, reader *sdkmetric.ManualReader, name string) map[string]int64 {
	t.Helper()
	var data metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &data); err != nil {
		t.Fatal(err)
	}
	out := map[string]int64{}
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			if sum, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == name {
				for _, p := range sum.DataPoints {
					parts := make([]string, 0, p.Attributes.Len())
					for _, kv := range p.Attributes.ToSlice() {
						parts = append(parts, string(kv.Key)+"="+kv.Value.String())
					}
					out[strings.Join(parts, ",")] = p.Value
				}
			}
		}
	}
	return out
}

// Collected returns all metrics of a reader, one sorted line for each series.
func Collected(t *testing.T, reader *sdkmetric.ManualReader) string {
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
