package control_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hopbound/hopbound/interceptors/control"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// collect returns the values of all metrics, with the attributes that differ, but that of the load time.
func collect(t *testing.T, reader sdkmetric.Reader, file *control.File, path string) string {
	t.Helper()
	var data metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	var lines []string
	add := func(name string, points []metricdata.DataPoint[int64]) {
		for _, p := range points {
			if of, _ := p.Attributes.Value("hopbound.control.file"); of.AsString() != path {
				t.Errorf("%s is of the file %s", name, of.AsString())
			}
			own, _ := p.Attributes.Filter(func(kv attribute.KeyValue) bool { return kv.Key != "hopbound.control.file" })
			if name == "hopbound.control.loaded" {
				if p.Value != file.Status().Loaded.Unix() {
					t.Errorf("loaded at %d, want %d", p.Value, file.Status().Loaded.Unix())
				}
				continue
			}
			lines = append(lines, fmt.Sprintf("%s{%s} %d", strings.TrimPrefix(name, "hopbound.control."), own.Encoded(attribute.DefaultEncoder()), p.Value))
		}
	}
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch points := m.Data.(type) {
			case metricdata.Gauge[int64]:
				add(m.Name, points.DataPoints)
			case metricdata.Sum[int64]:
				add(m.Name, points.DataPoints)
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestMetricsShowTheVersionInUseAndWhatReadsFound(t *testing.T) {
	t.Parallel()
	reader := sdkmetric.NewManualReader()
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	file, path := open(t, text(1), control.WithMeterProvider(meters))
	for _, step := range []struct {
		name   string
		change func()
		want   []string
	}{
		{"at first", func() {}, []string{
			"current{} 1", "loads{hopbound.control.result=ok} 1", "version{hopbound.control.version=v1} 1",
		}},
		{"a new version, and no more the old one", func() { write(t, path, text(2)) }, []string{
			"current{} 1", "loads{hopbound.control.result=ok} 2", "version{hopbound.control.version=v2} 1",
		}},
		{"an invalid version", func() { write(t, path, "mode: enforced") }, []string{
			"current{} 0", "loads{hopbound.control.result=invalid} 1", "loads{hopbound.control.result=ok} 2", "version{hopbound.control.version=v2} 1",
		}},
		{"no file", func() { _ = os.Remove(path) }, []string{
			"current{} 0", "loads{hopbound.control.result=invalid} 1", "loads{hopbound.control.result=ok} 2",
			"loads{hopbound.control.result=unreadable} 1", "version{hopbound.control.version=v2} 1",
		}},
		{"a version again", func() { write(t, path, text(3)) }, []string{
			"current{} 1", "loads{hopbound.control.result=invalid} 1", "loads{hopbound.control.result=ok} 3",
			"loads{hopbound.control.result=unreadable} 1", "version{hopbound.control.version=v3} 1",
		}},
	} {
		step.change()
		for range 3 { // what has not changed is not counted again
			_ = file.Reload(t.Context())
		}
		if got := collect(t, reader, file, path); got != strings.Join(step.want, "\n") {
			t.Errorf("%s: got\n%s\nwant\n%s", step.name, got, strings.Join(step.want, "\n"))
		}
	}
}

func TestFileThatIsClosedExportsNothing(t *testing.T) {
	t.Parallel()
	reader := sdkmetric.NewManualReader()
	meters := control.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	first, path := open(t, text(1), meters)
	write(t, path, text(2))
	second, err := control.Open(path, meters)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(first.Close(), first.Close()); err != nil || timeout(first) != time.Second {
		t.Errorf("%v %v", err, timeout(first))
	}
	if got, want := collect(t, reader, second, path), "current{} 1\nloads{hopbound.control.result=ok} 2\nversion{hopbound.control.version=v2} 1"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if without, _ := open(t, text(1)); without.Close() != nil {
		t.Error("a file without metrics cannot be closed")
	}
}
