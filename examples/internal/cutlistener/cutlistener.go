// Package cutlistener provides a listener whose connections can be cut while calls are in flight, so that
// examples can lose replies.
package cutlistener

import (
	"context"
	"net"
	"sync"

	"google.golang.org/grpc/peer"
)

// Listener is a listener whose connections can be cut. It is safe for concurrent use. Make one with [New].
type Listener struct {
	net.Listener

	mu    sync.Mutex
	conns map[string]net.Conn // by the peer's address
}

// New returns a listener that accepts connections from l.
func New(l net.Listener) *Listener {
	return &Listener{Listener: l, conns: map[string]net.Conn{}}
}

// Accept waits for a connection.
func (l *Listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	address := conn.RemoteAddr().String()
	l.conns[address] = conn
	return &cuttable{Conn: conn, closed: func() { l.forget(address) }}, nil
}

func (l *Listener) forget(address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, address)
}

// Cut closes the connection on which the call with this context arrived. The replies of all calls in flight
// on the connection are lost.
func (l *Listener) Cut(ctx context.Context) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if conn := l.conns[p.Addr.String()]; conn != nil {
		_ = conn.Close() // the server closes it a second time
	}
}

// cuttable is a connection that calls closed when its server closes it.
type cuttable struct {
	net.Conn
	closed func()
}

func (c *cuttable) Close() error {
	c.closed()
	return c.Conn.Close()
}
