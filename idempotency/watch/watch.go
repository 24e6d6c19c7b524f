// Package watch lets many callers wait for one record of a store, while one goroutine polls the
// record for all of them. It is for authors of stores that learn late, or not at all, that a record
// has changed.
//
// The package knows no store: the caller of [Group.Wait] passes a function that reads the record.
package watch

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// Pace bounds the pause between two looks at a record. A pause is a tenth of the time waited so
// far, but at least Min and at most Max, plus a jitter of up to a quarter. So if Min and Max do not
// matter, a caller notices the end of its wait after at most an eighth of the wait. Min and Max
// must be positive.
type Pace struct{ Min, Max time.Duration }

// Look reads a record, and returns for how much longer it may be pending. If the result is not
// positive, the record is not pending or its lease has expired.
type Look func(ctx context.Context) (left time.Duration, err error)

// Group holds the records that callers of one process wait for. The zero value is ready to use. A
// Group is safe for concurrent use.
type Group struct {
	mu      sync.Mutex
	watches map[idempotency.ID]*watch
}

// watch is a record that callers wait for.
type watch struct {
	waiters int
	stop    context.CancelFunc
	wake    chan struct{} // has room for one
	over    chan struct{} // closed at the end, after err is set
	err     error
}

// Wait returns nil when look reports that the record is no longer pending, the error of look if it
// fails, or the error of ctx when that ends. If several callers wait for a record, the look and the
// pace of the first are used. The context of look has the values of the first caller's context, and
// ends when no caller waits any more.
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

// Wake looks at a record now, if anybody waits for it.
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

// leave ends a watch when the last caller has left.
func (g *Group) leave(id idempotency.ID, w *watch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if w.waiters--; w.waiters == 0 {
		w.stop()
		g.forget(id, w)
	}
}

// forget removes a watch, so that the next caller starts another.
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

// look polls the record until it is no longer pending.
func (w *watch) look(ctx context.Context, pace Pace, look Look) error {
	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		left, err := look(ctx)
		if err != nil || left <= 0 {
			return err
		}
		pause := min(max(time.Since(start)/10, pace.Min), pace.Max)
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
