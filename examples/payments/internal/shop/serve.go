package shop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/health"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// service is one service of the system.
type service struct {
	register func(r grpc.ServiceRegistrar)
	store    idempotency.Store // nil if there is none
	check    func(ctx context.Context) error
	options  []grpc.ServerOption
	close    func()
}

// Serve serves an instance of a role until the context ends. It then lets calls finish.
func Serve(ctx context.Context, c *Config, role string, instance int) (err error) {
	open, ok := map[string]func(context.Context, *Config, int, trace.TracerProvider) (*service, error){
		Gateway: openGateway, Orders: openOrders, Payments: openPayments, Ledger: openLedger, Bank: openBank,
	}[role]
	if !ok || instance < 0 || instance >= len(c.Listen[role]) {
		return fmt.Errorf("there is no instance %d of %q", instance, role)
	}
	traces, shutdown, err := c.Provider(ctx, role)
	if err != nil {
		return err
	}
	defer shutdown()
	s, err := open(ctx, c, instance, traces)
	if err != nil {
		return fmt.Errorf("%s: %w", role, err)
	}
	defer s.close()
	security, err := credentialsOf(c.Folder, role, "")
	if err != nil {
		return err
	}
	var checks []health.ServerOption
	if s.check != nil {
		checks = append(checks, health.WithCheck("store", s.check), health.CheckEvery(time.Second))
	}
	alive, err := health.NewServer(append(checks, health.DetectWithin(12*time.Second))...)
	if err != nil {
		return err
	}
	opts := append([]grpc.ServerOption{grpc.Creds(security), grpc.ChainUnaryInterceptor(callersOf(role))}, alive.ServerOptions()...)
	if role != Bank && !c.Native {
		hopbound, err := c.interceptor(s.store, traces)
		if err != nil {
			return err
		}
		opts = append(opts, hopbound.ServerOptions()...)
	}
	srv := grpc.NewServer(slices.Concat(opts, s.options)...)
	s.register(srv)
	alive.Register(srv)
	return serveUntil(ctx, srv, alive, c.Listen[role][instance], 2*c.Deadline)
}

// callersOf returns an interceptor that rejects calls of certificate holders that are not callers of the role. A gateway
// accepts every certificate. Mutual TLS alone would let customers call the bank.
func callersOf(role string) grpc.UnaryServerInterceptor {
	callers, limited := map[string][]string{Orders: {Gateway}, Payments: {Orders}, Ledger: {Payments}, Bank: {Gateway, Orders}}[role]
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if limited && !slices.Contains(callers, caller(ctx)) {
			return nil, status.Errorf(codes.PermissionDenied, "%q may not call %s", caller(ctx), role)
		}
		return next(ctx, req)
	}
}

// serveUntil serves until the context ends. What is running then gets some time to finish.
func serveUntil(ctx context.Context, srv *grpc.Server, alive *health.Server, address string, patience time.Duration) error {
	listener, err := listen(ctx, address)
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	return errors.Join(alive.Stop(limit, srv), <-served)
}

// listen listens at an address. While the service was not running, somebody's connection may have got its port as the
// local one; listen waits for the end of such a connection.
func listen(ctx context.Context, address string) (net.Listener, error) {
	const most, pause = 20 * time.Second, 50 * time.Millisecond
	for until := time.Now().Add(most); ; time.Sleep(pause) {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err == nil || ctx.Err() != nil || time.Now().After(until) {
			return listener, err
		}
	}
}

// interceptor returns Hopbound's server. The apps of the customers are the shop's own: the gateway trusts their traces and
// tokens, so that a trace shows what an app has done. A gateway for the apps of others needs interceptors.AtEdge.
func (c *Config) interceptor(store idempotency.Store, traces trace.TracerProvider) (*interceptors.Server, error) {
	opts := []interceptors.ServerOption{
		interceptors.WithTracerProvider(traces), interceptors.WithPropagators(propagation.TraceContext{}),
		interceptors.WithDefaultDeadline(2 * c.Deadline), interceptors.WithMaxDeadline(10 * c.Deadline),
	}
	if c.Idempotency && store != nil {
		opts = append(opts, interceptors.WithIdempotency(store, idempotency.LeaseTime(3*time.Second)))
	}
	return interceptors.NewServer(opts...)
}
