package telemetry

import (
	"context"

	"github.com/hopbound/hopbound/internal/hoperr"
	"go.opentelemetry.io/otel/metric"
)

// clientCounters count what a client does. They are nil if there is no meter provider.
type clientCounters struct {
	counters
	calls    metric.Int64Counter
	attempts metric.Int64Counter
	retries  metric.Int64Histogram
	hedges   metric.Int64Histogram
	delay    metric.Float64Histogram
	roots    metric.Int64Counter
	others   metric.Int64Counter
	over     metric.Int64Counter
}

func newClientCounters(s *Settings) (*clientCounters, error) {
	i := newInstruments(s)
	if i == nil {
		return nil, nil //nolint:nilnil // nil counters count nothing
	}
	c := &clientCounters{
		counters: newCounters(i, sideClient),
		calls:    i.counter("hopbound.client.calls", "{call}", "Outgoing calls that have ended, with all their attempts, by the status that the application received."),
		attempts: i.counter("hopbound.client.attempts", "{attempt}", "Attempts of outgoing calls, by what was decided when they ended."),
		retries:  i.counts("grpc.client.call.retries", "{retry}", "Retries of an outgoing call, of calls that had any.", 1, 2, 3, 4, 5, 10),
		hedges:   i.counts("grpc.client.call.hedges", "{hedge}", "Hedges of an outgoing call, of calls that had any.", 1, 2, 3, 4, 5, 10),
		delay:    i.seconds("grpc.client.call.retry_delay", "Time during an outgoing call in which no attempt was under way, of calls that had any.", latencyBounds()),
		roots:    i.counter("hopbound.client.roots", "{call}", "Outgoing calls that belong to no request. In the process of a server, the request's context was not passed on."),
		over:     i.counter("hopbound.client.overreports", "{attempt}", "Attempts whose callee reported more tokens as used than it was lent. At most the lent tokens are charged."),
		others:   i.counter("hopbound.client.other_retries", "{call}", "Outgoing calls that another interceptor of the chain retries."),
	}
	return c, i.err()
}

// ObserveBudget lets the meter read the balances of target budgets: those of calls, and those of
// observed calls. The callback gets each target that has been called. It must not refer to owner.
func ObserveBudget[T any](s *Settings, owner *T, budgetName string, each func(yield func(t *Target, balance func(observed bool) float64))) error {
	i := newInstruments(s)
	if i == nil {
		return nil
	}
	gauge := i.gauge("hopbound.budget.balance", "{token}", "Tokens in the budget of a target. Each extra attempt that this client sends to the target takes one.")
	name := attrBudget.String(budgetName)
	return observe(i, owner, func(_ context.Context, o metric.Observer) error {
		each(func(t *Target, balance func(observed bool) float64) {
			for series, observed := range [...]bool{false, true} {
				if !t.series[series].Empty() {
					o.ObserveFloat64(gauge, balance(observed), metric.WithAttributes(name,
						attrMode.String(modeName(observed)), attrGRPCTarget.String(t.label)))
				}
			}
		})
		return nil
	}, gauge)
}

// clientSeries are the series of one method at one target.
type clientSeries struct {
	method, target string
	mode           string
	both           *labels
	root           lazyLabels // of the method alone
	calls          codeLabels
	attempts       [len(decisions)]lazyLabels
}

// series returns the series of the call's method and target.
func (c *Call) series() *clientSeries {
	series := &c.target.series[0]
	if c.observed {
		series = &c.target.series[1]
	}
	return series.Get(c.method.Label(), func(method string) *clientSeries {
		s := &clientSeries{method: method, target: c.target.label, mode: modeName(c.observed)}
		s.both = newLabels(attrGRPCMethod.String(method), attrGRPCTarget.String(s.target))
		return s
	})
}

// attempt counts an attempt by what was decided when it ended.
func (c *clientCounters) attempt(ctx context.Context, s *clientSeries, d Decision) {
	for i := range decisions {
		if decisions[i] == d {
			c.attempts.Add(ctx, 1, s.attempts[i].get(func() *labels {
				return newLabels(attrGRPCMethod.String(s.method), attrGRPCTarget.String(s.target),
					attrDecision.String(string(d)), attrMode.String(s.mode))
			}).add...)
			return
		}
	}
}

// call counts a call that has ended.
func (c *clientCounters) call(ctx context.Context, s *clientSeries, e *CallEnd) {
	c.calls.Add(ctx, 1, s.calls.get(hoperr.Code(e.Err), func(name string) *labels {
		return newLabels(attrGRPCMethod.String(s.method), attrGRPCTarget.String(s.target),
			attrGRPCStatus.String(name), attrMode.String(s.mode))
	}).add...)
	switch extra := e.Attempts - 1; {
	case extra > 0 && e.Hedged:
		c.hedges.Record(ctx, int64(extra), s.both.record...)
	case extra > 0:
		c.retries.Record(ctx, int64(extra), s.both.record...)
	}
	if e.Paused > 0 {
		c.delay.Record(ctx, e.Paused.Seconds(), s.both.record...)
	}
}
