package main

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

const (
	killReplicas = 3
	killUsers    = 128
	killAway     = 300 * time.Millisecond // until a killed replica is back
)

// reconnect lets clients reconnect to a replica sooner than gRPC's default of a second, because the runs are short.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 200 * time.Millisecond},
	MinConnectTimeout: time.Second,
}

func killShapes() []shape {
	shapes := make([]shape, 0, 4)
	for _, kind := range []struct {
		name         string
		tiers, calls int
	}{{"kill/direct", 1, 20_000}, {"kill/three-tier", 3, 15_000}} {
		plain := one(kind.name, func(c *cell) row { return kill(c, kind.name, kind.tiers, kind.calls, false) })
		name := kind.name + "+hopbound-servers"
		served := one(name, func(c *cell) row { return kill(c, name, kind.tiers, kind.calls, true) }, hopbound)
		plain.realTime, served.realTime = true, true
		shapes = append(shapes, plain, served)
	}
	return shapes
}

// tier is a service with several replicas on loopback.
type tier struct {
	c         *cell
	withStack bool
	below     *tier // the tier that its handlers call; nil for the leaf
	replicas  [killReplicas]replica
	started   []*service // all that ever ran
}

// replica is one process of a tier.
type replica struct {
	address string
	server  *grpc.Server
	conn    *grpc.ClientConn // to the tier below
}

// start starts a replica like a new process, at its earlier address if it has been started before.
func (t *tier) start(i int) error {
	r := &t.replicas[i]
	address := r.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
	if err != nil {
		return fmt.Errorf("start replica: %w", err)
	}
	r.address = listener.Addr().String()
	s := &service{handle: t.answer}
	if t.below != nil {
		if r.conn, err = t.below.connect(); err != nil {
			return err
		}
		s.handle = passOn(unary(r.conn))
	}
	t.started = append(t.started, s)
	r.server = t.c.newServer(s, t.withStack)
	go func() { _ = r.server.Serve(listener) }()
	return nil
}

// answer is the leaf's handler.
func (t *tier) answer(context.Context, string) error {
	time.Sleep(t.c.dice.between(10*time.Millisecond, 20*time.Millisecond))
	return nil
}

// connect returns a client of the cell's stack that is connected to all replicas.
func (t *tier) connect() (*grpc.ClientConn, error) {
	opts, err := t.c.stack.dial(callPolicy{balancing: roundRobin})
	if err != nil {
		return nil, err
	}
	var addresses []string
	for i := range t.replicas {
		addresses = append(addresses, t.replicas[i].address)
	}
	return newConn(append(opts, grpc.WithConnectParams(reconnect)), addresses)
}

// stop stops a replica like a crash: calls in flight get no reply.
func (t *tier) stop(i int) {
	r := &t.replicas[i]
	r.server.Stop()
	if r.conn != nil {
		_ = r.conn.Close()
	}
}

// startTiers starts the tiers, the leaf first, until the measurement ends.
func (c *cell) startTiers(n int, withStack bool) []*tier {
	c.t.Helper()
	tiers := make([]*tier, 0, n)
	for range n {
		t := &tier{c: c, withStack: withStack}
		if len(tiers) > 0 {
			t.below = tiers[len(tiers)-1]
		}
		for i := range t.replicas {
			if err := t.start(i); err != nil {
				c.t.Fatal(err)
			}
		}
		tiers = append(tiers, t)
	}
	c.t.Cleanup(func() {
		for _, t := range tiers {
			for i := range t.replicas {
				t.stop(i)
			}
		}
	})
	return tiers
}

// kill measures users of services whose replicas are killed in turn, at equal intervals over the run.
func kill(c *cell, name string, depth, calls int, withStack bool) row {
	tiers := c.startTiers(depth, withStack)
	conn, err := tiers[depth-1].connect()
	if err != nil {
		c.t.Fatal(err)
	}
	request := unary(conn)
	var made atomic.Int64
	var killer sync.WaitGroup
	ctx, stop := context.WithCancel(c.t.Context())
	killer.Go(func() { killInTurn(ctx, c, tiers, &made, calls) })
	u := users{concurrent: killUsers, requests: calls}
	o := u.run(ctx, func(ctx context.Context, text string) error {
		made.Add(1)
		return request(ctx, text)
	})
	stop()
	killer.Wait()
	_ = conn.Close()
	var middle int64
	for _, t := range tiers[1:] {
		middle = max(middle, sumCalls(t.started))
	}
	return newRow(name, o, sumCalls(tiers[0].started), middle)
}

// killInTurn kills the first replica of each tier, then the second of each, and so on. It restarts each after
// killAway.
func killInTurn(ctx context.Context, c *cell, tiers []*tier, made *atomic.Int64, calls int) {
	kills := killReplicas * len(tiers)
	for k := range kills {
		for made.Load() < int64(calls*(2*k+1)/(2*kills)) {
			if !pause(ctx, time.Millisecond) {
				return
			}
		}
		t, i := tiers[len(tiers)-1-k%len(tiers)], k/len(tiers)
		t.stop(i)
		time.Sleep(killAway)
		if err := t.start(i); err != nil {
			c.t.Error(err)
			return
		}
	}
}
