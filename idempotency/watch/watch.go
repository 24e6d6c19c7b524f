// Package watch lets many wait for the same record of a store while one looks
// at it.
//
// It knows no store: what looking means it is told. It is for stores that
// cannot tell when a record changes, or can but not reliably.
package watch

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// Pace is how often a record is looked at: after Least, and then each time after
// a tenth of the time waited so far, but at most Most. So whoever waits learns
// of the end late by little more than a tenth of its wait, and what takes long
// is not looked at often.
type Pace struct{ Least, Most time.Duration }

// Look looks at a record, and returns for how much longer it may be pending: 0
// if it is not, or if whoever runs it has lost it.
type Look func(ctx context.Context) (left time.Duration, err error)

// Group is those who wait. The zero value has none. It is safe for concurrent
// use.
type Group struct {
	mu      sync.Mutex
	watches map[idempotency.ID]*watch
}

// watch is one record that is waited for.
type watch struct {
	waiters int
	stop    context.CancelFunc
	wake    chan struct{} // has room for one
	over    chan struct{} // closed when it is over, after err is set
	err     error
}

// Wait returns when look says that a record is not pending any more, or fails,
// or when ctx ends, with its error. Of all who wait for a record, the first
// brings the look that is used.
func (g *Group) Wait(ctx context.Context, id idempotency.ID, pace Pace, look Look) error {
	w := g.join(ctx, id, pace, look)
	defer g.leave(id, w)
	select {
	case <-w.over:
		return w.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Wake has a record looked at now, if anybody waits for it.
func (g *Group) Wake(id idempotency.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if w := g.watches[id]; w != nil {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// Waiting returns how many records are waited for.
func (g *Group) Waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.watches)
}

func (g *Group) join(ctx context.Context, id idempotency.ID, pace Pace, look Look) *watch {
	g.mu.Lock()
	defer g.mu.Unlock()
	w := g.watches[id]
	if w == nil {
		if g.watches == nil {
			g.watches = map[idempotency.ID]*watch{}
		}
		ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
		w = &watch{stop: stop, wake: make(chan struct{}, 1), over: make(chan struct{})}
		g.watches[id] = w
		go g.run(ctx, id, w, pace, look)
	}
	w.waiters++
	return w
}

// leave ends a watch when the last has left.
func (g *Group) leave(id idempotency.ID, w *watch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if w.waiters--; w.waiters == 0 {
		w.stop()
		g.forget(id, w)
	}
}

// forget makes the next to wait begin a watch of its own.
func (g *Group) forget(id idempotency.ID, w *watch) {
	if g.watches[id] == w {
		delete(g.watches, id)
	}
}

func (g *Group) run(ctx context.Context, id idempotency.ID, w *watch, pace Pace, look Look) {
	w.err = w.look(ctx, pace, look)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forget(id, w)
	close(w.over)
}

// look looks until it is over.
func (w *watch) look(ctx context.Context, pace Pace, look Look) error {
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		left, err := look(ctx)
		if err != nil || left <= 0 {
			return err
		}
		pause := min(max(time.Since(began)/10, pace.Least), pace.Most)
		pause += rand.N(pause/4 + 1) //nolint:gosec // jitter need not be secret
		timer.Reset(min(pause, left+time.Millisecond))
		select {
		case <-timer.C:
		case <-w.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
