package pgstore

import (
	"context"
	"encoding/base64"
	"math"
	"sync"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/watch"
	"github.com/jackc/pgx/v5"
)

// Bounds of the pauses between two looks at a record that callers wait for. With notifications,
// looks are needed only in case a notification is lost.
const (
	minPause    = 5 * time.Millisecond
	maxPause    = 250 * time.Millisecond
	listenPause = time.Second
)

// Wait returns when the record may no longer be pending.
func (s *Store) Wait(ctx context.Context, id idempotency.ID) error {
	pace := watch.Pace{Min: minPause, Max: maxPause}
	if s.listen {
		s.listener.join()
		defer s.listener.leave()
		if s.listener.listens() {
			pace.Max = listenPause
		}
	}
	return wrap("wait", s.waiting.Wait(ctx, id, pace, func(ctx context.Context) (time.Duration, error) { return s.look(ctx, id) }))
}

// look marks a record as waited for, so that its end sends a notification. It returns how long the
// lease lasts, or 0 if the record is not pending.
func (s *Store) look(ctx context.Context, id idempotency.ID) (time.Duration, error) {
	var left float64
	b := &pgx.Batch{}
	if s.listen {
		b.Queue(s.sql.look, id[:])
	}
	b.Queue(s.sql.left, id[:]).QueryRow(func(row pgx.Row) error { return ignoreNone(row.Scan(&left)) })
	err := s.own.SendBatch(ctx, b).Close()
	if hasCode(err, codeSerialization) { // look again
		return time.Second, nil
	}
	return time.Duration(min(max(0, left), math.MaxInt64/2e9) * float64(time.Second)), err
}

// listener listens for notifications while callers wait, and for listenIdle after that.
type listener struct {
	store *Store

	mu      sync.Mutex
	waiters int
	stop    context.CancelFunc // ends run; nil if it does not run
	done    chan struct{}
	idle    *time.Timer
	closed  bool
	ready   bool
}

// listenIdle is how long a connection still listens when the last caller has stopped waiting.
const listenIdle = 10 * time.Second

func (l *listener) join() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiters++
	if l.idle != nil {
		l.idle.Stop()
	}
	if l.stop == nil && !l.closed {
		ctx, stop := context.WithCancel(context.Background())
		l.stop, l.done = stop, make(chan struct{})
		go l.run(ctx, l.done)
	}
}

func (l *listener) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiters--
	if l.waiters == 0 && l.stop != nil {
		l.idle = time.AfterFunc(listenIdle, l.stopIdle)
	}
}

// stopIdle closes the connection if still nobody waits.
func (l *listener) stopIdle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiters == 0 && l.stop != nil {
		l.stop()
		l.stop, l.ready = nil, false
	}
}

func (l *listener) close() {
	l.mu.Lock()
	l.closed = true
	if l.idle != nil {
		l.idle.Stop()
	}
	stop, done := l.stop, l.done
	l.mu.Unlock()
	if stop != nil {
		stop()
	}
	if done != nil {
		<-done
	}
}

// listens reports whether a connection listens for notifications.
func (l *listener) listens() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ready
}

// run listens until ctx ends, on one connection after another.
func (l *listener) run(ctx context.Context, done chan struct{}) {
	defer close(done)
	for ctx.Err() == nil {
		_ = l.listen(ctx) // meanwhile, callers only poll
		l.set(ctx, false)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (l *listener) set(ctx context.Context, ready bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready = ready && ctx.Err() == nil
}

func (l *listener) listen(ctx context.Context) error {
	pooled, err := l.store.own.Acquire(ctx)
	if err != nil {
		return err
	}
	// A connection that has listened is not returned to the pool, because it would go on to receive
	// notifications.
	conn := pooled.Hijack()
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{l.store.channel}.Sanitize()); err != nil {
		return err
	}
	l.set(ctx, true)
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		if raw, err := base64.RawURLEncoding.DecodeString(n.Payload); err == nil && len(raw) == len(idempotency.ID{}) {
			l.store.waiting.Wake(idempotency.ID(raw))
		}
	}
}
