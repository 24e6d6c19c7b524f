package telemetry

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/metric"
)

// serverCounters count what a server does. They are nil if there is no meter provider.
type serverCounters struct {
	counters
	duration metric.Float64Histogram
	calls    metric.Int64Counter
	headroom metric.Float64Histogram
	wasted   metric.Float64Counter
	keyed    metric.Int64Counter
	steps    metric.Float64Histogram
	store    storeCounters

	own struct{ duration, calls, keyed bounded }
}

func newServerCounters(s *Settings, storeKind string) (*serverCounters, error) {
	i := newInstruments(s)
	if i == nil {
		return nil, nil //nolint:nilnil // nil counters count nothing
	}
	c := &serverCounters{
		counters: newCounters(i, sideServer),
		duration: i.seconds("grpc.server.call.duration", "Duration of an incoming call from its arrival at the interceptors to the end of its handler, by the status that the caller received.", latencyBounds()),
		calls:    i.counter("hopbound.server.calls", "{call}", "Incoming calls that have ended, by the status that the caller received: DEADLINE_EXCEEDED for calls that ended after their deadline."),
		headroom: i.seconds("hopbound.server.deadline.headroom", "Time left until its deadline when a call arrived, of calls that have a deadline; 0 if it had passed.", headroomBounds()),
		keyed:    i.counter("hopbound.idempotency.calls", "{call}", "Incoming calls with an idempotency key, by their outcome; in mode observe, by the outcome that enforcing would have had."),
		steps: i.seconds("hopbound.idempotency.store.duration", "Duration of steps of the idempotency store, by step and result.",
			metric.WithExplicitBucketBoundaries(1e-6, 1e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, .1, .25, .5, 1, 2.5, 5, 10)),
	}
	wasted, err := i.meter.Float64Counter("hopbound.server.wasted", metric.WithUnit("s"),
		metric.WithDescription("Time that incoming calls were worked on after their deadline, when their callers had stopped waiting."))
	c.wasted = wasted
	c.store = newStoreCounters(i, storeKind)
	return c, errors.Join(i.err(), err)
}

// ObserveClocks lets the meter read how many senders' clocks were forgotten. The function must not
// refer to owner.
func ObserveClocks[T any](s *Settings, owner *T, count func() int64) error {
	i := newInstruments(s)
	if i == nil {
		return nil
	}
	forgotten := i.total("hopbound.server.forgotten_clocks", "{clock}",
		"Senders' clocks that were forgotten because there were too many. Queueing time of their next call is not deducted from its deadline.")
	return observe(i, owner, func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(forgotten, count())
		return nil
	}, forgotten)
}

// serverSeries are the series of one method.
type serverSeries struct {
	method string
	mode   string
	only   *labels

	durations codeLabels
	calls     [2]codeLabels // of calls from hops, and of roots
}

// series returns the series of the call's method.
func (in *Incoming) series() *serverSeries {
	return in.server.series[index(in.observed)].Get(in.method.Label(), func(method string) *serverSeries {
		return &serverSeries{method: method, mode: modeName(in.observed), only: in.server.count.sets.methods.by(false, attrGRPCMethod, method)}
	})
}
