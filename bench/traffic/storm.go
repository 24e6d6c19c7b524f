package main

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/interceptors"
)

// A storm follows a time in which a leaf with a queue is slow. The callers of the jobs in the queue have given up, and
// their further attempts add jobs to the queue.
const (
	stormWorkers  = 4
	stormJob      = 5 * time.Millisecond
	stormSlowness = 10  // factor by which jobs take longer while the leaf is slow
	stormRate     = 560 // requests per second: 0.7 of the workers' capacity
	stormDeadline = 200 * time.Millisecond
	stormHealthy  = 5 // seconds
	stormSlow     = 2 * time.Second
	stormAfter    = 15                     // seconds
	stormWindow   = 250 * time.Millisecond // of the windows in which successes are counted
	unbounded     = 1 << 20                // more jobs than any run makes
)

func stormShapes() []shape {
	shapes := make([]shape, 0, 10)
	for _, queue := range []struct {
		suffix string
		limit  int
	}{{"", unbounded}, {",queue=40", 40}} {
		for _, v := range []struct {
			name   string
			policy callPolicy
			stacks []string // for settings that only Hopbound has; gRPC alone is the comparison
		}{
			{"plain", callPolicy{}, nil},
			{"attempt=60ms", callPolicy{attemptTimeout: 60 * time.Millisecond}, nil},
			{"shared", callPolicy{attemptTimeout: interceptors.AttemptTimeoutShared}, []string{grpcAlone, hopbound}},
			{"hedge=p95", callPolicy{hedgeDelay: interceptors.HedgeAtP95}, []string{grpcAlone, hopbound}},
			{"hedge=30ms", callPolicy{hedgeDelay: 30 * time.Millisecond}, []string{grpcAlone, hopbound}},
		} {
			name := "storm/" + v.name + queue.suffix
			shapes = append(shapes, one(name, func(c *cell) row { return storm(c, name, v.policy, queue.limit) }, v.stacks...))
		}
	}
	return shapes
}

// jobQueue is the first-in, first-out queue of a leaf. Its workers do not check whether a job's caller is still waiting.
type jobQueue struct {
	jobs chan chan struct{}
	slow atomic.Bool
}

func (q *jobQueue) work(ctx context.Context) {
	for {
		select {
		case done := <-q.jobs:
			d := stormJob
			if q.slow.Load() {
				d *= stormSlowness
			}
			time.Sleep(d)
			close(done)
		case <-ctx.Done():
			return
		}
	}
}

// handle is a handler that waits for its job. It returns UNAVAILABLE if the queue is full.
func (q *jobQueue) handle(ctx context.Context, _ string) error {
	done := make(chan struct{})
	select {
	case q.jobs <- done:
	default:
		return errUnavailable
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// storm measures success after the slow time of the leaf has ended, and the time until success is back to normal.
func storm(c *cell, name string, p callPolicy, limit int) row {
	q := &jobQueue{jobs: make(chan chan struct{}, limit)}
	ctx, stop := context.WithCancel(c.t.Context())
	var workers sync.WaitGroup
	for range stormWorkers {
		workers.Go(func() { q.work(ctx) })
	}
	ch := c.chainOf(3, p, q.handle, passOn)
	healthy := time.Duration(c.size(stormHealthy, 3)) * time.Second
	after := time.Duration(c.size(stormAfter, 6)) * time.Second
	windows := make([]counter, (healthy+stormSlow+after)/stormWindow)
	var leaf, middle int64 // calls until the end of the slow time
	workers.Go(func() {
		time.Sleep(healthy)
		q.slow.Store(true)
		time.Sleep(stormSlow)
		q.slow.Store(false)
		leaf, middle = ch.leaf().calls.Load(), ch.middleCalls()
	})
	c.poisson(windows, ch.user)
	stop()
	workers.Wait()
	windows = windows[(healthy+stormSlow)/stormWindow:]
	r := newRow(name, sum(windows), ch.leaf().calls.Load()-leaf, ch.middleCalls()-middle)
	seconds := recoveredAfter(windows)
	r.Recovery = &seconds
	last := sum(windows[2*len(windows)/3:])
	r.Settled = 1 - float64(last.failed)/float64(last.requests)
	return r
}

// poisson makes requests as a Poisson process, regardless of the replies. It counts each request in the window in which
// the request starts.
func (c *cell) poisson(windows []counter, request call) {
	var all sync.WaitGroup
	begin := time.Now()
	for id := 0; ; id++ {
		time.Sleep(time.Duration(c.dice.exponential() / stormRate * float64(time.Second)))
		i := int(time.Since(begin) / stormWindow)
		if i >= len(windows) {
			break
		}
		all.Go(func() {
			ctx, cancel := context.WithTimeout(c.t.Context(), stormDeadline)
			defer cancel()
			windows[i].add(request(ctx, strconv.Itoa(id)))
		})
	}
	all.Wait()
}

// sum returns the outcome of all windows.
func sum(windows []counter) (total outcome) {
	for i := range windows {
		o := windows[i].outcome()
		total.requests += o.requests
		total.failed += o.failed
	}
	return total
}

// recoveredAfter returns the seconds until the first of three windows in a row in which
// 99 % of the requests succeed, or -1 if there are none.
func recoveredAfter(windows []counter) float64 {
	inARow := 0
	for i := range windows {
		inARow++
		if o := windows[i].outcome(); float64(o.failed) > 0.01*float64(o.requests) {
			inARow = 0
		}
		if inARow == 3 {
			return (time.Duration(i-2) * stormWindow).Seconds()
		}
	}
	return -1
}
