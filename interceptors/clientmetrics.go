package interceptors

import (
	"context"
	"time"

	"github.com/hopbound/hopbound/budget"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc/codes"
)

// clientCounters count what a client does. They are nil if there is no meter
// provider.
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

func newClientCounters(s *settings) (*clientCounters, error) {
	i := newInstruments(s)
	if i == nil {
		return nil, nil //nolint:nilnil // nil counters count nothing
	}
	c := &clientCounters{
		counters: newCounters(i, sideClient),
		calls:    i.counter("hopbound.client.calls", "{call}", "Outgoing calls that have ended, with all their attempts, by the status that the application got."),
		attempts: i.counter("hopbound.client.attempts", "{attempt}", "Attempts of outgoing calls, by what was decided when they ended."),
		retries:  i.counts("grpc.client.call.retries", "{retry}", "Retries of an outgoing call, of those that had any.", 1, 2, 3, 4, 5, 10),
		hedges:   i.counts("grpc.client.call.hedges", "{hedge}", "Hedges of an outgoing call, of those that had any.", 1, 2, 3, 4, 5, 10),
		delay:    i.seconds("grpc.client.call.retry_delay", "Time during an outgoing call in which no attempt was under way, of calls that had any.", latencyBounds()),
		roots:    i.counter("hopbound.client.roots", "{call}", "Outgoing calls that belong to no request: in a server's process, their context was lost on the way."),
		over:     i.counter("hopbound.client.overreports", "{attempt}", "Attempts whose callee reported that it had used more tokens than it was lent. At most those are charged."),
		others:   i.counter("hopbound.client.other_retries", "{call}", "Outgoing calls that another interceptor of the chain was found to retry."),
	}
	return c, i.err()
}

// observeBudget lets the meter ask for the balances of the targets' buckets, as
// long as there is the client.
func (c *Client) observeBudget() error {
	i := newInstruments(&c.settings)
	if i == nil {
		return nil
	}
	gauge := i.gauge("hopbound.budget.balance", "{token}", "Tokens in the bucket of a target, which pays for the extra attempts that this client sends to it.")
	name := attrBudget.String(c.budget.Name())
	budgets, targets := [modeCount]*budget.Budget{c.budget, c.observed}, c.targets
	return observe(i, c, func(_ context.Context, o metric.Observer) error {
		for _, t := range targets.all() {
			for mode, b := range budgets {
				if t.series[mode].values.Load() != nil {
					o.ObserveFloat64(gauge, b.Balance(t.name), metric.WithAttributes(name,
						attrMode.String(Mode(mode).String()), attrGRPCTarget.String(t.label)))
				}
			}
		}
		return nil
	}, gauge)
}

// decisions are all there are, in the order of their series.
var decisions = [...]decision{
	done, retried, exhausted, budgetEmpty, outOfTime, notRetryable, unsafe, pushedBack, marked, outrun,
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
func (k *call) series() *clientSeries {
	return k.target.series[k.mode].get(k.method.label(), func(method string) *clientSeries {
		s := &clientSeries{method: method, target: k.target.label, mode: k.mode.String()}
		s.both = newLabels(attrGRPCMethod.String(method), attrGRPCTarget.String(s.target))
		return s
	})
}

// attempt counts an attempt by what was decided on it.
func (c *clientCounters) attempt(ctx context.Context, s *clientSeries, d decision) {
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

// rootCall counts a call that belongs to no request.
func (c *clientCounters) rootCall(ctx context.Context, s *clientSeries) {
	c.roots.Add(ctx, 1, s.root.get(func() *labels { return newLabels(attrGRPCMethod.String(s.method)) }).add...)
}

// overreport counts a reply that reports more tokens as used than were lent.
func (c *clientCounters) overreport(ctx context.Context, s *clientSeries) {
	c.over.Add(ctx, 1, newLabels(attrGRPCTarget.String(s.target)).add...)
}

// otherRetries counts a call that another interceptor retries.
func (c *clientCounters) otherRetries(ctx context.Context, m *method) {
	c.others.Add(ctx, 1, newLabels(attrGRPCMethod.String(m.label())).add...)
}

// call counts a call that has ended.
func (c *clientCounters) call(ctx context.Context, s *clientSeries, code codes.Code, extra int, hedged bool, delay time.Duration) {
	c.calls.Add(ctx, 1, s.calls.get(code, func(name string) *labels {
		return newLabels(attrGRPCMethod.String(s.method), attrGRPCTarget.String(s.target),
			attrGRPCStatus.String(name), attrMode.String(s.mode))
	}).add...)
	switch {
	case extra > 0 && hedged:
		c.hedges.Record(ctx, int64(extra), s.both.record...)
	case extra > 0:
		c.retries.Record(ctx, int64(extra), s.both.record...)
	}
	if delay > 0 {
		c.delay.Record(ctx, delay.Seconds(), s.both.record...)
	}
}
