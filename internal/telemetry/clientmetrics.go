package telemetry

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"

	"github.com/hopbound/hopbound/internal/cache"
	"github.com/hopbound/hopbound/internal/hoperr"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc/codes"
)

// clientCounters count what a client does. They are nil if there is no meter provider.
type clientCounters struct {
	counters
	started         metric.Int64Counter
	attemptDuration metric.Float64Histogram
	callDuration    metric.Float64Histogram
	retries         metric.Int64Histogram
	hedges          metric.Int64Histogram
	delay           metric.Float64Histogram
	calls           metric.Int64Counter
	attempts        metric.Int64Counter
	decisions       metric.Int64Counter
	roots           metric.Int64Counter
	others          metric.Int64Counter
	over            metric.Int64Counter

	own struct{ pairs, attemptDuration, callDuration, calls, attempts, decisions, over bounded }
}

func newClientCounters(s *Settings) (*clientCounters, error) {
	i := newInstruments(s)
	if i == nil {
		return nil, nil //nolint:nilnil // nil counters count nothing
	}
	c := &clientCounters{
		counters:        newCounters(i, sideClient),
		started:         i.counter("grpc.client.attempt.started", "{attempt}", "Attempts of outgoing calls that have started, including those that have not ended."),
		attemptDuration: i.seconds("grpc.client.attempt.duration", "Duration of an attempt of an outgoing call, including the time to pick a backend.", latencyBounds()),
		callDuration:    i.seconds("grpc.client.call.duration", "Duration of an outgoing call with all its attempts and pauses, as the application sees it.", latencyBounds()),
		retries:         i.counts("grpc.client.call.retries", "{retry}", "Retries of an outgoing call, of calls that had any.", 1, 2, 3, 4, 5, 10),
		hedges:          i.counts("grpc.client.call.hedges", "{hedge}", "Hedges of an outgoing call, of calls that had any.", 1, 2, 3, 4, 5, 10),
		delay:           i.seconds("grpc.client.call.retry_delay", "Time during an outgoing call in which no attempt was under way, of calls that had any.", latencyBounds()),
		calls:           i.counter("hopbound.client.calls", "{call}", "Outgoing calls that have ended, with all their attempts, by the status that the application received."),
		attempts:        i.counter("hopbound.client.attempts", "{attempt}", "Attempts of outgoing calls by target, by what was decided when they ended, why, and whether a server may have seen them."),
		decisions:       i.counter("hopbound.client.decisions", "{attempt}", "Attempts of outgoing calls by method, by what was decided when they ended and why."),
		roots:           i.counter("hopbound.client.roots", "{call}", "Outgoing calls that belong to no request. In the process of a server, the request's context was not passed on."),
		over:            i.counter("hopbound.client.overreports", "{attempt}", "Attempts whose callee reported more tokens as used than it was lent. At most the lent tokens are charged."),
		others:          i.counter("hopbound.client.other_retries", "{call}", "Outgoing calls that another interceptor of the chain retries."),
	}
	return c, i.err()
}

// maxBalances is how many targets of a client have a balance in metrics: those with the smallest.
const maxBalances = 700

// ObserveBudget lets the meter read the balances of target budgets: those of calls, and those of
// observed calls. The callback gets each target that has been called. It must not refer to owner.
func ObserveBudget[T any](s *Settings, owner *T, budgetName string, each func(yield func(t *Target, balance func(observed bool) float64))) error {
	i := newInstruments(s)
	if i == nil {
		return nil
	}
	gauge := i.gauge("hopbound.budget.balance", "{token}", "Tokens in the budget of a target. Each extra attempt that this client sends to the target takes one.")
	name := attrBudget.String(budgetName)
	type balance struct {
		target *Target
		tokens float64
	}
	return observe(i, owner, func(_ context.Context, o metric.Observer) error {
		for mode, observed := range [...]bool{false, true} {
			var all []balance
			each(func(t *Target, tokens func(observed bool) float64) {
				if t.modes[mode].called.Load() {
					all = append(all, balance{t, tokens(observed)})
				}
			})
			slices.SortStableFunc(all, func(a, b balance) int { return cmp.Compare(a.tokens, b.tokens) })
			for _, b := range all[:min(len(all), maxBalances)] {
				o.ObserveFloat64(gauge, b.tokens, metric.WithAttributes(name,
					attrMode.String(modeName(observed)), attrGRPCTarget.String(b.target.label)))
			}
		}
		return nil
	}, gauge)
}

// targetSeries are the series of one target in one mode.
type targetSeries struct {
	called atomic.Bool
	done   lazyLabels    // of attempts that succeed
	calls  [2]codeLabels // of calls in a request, and of roots
}

// pairSeries are the series of one method at one target.
type pairSeries struct {
	method          string
	both            lazyLabels
	only            lazyLabels    // of the method alone
	done            [2]lazyLabels // of attempts that succeed, by mode
	attempts, calls codeLabels
}

// pair returns the series of the call's method and target.
func (c *Call) pair() *pairSeries {
	return c.target.pairs.Get(c.method.Label(), func(method string) *pairSeries { return &pairSeries{method: method} })
}

func (c *Call) byTarget() *targetSeries { return &c.target.modes[index(c.observed)] }

// countStart counts an attempt that starts.
func (c *Call) countStart(ctx context.Context) {
	n, p := c.client.count, c.pair()
	n.started.Add(ctx, 1, p.both.get(func() *labels { return n.own.pairs.byMethodAndTarget(false, p.method, c.target.label) }).add...)
}

// countAttempt counts an attempt that has ended.
func (c *Call) countAttempt(ctx context.Context, a *Attempt, e *AttemptEnd) {
	n, p, s := c.client.count, c.pair(), c.byTarget()
	if !s.called.Load() {
		s.called.Store(true)
	}
	byTarget := func() *labels {
		return n.own.attempts.by(e.Decision != Done, attrGRPCTarget, c.target.label, c.decided(e, attrReached.Bool(e.Reached))...)
	}
	byMethod := func() *labels {
		return n.own.decisions.by(e.Decision != Done, attrGRPCMethod, p.method, c.decided(e)...)
	}
	if e.Decision == Done {
		n.attempts.Add(ctx, 1, s.done.get(byTarget).add...)
		n.decisions.Add(ctx, 1, p.done[index(c.observed)].get(byMethod).add...)
	} else {
		n.attempts.Add(ctx, 1, byTarget().add...)
		n.decisions.Add(ctx, 1, byMethod().add...)
	}
	if !c.exportsGRPC() {
		return
	}
	if a.uncounted {
		c.countStart(ctx)
	}
	code := hoperr.Code(e.Err)
	n.attemptDuration.Record(ctx, e.Ended.Sub(a.Started).Seconds(), p.attempts.get(code, func(name string) *labels {
		return n.own.attemptDuration.byMethodAndTarget(code != codes.OK, p.method, c.target.label, attrGRPCStatus.String(name))
	}).record...)
}

// decided returns the attributes of what was decided, and others.
func (c *Call) decided(e *AttemptEnd, others ...attribute.KeyValue) []attribute.KeyValue {
	kvs := append([]attribute.KeyValue{attrDecision.String(string(e.Decision)), attrMode.String(modeName(c.observed))}, others...)
	if reason := e.reason(); reason != "" {
		kvs = append(kvs, attrReason.String(reason))
	}
	return kvs
}

// countEnd counts the call, which has ended.
func (c *Call) countEnd(e *CallEnd) {
	n, p, s := c.client.count, c.pair(), c.byTarget()
	code := hoperr.Code(e.Err)
	n.calls.Add(c.ctx, 1, s.calls[index(c.root)].get(code, func(name string) *labels {
		return n.own.calls.by(code != codes.OK, attrGRPCTarget, c.target.label, attrGRPCStatus.String(name),
			attrRoot.Bool(c.root), attrMode.String(modeName(c.observed)))
	}).add...)
	both := func() *labels { return n.own.pairs.byMethodAndTarget(false, p.method, c.target.label) }
	switch extra := e.Attempts - 1; {
	case extra > 0 && e.Hedged:
		n.hedges.Record(c.ctx, int64(extra), p.both.get(both).record...)
	case extra > 0:
		n.retries.Record(c.ctx, int64(extra), p.both.get(both).record...)
	}
	if e.Paused > 0 {
		n.delay.Record(c.ctx, e.Paused.Seconds(), c.byMethod(p).record...)
	}
	if c.exportsGRPC() {
		n.callDuration.Record(c.ctx, e.Took.Seconds(), p.calls.get(code, func(name string) *labels {
			return n.own.callDuration.byMethodAndTarget(code != codes.OK, p.method, c.target.label, attrGRPCStatus.String(name))
		}).record...)
	}
}

// byMethod returns the labels of instruments that have nothing but the method.
func (c *Call) byMethod(p *pairSeries) *labels {
	return p.only.get(func() *labels { return c.client.count.sets.methods.by(false, attrGRPCMethod, p.method) })
}

// Target is a target in metrics and spans.
type Target struct {
	label  string
	server serverAddress
	pairs  cache.Names[pairSeries] // by method
	modes  [2]targetSeries         // of calls and of observed calls
}

// NewTarget returns a target by its canonical name, which may be empty.
func NewTarget(name string) *Target {
	if name == "" {
		return &Target{label: other}
	}
	return &Target{label: name, server: serverAddressOf(name)}
}

// Root counts a call that belongs to no request.
func (c *Call) Root() {
	c.root = true
	if n := c.client.count; n != nil {
		n.roots.Add(c.ctx, 1, c.byMethod(c.pair()).add...)
	}
}
