package main

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// fault is what is wrong with the last service.
type fault struct {
	fail float64       // share of its calls that fail
	lose float64       // share of its replies that get lost
	slow time.Duration // how long it takes at least, and at most twice as long; 0 is as always
}

// faults are those that can be chosen while a chain runs.
func faults() map[string]fault {
	return map[string]fault{
		"healthy": {},
		"down":    {fail: 1},
		"slow":    {slow: 600 * time.Millisecond},
		"failing": {fail: 0.1},
		"lost":    {lose: 0.1},
	}
}

// leaf is what the last service does: it works for a while, and then answers or
// has its fault.
type leaf struct {
	*counters
	fault   atomic.Pointer[fault]
	wires   *wires
	closing chan struct{}                              // closed when the chain ends
	waste   func(ctx context.Context, d time.Duration) // measures work for nobody; nil if nobody wants to know
}

// serve works on a request, for longer than its user waits if need be, as many a
// service does that does not look at its context.
func (l *leaf) serve(ctx context.Context, userGone time.Time) error {
	l.leafCalls.Add(1)
	f, took := *l.fault.Load(), work
	if f.slow > 0 {
		took = f.slow + rand.N(f.slow) //nolint:gosec // chance need not be secret
	}
	select {
	case <-time.After(took):
	case <-l.closing:
	}
	if late := time.Since(userGone); late > 0 {
		l.wasted.Add(int64(min(late, took)))
		if l.waste != nil {
			l.waste(ctx, min(late, took))
		}
	}
	return l.answer(ctx, &f)
}

// answer answers, or has the fault.
func (l *leaf) answer(ctx context.Context, f *fault) error {
	chance := rand.Float64() //nolint:gosec // chance need not be secret
	switch {
	case chance < f.fail:
		return status.Error(codes.Unavailable, "the last service is down")
	case chance < f.fail+f.lose:
		l.wires.cut(ctx)
	}
	return nil
}

// wires is a listener whose connections can be cut.
type wires struct {
	net.Listener
	mu    sync.Mutex
	conns map[string]net.Conn
}

// Accept waits for a connection.
func (w *wires) Accept() (net.Conn, error) {
	conn, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conns == nil {
		w.conns = map[string]net.Conn{}
	}
	address := conn.RemoteAddr().String()
	w.conns[address] = conn
	return &wire{Conn: conn, closed: func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.conns, address)
	}}, nil
}

// cut cuts the connection that a call came by, so that its reply, and all others
// under way, get lost.
func (w *wires) cut(ctx context.Context) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if conn := w.conns[p.Addr.String()]; conn != nil {
		_ = conn.Close()
	}
}

// wire is a connection that tells when it is closed.
type wire struct {
	net.Conn
	closed func()
}

func (w *wire) Close() error {
	w.closed()
	return w.Conn.Close()
}
