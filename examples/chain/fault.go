package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/examples/internal/cutlistener"
	"github.com/hopbound/hopbound/idempotency"
	faults "github.com/hopbound/hopbound/interceptors/fault"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// fault is a fault of a chain, most of them of its last service. The zero value is a healthy chain.
type fault struct {
	fail float64       // share of the last service's calls that fail
	lose float64       // share of its replies that are lost
	slow time.Duration // minimum time that it takes; the maximum is twice as long; 0 for the normal time

	replicaDown bool          // one replica of the last service fails all its calls
	dishonest   bool          // the last service reports more tokens than it was lent
	stop        time.Duration // how long the service in the middle stops, once
	timeout     time.Duration // how long users wait; 0 for the normal time
	storeDown   bool          // the idempotency stores fail
	conflicts   bool          // users send each order again with another item under the same key
}

// choices returns the faults that can be chosen while a chain runs, by name. The page has buttons for the first
// five. POST /fault/NAME chooses any of them.
func choices() map[string]fault {
	return map[string]fault{
		"healthy": {},
		"down":    {fail: 1},
		"slow":    {slow: 600 * time.Millisecond},
		"failing": {fail: 0.1},
		"lost":    {lose: 0.1},

		"lossy":     {lose: 0.3},
		"half":      {fail: 0.5},
		"replica":   {replicaDown: true},
		"dishonest": {dishonest: true},
		"stopped":   {stop: 2 * time.Second},
		"hurried":   {timeout: 3 * time.Millisecond},
		"store":     {storeDown: true},
		"conflicts": {conflicts: true},
	}
}

// leaf is the last service. It works for a while, and then replies or fails.
type leaf struct {
	*counters
	fault   atomic.Pointer[fault]
	failing *faults.Faults                             // share of the calls that fail
	stopped atomic.Int64                               // until when the service in the middle stands still, in Unix nanoseconds
	closing chan struct{}                              // closed when the chain ends
	waste   func(ctx context.Context, d time.Duration) // records wasted work; nil if it is not recorded
}

// newLeaf returns the last service of a chain with a fault.
func newLeaf(c *counters, f *fault) (*leaf, error) {
	failing, err := faults.New(nil)
	if err != nil {
		return nil, err
	}
	l := &leaf{counters: c, failing: failing, closing: make(chan struct{})}
	l.choose(f)
	return l, failing.Enable()
}

// choose sets the fault of the chain.
func (l *leaf) choose(f *fault) {
	l.fault.Store(f)
	var rules []faults.Rule
	if f.fail > 0 { // the service works on the call, and fails then
		rules = append(rules, faults.Rule{Name: "down", Message: "the last service is down", Share: f.fail, LoseReply: true})
	}
	_ = l.failing.Set(rules...) // these are valid
	if f.stop > 0 {
		l.stopped.Store(time.Now().Add(f.stop).UnixNano())
	}
}

// wait waits while the service in the middle stands still.
func (l *leaf) wait() {
	select {
	case <-time.After(time.Until(time.Unix(0, l.stopped.Load()))):
	case <-l.closing:
	}
}

// store is an idempotency store in memory that fails while it is told to.
type store struct {
	*idempotency.Memory
	leaf *leaf
}

// Begin fails, or claims a key.
func (s store) Begin(ctx context.Context, c idempotency.Claim) (idempotency.BeginResult, error) {
	if s.leaf.fault.Load().storeDown {
		return idempotency.BeginResult{}, errors.New("the store is down")
	}
	return s.Memory.Begin(ctx, c)
}

// serve works on a request. Like many services, it does not check its context, so it continues after its
// user has given up.
func (l *leaf) serve(ctx context.Context, r *replica, userDeadline time.Time) error {
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
	return l.answer(ctx, r, &f)
}

// replica is one replica of the last service.
type replica struct {
	first bool
	conns *cutlistener.Listener
}

// answer replies, or fails as the fault says.
func (l *leaf) answer(ctx context.Context, r *replica, f *fault) error {
	if f.dishonest {
		_ = grpc.SetTrailer(ctx, metadata.Pairs("hop-report", "1;u=1000;e=1")) // it cannot fail before the handler has returned
	}
	switch {
	case f.replicaDown && r.first:
		return status.Error(codes.Unavailable, "the last service is down")
	case rand.Float64() < f.lose: //nolint:gosec // it need not be secret
		r.conns.Cut(ctx)
	}
	return nil
}
