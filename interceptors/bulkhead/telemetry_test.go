package bulkhead_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors/bulkhead"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

func TestCallsAreCountedByState(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reader := sdkmetric.NewManualReader()
		c := newCalls(t, newBulkhead(t, 1, bulkhead.Queue(1), bulkhead.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))))
		c.start("a", 200*ms, 0)
		c.start("b", ms, 100*ms)
		c.start("c", ms, 0)
		want := []string{"rejections{hopbound.reason=full,hopbound.side=server} 1", "running{hopbound.side=server} 1", "waiting{hopbound.side=server} 1"}
		if got := collected(t, reader); !slices.Equal(got, want) {
			t.Errorf("while they run: %q", got)
		}
		time.Sleep(100 * ms)
		c.wg.Wait()
		want = []string{"rejections{hopbound.reason=full,hopbound.side=server} 1", "rejections{hopbound.reason=gone,hopbound.side=server} 1", "running{hopbound.side=server} 0", "waiting{hopbound.side=server} 0"}
		if got := collected(t, reader); !slices.Equal(got, want) {
			t.Errorf("at the end: %q", got)
		}
	})
}

// collected returns the metrics, sorted.
func collected(t *testing.T, reader *sdkmetric.ManualReader) (lines []string) {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		t.Fatal(err)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if sum, ok := m.Data.(metricdata.Sum[int64]); ok {
				for _, p := range sum.DataPoints {
					lines = append(lines, fmt.Sprintf("%s{%s} %d", m.Name[len("hopbound.bulkhead."):], p.Attributes.Encoded(attribute.DefaultEncoder()), p.Value))
				}
			}
		}
	}
	slices.Sort(lines)
	return lines
}
