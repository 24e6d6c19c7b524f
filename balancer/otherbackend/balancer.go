package otherbackend

import (
	"errors"
	"sync"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
)

// otherBackend is the balancer of one connection. A configuration that names another
// child policy makes a new child, which is pending until it can serve calls. Until
// then, calls go to the current one.
type otherBackend struct {
	cc   balancer.ClientConn
	opts balancer.BuildOptions

	mu      sync.Mutex
	current *child
	pending *child // nil unless the child policy changes
}

// child is a child policy. To it, it is the connection: it wraps the pickers, and knows
// the child's SubConns.
type child struct {
	balancer.ClientConn
	of       *otherBackend
	name     string
	balancer balancer.Balancer

	// These are guarded by of.mu.
	backends int
	state    balancer.State
	subConns map[balancer.SubConn]bool
	closed   bool
}

// UpdateClientConnState hands the backends and its configuration to the child.
func (b *otherBackend) UpdateClientConnState(s balancer.ClientConnState) error {
	c, ok := s.BalancerConfig.(*config)
	if !ok {
		return errors.New(Name + ": no configuration")
	}
	latest := b.latest()
	if latest == nil || latest.name != c.child.Name() {
		latest = b.add(c.child)
	}
	b.mu.Lock()
	latest.backends = max(len(s.ResolverState.Endpoints), len(s.ResolverState.Addresses))
	b.mu.Unlock()
	s.BalancerConfig = c.config
	return latest.balancer.UpdateClientConnState(s)
}

// latest returns the child that follows the configuration, or nil if there is none.
func (b *otherBackend) latest() *child {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pending != nil {
		return b.pending
	}
	return b.current
}

// add makes a child, which is the current one if there was none.
func (b *otherBackend) add(builder balancer.Builder) *child {
	c := &child{ClientConn: b.cc, of: b, name: builder.Name(), subConns: map[balancer.SubConn]bool{}}
	c.state.ConnectivityState = connectivity.Connecting
	b.mu.Lock()
	replaced := b.pending
	if b.current == nil {
		b.current = c
	} else {
		b.pending = c
	}
	b.mu.Unlock()
	replaced.close()
	c.balancer = builder.Build(c, b.opts)
	return c
}

// ResolverError hands the error to the child.
func (b *otherBackend) ResolverError(err error) {
	if latest := b.latest(); latest != nil {
		latest.balancer.ResolverError(err)
		return
	}
	b.cc.UpdateState(balancer.State{ConnectivityState: connectivity.TransientFailure, Picker: base.NewErrPicker(err)})
}

// UpdateSubConnState does nothing: children listen for themselves.
func (b *otherBackend) UpdateSubConnState(balancer.SubConn, balancer.SubConnState) {}

// ExitIdle tells the child to connect.
func (b *otherBackend) ExitIdle() {
	if latest := b.latest(); latest != nil {
		latest.balancer.ExitIdle()
	}
}

// Close closes the children.
func (b *otherBackend) Close() {
	b.mu.Lock()
	current, pending := b.current, b.pending
	b.current, b.pending = nil, nil
	b.mu.Unlock()
	current.close()
	pending.close()
}

// UpdateState passes the child's state on if it is the current one. A pending child
// becomes the current one when it has connected or failed to, or when the current one
// cannot serve calls either.
func (c *child) UpdateState(s balancer.State) {
	b := c.of
	b.mu.Lock()
	defer b.mu.Unlock()
	s.Picker = &picker{child: s.Picker, backends: c.backends}
	c.state = s
	switch {
	case c == b.pending && (s.ConnectivityState != connectivity.Connecting || b.current.state.ConnectivityState != connectivity.Ready),
		c == b.current && b.pending != nil && s.ConnectivityState != connectivity.Ready:
		old := b.current
		b.current, b.pending = b.pending, nil
		go old.close() // it may call back
		if b.current.state.Picker == nil {
			b.current.state.Picker = base.NewErrPicker(balancer.ErrNoSubConnAvailable)
		}
		b.cc.UpdateState(b.current.state)
	case c == b.current:
		b.cc.UpdateState(s)
	}
}

// NewSubConn makes a SubConn of the child's.
func (c *child) NewSubConn(addresses []resolver.Address, opts balancer.NewSubConnOptions) (balancer.SubConn, error) {
	var sc balancer.SubConn
	listener := opts.StateListener
	opts.StateListener = func(s balancer.SubConnState) {
		if s.ConnectivityState == connectivity.Shutdown {
			c.of.mu.Lock()
			delete(c.subConns, sc)
			c.of.mu.Unlock()
		}
		if listener != nil {
			listener(s)
		}
	}
	sc, err := c.ClientConn.NewSubConn(addresses, opts) //nolint:staticcheck // what is deprecated is more than one address
	if err != nil {
		return nil, err
	}
	c.of.mu.Lock()
	closed := c.closed
	if !closed {
		c.subConns[sc] = true
	}
	c.of.mu.Unlock()
	if closed {
		sc.Shutdown()
		return nil, errors.New(Name + ": the child is closed")
	}
	return sc, nil
}

// close closes a child, which may be nil, and the SubConns that it leaves open.
func (c *child) close() {
	if c == nil {
		return
	}
	c.balancer.Close()
	c.of.mu.Lock()
	c.closed = true
	left := c.subConns
	c.subConns = nil
	c.of.mu.Unlock()
	for sc := range left {
		sc.Shutdown()
	}
}
