package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hopbound/hopbound/budget"
)

func backendShapes() []shape {
	return []shape{
		one("one-of-three-bad/default", func(c *cell) row { return oneBad(c, "one-of-three-bad/default", nil) }),
		one("one-of-three-bad/ratio=0.5", func(c *cell) row {
			return oneBad(c, "one-of-three-bad/ratio=0.5", budget.New(budget.Ratio(0.5)))
		}, hopbound),
		one("one-of-three-hangs", oneHangs),
	}
}

// spread is the policy of a client that spreads its calls over several backends.
func (c *cell) spread() callPolicy {
	if c.stack.name == hopbound {
		return callPolicy{balancing: hopboundBalancing}
	}
	return callPolicy{balancing: roundRobin}
}

// oneBad measures three backends, of which one returns UNAVAILABLE for every call.
func oneBad(c *cell, name string, b *budget.Budget) row {
	good := func(context.Context, string) error {
		c.work()
		return nil
	}
	var mu sync.Mutex
	seen := map[string]int{} // attempts at the bad backend, by call
	bad := func(_ context.Context, text string) error {
		c.work()
		mu.Lock()
		defer mu.Unlock()
		seen[text]++
		return errUnavailable
	}
	p := c.spread()
	p.budget = b
	backends := []*service{c.serve(good), c.serve(bad), c.serve(good)}
	u := users{concurrent: 16, requests: 3000}
	o := u.run(c.t.Context(), c.connect(p, backends...))
	r := newRow(name, o, sumCalls(backends), 0)
	for _, n := range seen {
		if n > 1 {
			r.TwiceBad++
		}
	}
	r.Note = fmt.Sprintf("%d calls reached the bad backend more than once", r.TwiceBad)
	return r
}

// oneHangs measures three backends, of which one never replies.
func oneHangs(c *cell) row {
	good := func(context.Context, string) error {
		c.work()
		return nil
	}
	hang := func(ctx context.Context, _ string) error {
		<-ctx.Done()
		return ctx.Err()
	}
	p := c.spread()
	p.attemptTimeout = 100 * time.Millisecond
	backends := []*service{c.serve(good), c.serve(hang), c.serve(good)}
	u := users{concurrent: 16, requests: c.size(3000, 1000), deadline: time.Second}
	o := u.run(c.t.Context(), c.connect(p, backends...))
	return newRow("one-of-three-hangs", o, sumCalls(backends), 0)
}

func sumCalls(services []*service) (n int64) {
	for _, s := range services {
		n += s.calls.Load()
	}
	return n
}
