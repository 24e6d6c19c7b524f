package interceptors_test

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A link is a connection over a network: it takes time each way, and it can be
// held up or cut off without either end being told.
type link struct {
	net.Conn
	network *network
}

// network is what all links of a test have in common.
type network struct {
	delay atomic.Int64 // each way, in nanoseconds

	mu   sync.Mutex
	held chan struct{} // closed when what is held up may go on; nil if nothing is
	cut  bool
}

// newNetwork returns a network that takes some time each way.
func newNetwork(delay time.Duration) *network {
	n := &network{}
	n.delay.Store(int64(delay))
	return n
}

// hold keeps what is sent to the server until the returned function is called.
func (n *network) hold() (release func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	held := make(chan struct{})
	n.held = held
	return func() { close(held) }
}

// partition drops all that is sent from now on, either way.
func (n *network) partition() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = true
}

func (n *network) state() (held chan struct{}, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.held, n.cut
}

func (l *link) Write(p []byte) (int, error) {
	time.Sleep(time.Duration(l.network.delay.Load()))
	held, cut := l.network.state()
	if held != nil {
		<-held
		_, cut = l.network.state()
	}
	if cut {
		return len(p), nil
	}
	return l.Conn.Write(p)
}

func (l *link) Read(p []byte) (int, error) {
	for {
		n, err := l.Conn.Read(p)
		if err != nil {
			return n, err
		}
		time.Sleep(time.Duration(l.network.delay.Load()))
		if _, cut := l.network.state(); !cut {
			return n, nil
		}
	}
}
