package main

import (
	"context"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
)

var errUnavailable = status.Error(codes.Unavailable, "the service is down")

// cell measures one shape with one stack.
type cell struct {
	t     *testing.T
	stack stack
	small bool // whether the test's smaller sizes are used
	dice  *dice
}

// size returns full, or small for the test's smaller sizes.
func (c *cell) size(full, small int) int {
	if c.small {
		return small
	}
	return full
}

// handler is the body of a service's unary method.
type handler func(ctx context.Context, text string) error

// call makes a unary call to a service.
type call func(ctx context.Context, text string) error

// service is a running server in memory.
type service struct {
	testv1.UnimplementedTestServiceServer
	handle   handler
	watch    func(stream grpc.ServerStreamingServer[testv1.WatchResponse]) error
	calls    atomic.Int64 // unary calls that have reached the server
	listener *bufconn.Listener
}

// Idempotent is the unary method of all shapes.
func (s *service) Idempotent(ctx context.Context, req *testv1.IdempotentRequest) (*testv1.IdempotentResponse, error) {
	if err := s.handle(ctx, req.GetText()); err != nil {
		return nil, err
	}
	return &testv1.IdempotentResponse{}, nil
}

// Watch is the stream of the shape held-watch.
func (s *service) Watch(_ *testv1.WatchRequest, stream grpc.ServerStreamingServer[testv1.WatchResponse]) error {
	return s.watch(stream)
}

// count counts unary calls. It runs before the stack's own interceptors.
func (s *service) count(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	s.calls.Add(1)
	return next(ctx, req)
}

// newServer returns a server for s, with or without the stack's interceptors.
func (c *cell) newServer(s *service, withStack bool) *grpc.Server {
	c.t.Helper()
	opts := []grpc.ServerOption{grpc.ChainUnaryInterceptor(s.count)}
	if withStack && c.stack.serve != nil {
		stack, err := c.stack.serve()
		if err != nil {
			c.t.Fatal(err)
		}
		opts = append(opts, stack...)
	}
	server := grpc.NewServer(opts...)
	testv1.RegisterTestServiceServer(server, s)
	return server
}

// start serves s in memory until the measurement ends.
func (c *cell) start(s *service, withStack bool) *service {
	c.t.Helper()
	s.listener = bufconn.Listen(1 << 16)
	server := c.newServer(s, withStack)
	go func() { _ = server.Serve(s.listener) }()
	c.t.Cleanup(server.Stop)
	return s
}

// serve starts a service with the cell's stack.
func (c *cell) serve(handle handler) *service {
	c.t.Helper()
	return c.start(&service{handle: handle}, true)
}

// connect returns a new client of the cell's stack, with its own connection to the services, like a client in
// another process.
func (c *cell) connect(p callPolicy, to ...*service) call {
	c.t.Helper()
	return unary(c.dial(p, to...))
}

func (c *cell) dial(p callPolicy, to ...*service) *grpc.ClientConn {
	c.t.Helper()
	opts, err := c.stack.dial(p)
	if err != nil {
		c.t.Fatal(err)
	}
	return c.dialWith(opts, to...)
}

// dialWith connects to services in memory until the measurement ends. The address of a service is its index. dialWith
// returns when all are connected, because a balancer would send its first calls to the service that is connected
// first.
func (c *cell) dialWith(opts []grpc.DialOption, to ...*service) *grpc.ClientConn {
	c.t.Helper()
	addresses := make([]string, len(to))
	for i := range to {
		addresses[i] = strconv.Itoa(i)
	}
	conn, err := newConn(append(opts, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		i, err := strconv.Atoi(address)
		if err != nil {
			return nil, err
		}
		return to[i].listener.DialContext(ctx)
	})), addresses)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	conn.Connect()
	synctest.Wait()
	return conn
}

// newConn returns a connection to addresses.
func newConn(opts []grpc.DialOption, addresses []string) (*grpc.ClientConn, error) {
	names := manual.NewBuilderWithScheme("traffic")
	var state resolver.State
	for _, a := range addresses {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}})
	}
	names.InitialState(state)
	return grpc.NewClient("traffic:///service", append(opts,
		grpc.WithResolvers(names), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
}

func unary(conn *grpc.ClientConn) call {
	client := testv1.NewTestServiceClient(conn)
	return func(ctx context.Context, text string) error {
		_, err := client.Idempotent(ctx, &testv1.IdempotentRequest{Text: text})
		return err
	}
}

// chain is a chain of services. Each calls the next.
type chain struct {
	user call
	hops []*service // the last is the leaf
}

// chainOf starts depth services: a leaf, and hops above it. middle returns the handler of a hop that calls the next
// service with next.
func (c *cell) chainOf(depth int, p callPolicy, leaf handler, middle func(next call) handler) *chain {
	c.t.Helper()
	ch := &chain{hops: make([]*service, depth)}
	next := c.serve(leaf)
	for i := depth - 1; ; i-- {
		ch.hops[i] = next
		ch.user = c.connect(p, next)
		if i == 0 {
			return ch
		}
		next = c.serve(middle(ch.user))
	}
}

// passOn is the handler of a hop that passes the text to the next service and returns its error unchanged.
func passOn(next call) handler { return handler(next) }

func (ch *chain) leaf() *service { return ch.hops[len(ch.hops)-1] }

// middleCalls returns the calls of the busiest hop above the leaf.
func (ch *chain) middleCalls() int64 {
	var busiest int64
	for _, s := range ch.hops[:len(ch.hops)-1] {
		busiest = max(busiest, s.calls.Load())
	}
	return busiest
}

// row returns the row of a measurement with the chain.
func (ch *chain) row(shape string, o outcome) row {
	return newRow(shape, o, ch.leaf().calls.Load(), ch.middleCalls())
}

// work waits for the time that a leaf needs for a call.
func (c *cell) work() { time.Sleep(c.dice.between(3*time.Millisecond, 7*time.Millisecond)) }
