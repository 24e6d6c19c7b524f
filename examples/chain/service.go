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
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
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
	next   chainv1.HopServiceClient
	leaf   *leaf
	orders atomic.Int64
}

func (h *hop) Pass(ctx context.Context, req *chainv1.PassRequest) (*chainv1.PassResponse, error) {
	h.calls.Add(1)
	if h.next != nil {
		return h.next.Pass(ctx, req)
	}
	if err := h.leaf.serve(ctx, time.UnixMicro(req.GetUserGoneUnixMicros())); err != nil {
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
		if err := h.leaf.answer(ctx, h.leaf.fault.Load()); err != nil {
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
	c.leaf = &leaf{counters: &c.counters, closing: make(chan struct{})}
	c.leaf.fault.Store(&f)
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	var next chainv1.HopServiceClient
	for i := cfg.depth; i >= 1; i-- {
		opts, err := b.serverOptions(i)
		if err != nil {
			return nil, err
		}
		address, err := c.serve(ctx, &hop{counters: &c.counters, next: next, leaf: c.leaf}, opts)
		if err != nil {
			return nil, err
		}
		if next, err = c.connect(b, i-1, address); err != nil {
			return nil, err
		}
	}
	c.user = next
	return c, nil
}

// serve runs a service on a free loopback port.
func (c *chain) serve(ctx context.Context, h *hop, opts []grpc.ServerOption) (string, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listen: %w", err)
	}
	conns := cutlistener.New(listener)
	if h.next == nil {
		c.leaf.conns = conns
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

// connect returns the client with which a hop calls the service at address. Hop 0 is the user.
func (c *chain) connect(b builder, hop int, address string) (chainv1.HopServiceClient, error) {
	opts, err := b.dialOptions(hop)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(address, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	c.closers = append(c.closers, func() { _ = conn.Close() })
	return chainv1.NewHopServiceClient(conn), nil
}

// close stops the services, starting with the first, so that no handler waits for the next service.
func (c *chain) close() {
	close(c.leaf.closing)
	for _, end := range slices.Backward(c.closers) {
		end()
	}
}
