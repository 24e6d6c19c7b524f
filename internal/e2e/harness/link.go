package harness

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
	network *Network
	number  int // of the connection
}

// Network is what all connections to a node have in common: their delay, and whether they are blocked.
type Network struct {
	Delay atomic.Int64 // each way, in nanoseconds

	mu   sync.Mutex
	held chan struct{} // closed when what is held up may go on; nil if nothing is
	cut  bool

	connections int // that were made
	dead        int // of these, the first ones, over which nothing arrives any more
}

// Over returns a connection over the network.
func (n *Network) Over(conn net.Conn) net.Conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.connections++
	return &link{Conn: conn, network: n, number: n.connections}
}

// NewNetwork returns a network with a delay in each direction.
func NewNetwork(delay time.Duration) *Network {
	n := &Network{}
	n.Delay.Store(int64(delay))
	return n
}

// Hold keeps what is sent to the server until the returned function is called.
func (n *Network) Hold() (release func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	held := make(chan struct{})
	n.held = held
	return func() { close(held) }
}

// Partition drops all that is sent from now on, in both directions.
func (n *Network) Partition() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = true
}

// Heal ends a partition. Connections over which something was dropped stay dead, as a TCP connection does whose other
// end has forgotten it.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut, n.dead = false, n.connections
}

// Silence drops all that is sent over the connections that there are, and lets new ones be made.
func (n *Network) Silence() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dead = n.connections
}

func (l *link) state() (held chan struct{}, cut bool) {
	n := l.network
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.held, n.cut || l.number <= n.dead
}

func (l *link) Write(p []byte) (int, error) {
	time.Sleep(time.Duration(l.network.Delay.Load()))
	held, cut := l.state()
	if held != nil {
		<-held
		_, cut = l.state()
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
		time.Sleep(time.Duration(l.network.Delay.Load()))
		if _, cut := l.state(); !cut {
			return n, nil
		}
	}
}
