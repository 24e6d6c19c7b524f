package interceptors

import (
	"context"
	"errors"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc/codes"
)

// serverCounters count what a server does. They are nil if there is no meter
// provider.
type serverCounters struct {
	counters
	calls    metric.Int64Counter
	headroom metric.Float64Histogram
	wasted   metric.Float64Counter
	keyed    metric.Int64Counter
	steps    metric.Float64Histogram
	store    storeCounters
}

func newServerCounters(s *settings, storeKind string) (*serverCounters, error) {
	i := newInstruments(s)
	if i == nil {
		return nil, nil //nolint:nilnil // nil counters count nothing
	}
	c := &serverCounters{
		counters: newCounters(i, sideServer),
		calls:    i.counter("hopbound.server.calls", "{call}", "Incoming calls that have ended, by the status that the caller got: DEADLINE_EXCEEDED of those that ended after their deadline."),
		headroom: i.seconds("hopbound.server.deadline.headroom", "Time left until its deadline when a call arrived, of calls that have one; 0 if it had passed.", latencyBounds()),
		keyed:    i.counter("hopbound.idempotency.calls", "{call}", "Incoming calls with an idempotency key, by their outcome; in mode observe, by the outcome that enforcing would have had."),
		steps: i.seconds("hopbound.idempotency.store.duration", "Duration of steps of the idempotency store, by step and whether it answered.",
			metric.WithExplicitBucketBoundaries(1e-6, 1e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, .1, .25, .5, 1, 2.5, 5, 10)),
	}
	wasted, err := i.meter.Float64Counter("hopbound.server.wasted", metric.WithUnit("s"),
		metric.WithDescription("Time that incoming calls were worked on after their deadline, when nobody waited for them any more."))
	c.wasted = wasted
	c.store = newStoreCounters(i, storeKind)
	return c, errors.Join(i.err(), err)
}

// observeClocks lets the meter ask how many senders' clocks were forgotten, as long as there
// is the server.
func (s *Server) observeClocks() error {
	i := newInstruments(&s.settings)
	if i == nil {
		return nil
	}
	forgotten := i.total("hopbound.server.forgotten_clocks", "{clock}",
		"Senders' clocks that were forgotten because there were too many: time that their next call queued is not deducted.")
	delays := s.delays
	return observe(i, s, func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(forgotten, delays.Forgotten())
		return nil
	}, forgotten)
}

// serverSeries are the series of one method.
type serverSeries struct {
	method string
	mode   string
	only   *labels
	calls  codeLabels
}

// series returns the series of the call's method.
func (in *incoming) series() *serverSeries {
	return in.serverSeries[in.mode].get(in.method.label(), func(method string) *serverSeries {
		return &serverSeries{method: method, mode: in.mode.String(), only: newLabels(attrGRPCMethod.String(method))}
	})
}

// countArrival measures how much time a call has when it arrives.
func (in *incoming) countArrival(ctx context.Context, remaining time.Duration) {
	if in.count != nil && remaining != unbounded {
		in.count.headroom.Record(ctx, max(0, remaining).Seconds(), in.series().only.record...)
	}
}

// countEnd counts a call that has ended, and the work on it for nobody.
func (in *incoming) countEnd(err error, now time.Time) {
	c := in.count
	if c == nil {
		return
	}
	code, s := codeOf(err), in.series()
	late := now.Sub(in.arrived) - max(0, in.waited)
	if in.waited == unbounded {
		late = -unbounded
	}
	// Its caller has not got what came after the deadline; and at the deadline the
	// caller's cancellation is often first.
	if code == codes.OK && late > 0 || code == codes.Canceled && late > -derived {
		code = codes.DeadlineExceeded
	}
	c.calls.Add(&in.request, 1, s.calls.get(code, func(name string) *labels {
		return newLabels(attrGRPCMethod.String(s.method), attrGRPCStatus.String(name), attrMode.String(s.mode))
	}).add...)
	if late > 0 {
		c.wasted.Add(&in.request, late.Seconds(), s.only.add...)
	}
}

// Steps of a store.
const (
	stepBegin    = "begin"
	stepLook     = "look"
	stepComplete = "complete"
	stepExtend   = "extend"
	stepSave     = "save"
	stepRelease  = "release"
	stepWait     = "wait"
)

func (c *serverCounters) storeStep(ctx context.Context, kind, step string, took time.Duration, err error) {
	if c == nil {
		return
	}
	result := "ok"
	switch {
	case err == nil:
	case errors.Is(err, idempotency.ErrLeaseLost):
		result = keyLost
	case errors.Is(err, idempotency.ErrFull):
		result = keyFull
	case errors.Is(err, idempotency.ErrCorrupt):
		result = keyCorrupt
	case step == stepWait && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)):
		result = "ended"
	default:
		result = "error"
	}
	c.steps.Record(ctx, took.Seconds(), newLabels(attrStore.String(kind), attrStep.String(step), attrResult.String(result)).record...)
}

func (c *serverCounters) keyedCall(ctx context.Context, m *method, mode Mode, became string) {
	if c != nil {
		c.keyed.Add(ctx, 1, newLabels(attrGRPCMethod.String(m.label()), attrKeyOutcome.String(became), attrMode.String(mode.String())).add...)
	}
}
