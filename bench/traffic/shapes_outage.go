package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// maxLeafCalls is the number of calls to the leaf after which a measurement stops, because some stacks amplify without
// a bound. The field requests of a row is the number of requests that were made until then.
const maxLeafCalls = 15_000

const allOfManyRoots = "many-roots/all"

func outageShapes() []shape {
	var shapes []shape
	for _, depth := range []int{1, 5, 10} {
		name := fmt.Sprintf("outage/depth=%d", depth)
		shapes = append(shapes, one(name, func(c *cell) row { return outage(c, name, depth) }))
	}
	return append(shapes,
		shape{rows: []string{"outage-after-traffic/first-10s", "outage-after-traffic/after-10s"}, run: outageAfterTraffic},
		shape{rows: []string{allOfManyRoots, "many-roots/after-5s"}, run: manyRoots})
}

// outage measures a leaf that returns UNAVAILABLE from the start.
func outage(c *cell, name string, depth int) row {
	ch := c.chainOf(depth, callPolicy{}, func(context.Context, string) error {
		c.work()
		return errUnavailable
	}, passOn)
	u := users{concurrent: 8, requests: 2000}
	if c.stack.unbounded { // at depth 10, one request makes four times maxLeafCalls and takes minutes
		u.concurrent, u.deadline = 1, time.Hour
	}
	u.enough = func() bool { return ch.leaf().calls.Load() >= maxLeafCalls }
	return ch.row(name, u.run(c.t.Context(), ch.user))
}

// outageAfterTraffic measures a leaf that goes down under a steady load.
func outageAfterTraffic(c *cell) []row {
	var down atomic.Bool
	ch := c.chainOf(3, callPolicy{}, func(context.Context, string) error {
		c.work()
		if down.Load() {
			return errUnavailable
		}
		return nil
	}, passOn)
	o := openLoop{c: c, ch: ch, gap: func() time.Duration { return 2 * time.Millisecond }}
	o.phase("healthy", time.Duration(c.size(20, 5))*time.Second, 1<<62)
	down.Store(true)
	first := o.phase("outage-after-traffic/first-10s", 10*time.Second, maxLeafCalls)
	after := o.phase("outage-after-traffic/after-10s", time.Duration(c.size(20, 5))*time.Second, maxLeafCalls)
	return []row{first, after}
}

// openLoop makes requests at a given rate, regardless of the replies.
type openLoop struct {
	c   *cell
	ch  *chain
	gap func() time.Duration // to the next request
	all sync.WaitGroup
	id  int
}

// phase makes requests for the time d, waits until all have ended, and returns their row. It makes no more requests
// after the leaf has received limit calls.
func (o *openLoop) phase(name string, d time.Duration, limit int64) row {
	n := &counter{}
	leaf, middle := o.ch.leaf().calls.Load(), o.ch.middleCalls()
	end := time.Now().Add(d)
	for time.Now().Before(end) {
		if o.ch.leaf().calls.Load()-leaf >= limit {
			time.Sleep(time.Until(end))
			break
		}
		o.id++
		id := strconv.Itoa(o.id)
		o.all.Go(func() {
			ctx, cancel := context.WithTimeout(o.c.t.Context(), 10*time.Second)
			defer cancel()
			n.add(o.ch.user(ctx, id))
		})
		time.Sleep(o.gap())
	}
	o.all.Wait()
	return newRow(name, n.outcome(), o.ch.leaf().calls.Load()-leaf, o.ch.middleCalls()-middle)
}

// manyRoots measures many processes with little traffic each. The leaf that all of them call goes down.
func manyRoots(c *cell) []row {
	const healthy, first, after = 0, 1, 2
	var now atomic.Int64 // the current period
	var periods [3]struct {
		counter
		leafCalls atomic.Int64 // of the requests that started in the period
	}
	leaf := c.serve(func(_ context.Context, text string) error {
		if period, err := strconv.Atoi(text); err == nil {
			periods[period].leafCalls.Add(1)
		}
		c.work()
		if now.Load() != healthy {
			return errUnavailable
		}
		return nil
	})
	ctx, stop := context.WithCancel(c.t.Context())
	var all sync.WaitGroup
	for range c.size(500, 200) {
		c.startRoot(ctx, &all, leaf, func(request call) {
			period := now.Load()
			periods[period].add(request(c.t.Context(), strconv.FormatInt(period, 10)))
		})
	}
	time.Sleep(10 * time.Second)
	now.Store(first)
	time.Sleep(5 * time.Second)
	now.Store(after)
	time.Sleep(15 * time.Second)
	stop()
	all.Wait()
	a, b := periods[first].outcome(), periods[after].outcome()
	return []row{
		newRow(allOfManyRoots, outcome{requests: a.requests + b.requests, failed: a.failed + b.failed},
			periods[first].leafCalls.Load()+periods[after].leafCalls.Load(), 0),
		newRow("many-roots/after-5s", b, periods[after].leafCalls.Load(), 0),
	}
}

// startRoot starts a process that makes a request every 1.8 s until ctx ends.
func (c *cell) startRoot(ctx context.Context, all *sync.WaitGroup, leaf *service, do func(request call)) {
	c.t.Helper()
	const gap = 100 * time.Second / 56
	request := c.connect(callPolicy{}, leaf)
	wait := c.dice.between(0, gap)
	all.Go(func() {
		for pause(ctx, wait) {
			started := time.Now()
			do(request)
			wait = gap - time.Since(started)
		}
	})
}

// pause waits for a time and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
