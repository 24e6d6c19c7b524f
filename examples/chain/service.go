package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync/atomic"
	"time"

	chainv1 "github.com/hopbound/hopbound/examples/chain/proto/hopbound/examples/chain/v1"
	"github.com/hopbound/hopbound/interceptors"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

const (
	// work is how long the last service takes for a call.
	work = time.Millisecond
	// backoff is the longest pause before a retry, of both stacks.
	backoff = time.Millisecond
)

// counters count what happens in a chain.
type counters struct {
	calls     atomic.Int64 // of all services
	leafCalls atomic.Int64
	wasted    atomic.Int64 // nanoseconds of the last service's work after the user had gone
}

// hop is one service. It hands requests on to the next one, and the last one,
// which has none, answers them, or fails.
type hop struct {
	chainv1.UnimplementedHopServiceServer
	*counters
	next chainv1.HopServiceClient
	fail float64
}

func (h *hop) Pass(ctx context.Context, req *chainv1.PassRequest) (*chainv1.PassResponse, error) {
	h.calls.Add(1)
	if h.next != nil {
		return h.next.Pass(ctx, req)
	}
	h.leafCalls.Add(1)
	time.Sleep(work)
	if late := time.Since(time.UnixMicro(req.GetUserGoneUnixMicros())); late > 0 {
		h.wasted.Add(int64(min(late, work)))
	}
	if rand.Float64() < h.fail { //nolint:gosec // chance need not be secret
		return nil, status.Error(codes.Unavailable, "the last service is down")
	}
	return &chainv1.PassResponse{}, nil
}

// chain is a row of running services.
type chain struct {
	counters
	user    chainv1.HopServiceClient // how users call the first service
	closers []func()
}

// start starts the services of a chain and connects to the first. With tracers,
// it takes the provider of each hop from it: 0 is the user, and then the
// services in their order.
func start(ctx context.Context, cfg *config, s stack, fail float64, tracers func(hop int) trace.TracerProvider) (_ *chain, err error) {
	c := &chain{}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	var next chainv1.HopServiceClient
	for i := cfg.depth; i >= 1; i-- {
		tracer := tracerOf(tracers, i)
		opts, err := serverOptions(s, tracer)
		if err != nil {
			return nil, err
		}
		address, err := c.serve(ctx, &hop{counters: &c.counters, next: next, fail: fail}, opts)
		if err != nil {
			return nil, err
		}
		if next, err = c.connect(cfg, s, address, tracerOf(tracers, i-1)); err != nil {
			return nil, err
		}
	}
	c.user = next
	return c, nil
}

func tracerOf(tracers func(int) trace.TracerProvider, hop int) []interceptors.Option {
	if tracers == nil {
		return nil
	}
	return []interceptors.Option{interceptors.WithTracerProvider(tracers(hop))}
}

// serve runs a service on a free loopback port.
func (c *chain) serve(ctx context.Context, h *hop, opts []grpc.ServerOption) (string, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listen: %w", err)
	}
	server := grpc.NewServer(append(opts, grpc.WaitForHandlers(true))...) // their spans are wanted too
	chainv1.RegisterHopServiceServer(server, h)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // ends with Stop
	}()
	c.closers = append(c.closers, func() {
		server.Stop()
		<-done
	})
	return listener.Addr().String(), nil
}

// connect returns a client of the service at an address.
func (c *chain) connect(cfg *config, s stack, address string, tracer []interceptors.Option) (chainv1.HopServiceClient, error) {
	opts, err := dialOptions(cfg, s, tracer)
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

// close stops the services, the first one first, so that none waits for the
// next.
func (c *chain) close() {
	for _, end := range slices.Backward(c.closers) {
		end()
	}
}

// serverOptions and dialOptions are all there is to using Hopbound.
func serverOptions(s stack, tracer []interceptors.Option) ([]grpc.ServerOption, error) {
	if s == native {
		return nil, nil
	}
	var opts []interceptors.ServerOption
	for _, o := range tracer {
		opts = append(opts, o)
	}
	server, err := interceptors.NewServer(opts...)
	if err != nil {
		return nil, err
	}
	return server.ServerOptions(), nil
}

func dialOptions(cfg *config, s stack, tracer []interceptors.Option) ([]grpc.DialOption, error) {
	if s == native {
		return []grpc.DialOption{grpc.WithDefaultServiceConfig(serviceConfig(cfg.attempts))}, nil
	}
	opts := []interceptors.ClientOption{interceptors.WithPolicy(interceptors.MethodPolicies{
		"": {Retry: &interceptors.RetryPolicy{
			MaxAttempts: cfg.attempts,
			Backoff:     interceptors.Backoff{Base: backoff, Max: backoff},
		}},
	})}
	for _, o := range tracer {
		opts = append(opts, o)
	}
	client, err := interceptors.NewClient(opts...)
	if err != nil {
		return nil, err
	}
	return client.DialOptions(), nil
}

// serviceConfig turns on grpc-go's own retries. They begin at two attempts.
func serviceConfig(attempts int) string {
	if attempts == 1 {
		return `{}`
	}
	return fmt.Sprintf(`{"methodConfig": [{"name": [{}], "retryPolicy": {
		"maxAttempts": %d, "initialBackoff": "%vs", "maxBackoff": "%vs", "backoffMultiplier": 1,
		"retryableStatusCodes": ["UNAVAILABLE"]}}]}`, attempts, backoff.Seconds(), backoff.Seconds())
}
