package main

import (
	"context"
	"fmt"
	"maps"

	chainv1 "github.com/hopbound/hopbound/examples/chain/proto/hopbound/examples/chain/v1"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// The names of the metrics that the example records itself: how long users wait, and how long the last
// service works after they have given up. Hopbound and otelgrpc record the other metrics that the page shows.
const (
	requestMetric = "chain.request.duration"
	wasteMetric   = "chain.leaf.wasted"
)

// totals are the metrics of one hop since it started.
type totals struct {
	arrived, failed float64 // calls to Pass that the hop has served, and those of them that failed
	headroom, timed float64 // sum of their remaining seconds on arrival, and how many had a deadline
	wasted          float64 // seconds
	balance         float64 // of the bucket for the next service
	decisions       map[string]float64
	succeeded       float64   // users' requests
	unsuccessful    float64   // users' requests that failed
	waits           []float64 // requests in each bucket of the histogram
	bounds          []float64
}

// read reads the metrics of a hop.
func read(ctx context.Context, reader *sdkmetric.ManualReader) (totals, error) {
	t := totals{decisions: map[string]float64{}}
	var all metricdata.ResourceMetrics
	if err := reader.Collect(ctx, &all); err != nil {
		return t, fmt.Errorf("collect: %w", err)
	}
	for _, s := range all.ScopeMetrics {
		for _, m := range s.Metrics {
			t.add(m)
		}
	}
	return t, nil
}

func (t *totals) add(m metricdata.Metrics) {
	switch data := m.Data.(type) {
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			t.count(m.Name, &p.Attributes, float64(p.Value))
		}
	case metricdata.Sum[float64]:
		if m.Name == wasteMetric {
			for _, p := range data.DataPoints {
				t.wasted += p.Value
			}
		}
	case metricdata.Gauge[float64]:
		if m.Name == "hopbound.budget.balance" && len(data.DataPoints) > 0 {
			t.balance = data.DataPoints[0].Value
		}
	case metricdata.Histogram[float64]:
		for _, p := range data.DataPoints {
			t.distribution(m.Name, &p)
		}
	}
}

func (t *totals) count(name string, set *attribute.Set, n float64) {
	if label(set, "grpc.method") != passMethod() {
		return
	}
	if name == "hopbound.client.decisions" {
		t.decisions[label(set, "hopbound.decision")] += n
	}
}

func (t *totals) distribution(name string, p *metricdata.HistogramDataPoint[float64]) {
	switch name {
	case "rpc.server.call.duration": // otelgrpc's, of both stacks
		if label(&p.Attributes, "rpc.method") == passMethod() {
			t.arrived += float64(p.Count)
			if label(&p.Attributes, "rpc.response.status_code") != "OK" {
				t.failed += float64(p.Count)
			}
		}
	case "hopbound.server.deadline.headroom":
		if label(&p.Attributes, "grpc.method") == passMethod() {
			t.headroom += p.Sum
			t.timed += float64(p.Count)
		}
	case requestMetric:
		if label(&p.Attributes, "outcome") == outcomeOK {
			t.succeeded += float64(p.Count)
		} else {
			t.unsuccessful += float64(p.Count)
		}
		t.bounds = p.Bounds
		if t.waits == nil {
			t.waits = make([]float64, len(p.BucketCounts))
		}
		for i, n := range p.BucketCounts {
			t.waits[i] += float64(n)
		}
	}
}

func label(set *attribute.Set, key attribute.Key) string {
	v, _ := set.Value(key)
	return v.AsString()
}

// passMethod is the name of the method Pass in metrics.
func passMethod() string { return chainv1.HopService_Pass_FullMethodName[1:] }

// since returns the difference to earlier totals. The balance is not a total, and stays as it is.
func (t *totals) since(earlier *totals) totals {
	d := *t
	d.arrived -= earlier.arrived
	d.failed -= earlier.failed
	d.headroom -= earlier.headroom
	d.timed -= earlier.timed
	d.wasted -= earlier.wasted
	d.succeeded -= earlier.succeeded
	d.unsuccessful -= earlier.unsuccessful
	d.decisions = maps.Clone(t.decisions)
	for name, n := range earlier.decisions {
		d.decisions[name] -= n
	}
	d.waits = append([]float64(nil), t.waits...)
	for i := range min(len(d.waits), len(earlier.waits)) {
		d.waits[i] -= earlier.waits[i]
	}
	return d
}

// quantile returns the quantile q of the requests' durations in milliseconds, interpolated within a bucket.
func (t *totals) quantile(q float64) float64 {
	all := 0.0
	for _, n := range t.waits {
		all += n
	}
	rank, lower := q*all, 0.0
	for i, n := range t.waits {
		if i >= len(t.bounds) {
			return 1000 * lower // the last bucket has no upper bound
		}
		if n > 0 && rank <= n {
			return 1000 * (lower + (t.bounds[i]-lower)*rank/n)
		}
		rank, lower = rank-n, t.bounds[i]
	}
	return 0
}
