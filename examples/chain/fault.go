package main

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/examples/internal/cutlistener"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fault is a fault of the last service. The zero value is a healthy service.
type fault struct {
	fail float64       // share of its calls that fail
	lose float64       // share of its replies that are lost
	slow time.Duration // minimum time that it takes; the maximum is twice as long; 0 for the normal time
}

// faults returns the faults that can be chosen while a chain runs, by name.
func faults() map[string]fault {
	return map[string]fault{
		"healthy": {},
		"down":    {fail: 1},
		"slow":    {slow: 600 * time.Millisecond},
		"failing": {fail: 0.1},
		"lost":    {lose: 0.1},
	}
}

// leaf is the last service. It works for a while, and then replies or fails.
type leaf struct {
	*counters
	fault   atomic.Pointer[fault]
	conns   *cutlistener.Listener
	closing chan struct{}                              // closed when the chain ends
	waste   func(ctx context.Context, d time.Duration) // records wasted work; nil if it is not recorded
}

// serve works on a request. Like many services, it does not check its context, so it continues after its
// user has given up.
func (l *leaf) serve(ctx context.Context, userDeadline time.Time) error {
	l.leafCalls.Add(1)
	f, took := *l.fault.Load(), work
	if f.slow > 0 {
		took = f.slow + rand.N(f.slow) //nolint:gosec // it need not be secret
	}
	select {
	case <-time.After(took):
	case <-l.closing:
	}
	if late := time.Since(userDeadline); late > 0 {
		l.wasted.Add(int64(min(late, took)))
		if l.waste != nil {
			l.waste(ctx, min(late, took))
		}
	}
	return l.answer(ctx, &f)
}

// answer replies, or fails as the fault says.
func (l *leaf) answer(ctx context.Context, f *fault) error {
	chance := rand.Float64() //nolint:gosec // it need not be secret
	switch {
	case chance < f.fail:
		return status.Error(codes.Unavailable, "the last service is down")
	case chance < f.fail+f.lose:
		l.conns.Cut(ctx)
	}
	return nil
}
