package otherbackend

import (
	"errors"
	"sync"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
)

// otherBackend is the balancer of one connection. If a new configuration names another child policy,
// otherBackend creates a pending child for it. The current child picks the backends until the pending one
// can serve calls.
type otherBackend struct {
	cc   balancer.ClientConn
	opts balancer.BuildOptions

	mu      sync.Mutex
	current *child
	pending *child // nil unless the child policy is being changed
}

// child is a child policy and the ClientConn that the policy is given. This ClientConn wraps the policy's
// pickers, and keeps its SubConns in order to shut them down.
type child struct {
	balancer.ClientConn
	parent   *otherBackend
	name     string
	balancer balancer.Balancer

	// parent.mu guards these fields.
	backends int
	state    balancer.State
	subConns map[balancer.SubConn]bool
	closed   bool
}

// UpdateClientConnState passes the backends and the child's configuration to the child.
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

// latest returns the child of the latest configuration, or nil if there is none.
func (b *otherBackend) latest() *child {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pending != nil {
		return b.pending
	}
	return b.current
}

// add creates a child. It becomes the current child if there is none, and the pending one otherwise.
func (b *otherBackend) add(builder balancer.Builder) *child {
	c := &child{ClientConn: b.cc, parent: b, name: builder.Name(), subConns: map[balancer.SubConn]bool{}}
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

// ResolverError passes the error to the child.
func (b *otherBackend) ResolverError(err error) {
	if latest := b.latest(); latest != nil {
		latest.balancer.ResolverError(err)
		return
	}
	b.cc.UpdateState(balancer.State{ConnectivityState: connectivity.TransientFailure, Picker: base.NewErrPicker(err)})
}

// UpdateSubConnState does nothing, because children use StateListeners.
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

// UpdateState passes the state of the current child to gRPC. A pending child replaces the current one when
// it has connected or failed to connect, or when the current one cannot serve calls either.
func (c *child) UpdateState(s balancer.State) {
	b := c.parent
	b.mu.Lock()
	defer b.mu.Unlock()
	s.Picker = &picker{child: s.Picker, backends: c.backends}
	c.state = s
	switch {
	case c == b.pending && (s.ConnectivityState != connectivity.Connecting || b.current.state.ConnectivityState != connectivity.Ready),
		c == b.current && b.pending != nil && s.ConnectivityState != connectivity.Ready:
		old := b.current
		b.current, b.pending = b.pending, nil
		go old.close() // in a goroutine, because it may call UpdateState, which needs the lock
		if b.current.state.Picker == nil {
			b.current.state.Picker = base.NewErrPicker(balancer.ErrNoSubConnAvailable)
		}
		b.cc.UpdateState(b.current.state)
	case c == b.current:
		b.cc.UpdateState(s)
	}
}

// NewSubConn creates a SubConn for the child.
func (c *child) NewSubConn(addresses []resolver.Address, opts balancer.NewSubConnOptions) (balancer.SubConn, error) {
	var sc balancer.SubConn
	listener := opts.StateListener
	opts.StateListener = func(s balancer.SubConnState) {
		if s.ConnectivityState == connectivity.Shutdown {
			c.parent.mu.Lock()
			delete(c.subConns, sc)
			c.parent.mu.Unlock()
		}
		if listener != nil {
			listener(s)
		}
	}
	sc, err := c.ClientConn.NewSubConn(addresses, opts) //nolint:staticcheck // only several addresses are deprecated
	if err != nil {
		return nil, err
	}
	c.parent.mu.Lock()
	closed := c.closed
	if !closed {
		c.subConns[sc] = true
	}
	c.parent.mu.Unlock()
	if closed {
		sc.Shutdown()
		return nil, errors.New(Name + ": the child is closed")
	}
	return sc, nil
}

// close closes a child, and shuts down the SubConns that the policy has left open. c may be nil.
func (c *child) close() {
	if c == nil {
		return
	}
	c.balancer.Close()
	c.parent.mu.Lock()
	c.closed = true
	open := c.subConns
	c.subConns = nil
	c.parent.mu.Unlock()
	for sc := range open {
		sc.Shutdown()
	}
}
