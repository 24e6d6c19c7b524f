package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"

	chainv1 "github.com/hopbound/hopbound/examples/chain/proto/hopbound/examples/chain/v1"
	"github.com/hopbound/hopbound/examples/internal/cutlistener"
	"github.com/hopbound/hopbound/idempotency"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

const (
	// work is the time that the last service needs for a call.
	work = time.Millisecond
	// backoff is the maximum backoff of both stacks.
	backoff = time.Millisecond
	// stall is the time that the last service needs for one order in stallOneIn.
	stall      = 60 * time.Millisecond
	stallOneIn = 5
)

// counters counts the calls in a chain.
type counters struct {
	calls     atomic.Int64 // of all services
	leafCalls atomic.Int64
	wasted    atomic.Int64 // nanoseconds that the last service worked after its user had given up
}

// hop is one service. It passes requests to the next service. The last service, whose next is nil, replies or
// fails.
type hop struct {
	chainv1.UnimplementedHopServiceServer
	*counters
	next    chainv1.HopServiceClient
	leaf    *leaf
	replica *replica // nil unless it is the last service
	middle  bool
	orders  atomic.Int64
}

func (h *hop) Pass(ctx context.Context, req *chainv1.PassRequest) (*chainv1.PassResponse, error) {
	h.calls.Add(1)
	if h.middle {
		h.leaf.wait()
	}
	if h.next != nil {
		return h.next.Pass(ctx, req)
	}
	if err := h.leaf.serve(ctx, h.replica, time.UnixMicro(req.GetUserGoneUnixMicros())); err != nil {
		return nil, err
	}
	return &chainv1.PassResponse{}, nil
}

func (h *hop) Order(ctx context.Context, req *chainv1.OrderRequest) (*chainv1.OrderResponse, error) {
	if h.next != nil {
		if _, err := h.next.Order(ctx, req); err != nil {
			return nil, err
		}
	} else {
		if number := h.orders.Load(); number%stallOneIn == 0 {
			time.Sleep(stall)
		}
		if err := h.leaf.answer(ctx, h.replica, h.leaf.fault.Load()); err != nil {
			return nil, err
		}
	}
	return &chainv1.OrderResponse{Number: h.orders.Add(1)}, nil
}

// chain is a row of running services.
type chain struct {
	counters
	leaf    *leaf
	user    chainv1.HopServiceClient // the users' client of the first service
	closers []func()
}

// start starts the services of a chain, and connects the users to the first.
func start(ctx context.Context, cfg *config, b builder, f fault) (_ *chain, err error) {
	c := &chain{}
	if c.leaf, err = newLeaf(&c.counters, &f); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	var next chainv1.HopServiceClient
	for i := cfg.depth; i >= 1; i-- {
		addresses, err := c.serveHop(ctx, cfg, b, i, next)
		if err != nil {
			return nil, err
		}
		if next, err = c.connect(b, i-1, addresses); err != nil {
			return nil, err
		}
	}
	c.user = next
	return c, nil
}

// serveHop runs the service with a number, and returns the addresses of its replicas. Only the last service may
// have more than one.
func (c *chain) serveHop(ctx context.Context, cfg *config, b builder, number int, next chainv1.HopServiceClient) (addresses []string, err error) {
	outcomes := store{idempotency.NewMemory(), c.leaf} // of all replicas
	isLast, replicas := number == cfg.depth, 1
	if isLast {
		replicas = max(1, cfg.replicas)
	}
	for n := range replicas {
		h := &hop{counters: &c.counters, next: next, leaf: c.leaf, middle: !isLast && number == (cfg.depth+1)/2}
		if isLast {
			h.replica = &replica{first: n == 0}
		}
		opts, err := b.serverOptions(number, outcomes)
		if err != nil {
			return nil, err
		}
		if isLast {
			opts = append(opts, c.leaf.failing.ServerOptions()...)
		}
		address, err := c.serve(ctx, h, opts)
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, address)
	}
	return addresses, nil
}

// serve runs a service on a free loopback port.
func (c *chain) serve(ctx context.Context, h *hop, opts []grpc.ServerOption) (string, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listen: %w", err)
	}
	conns := cutlistener.New(listener)
	if h.replica != nil {
		h.replica.conns = conns
	}
	server := grpc.NewServer(append(opts, grpc.WaitForHandlers(true))...) // so that their spans end
	chainv1.RegisterHopServiceServer(server, h)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(conns) // returns after Stop
	}()
	c.closers = append(c.closers, func() {
		server.Stop()
		<-done
	})
	return listener.Addr().String(), nil
}

// connect returns the client with which a hop calls the service at some addresses, in turn. Hop 0 is the user.
func (c *chain) connect(b builder, hop int, addresses []string) (chainv1.HopServiceClient, error) {
	opts, err := b.dialOptions(hop)
	if err != nil {
		return nil, err
	}
	target := addresses[0]
	if len(addresses) > 1 {
		replicas := manual.NewBuilderWithScheme("leaf")
		replicas.InitialState(resolver.State{Addresses: resolved(addresses)})
		opts, target = append(opts, grpc.WithResolvers(replicas)), "leaf:///replicas"
	}
	conn, err := grpc.NewClient(target, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	c.closers = append(c.closers, func() { _ = conn.Close() })
	return chainv1.NewHopServiceClient(conn), nil
}

func resolved(addresses []string) (all []resolver.Address) {
	for _, a := range addresses {
		all = append(all, resolver.Address{Addr: a})
	}
	return all
}

// close stops the services, starting with the first, so that no handler waits for the next service.
func (c *chain) close() {
	close(c.leaf.closing)
	for _, end := range slices.Backward(c.closers) {
		end()
	}
}
