package main

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"

	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// stack is a way to make calls safe.
type stack struct {
	name   string
	mark   func(ctx context.Context) context.Context // of a customer who buys a cart
	server func() ([]grpc.ServerOption, error)
	client func() ([]grpc.DialOption, error)
}

// native is what gRPC has: it repeats calls, and no server knows them again.
var native = stack{
	name:   "native",
	mark:   func(ctx context.Context) context.Context { return ctx },
	server: func() ([]grpc.ServerOption, error) { return nil, nil },
	client: func() ([]grpc.DialOption, error) {
		return []grpc.DialOption{grpc.WithDefaultServiceConfig(`{"methodConfig": [{"name": [{}], "retryPolicy": {
			"maxAttempts": 3, "initialBackoff": "0.001s", "maxBackoff": "0.01s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`)}, nil
	},
}

// hopbound has a key for each cart, from which that of its charge is made.
var hopbound = stack{
	name: "hopbound",
	mark: func(ctx context.Context) context.Context {
		return idempotency.WithKey(ctx, idempotency.NewKey())
	},
	server: func() ([]grpc.ServerOption, error) {
		s, err := interceptors.NewServer(interceptors.WithIdempotency(idempotency.NewMemory()))
		if err != nil {
			return nil, err
		}
		return s.ServerOptions(), nil
	},
	client: func() ([]grpc.DialOption, error) {
		c, err := interceptors.NewClient()
		if err != nil {
			return nil, err
		}
		return c.DialOptions(), nil
	},
}

// open runs the bank and the shop on loopback, and returns the customers' client.
func (s *stack) open(books *ledger) (customers paymentsv1.ShopServiceClient, stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, f := range stops {
			f()
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	toBank, f, err := s.serve(func(r grpc.ServiceRegistrar) { paymentsv1.RegisterBankServiceServer(r, &bank{books: books}) }, true)
	if err != nil {
		return nil, nil, err
	}
	stops = append(stops, f)
	toShop, f, err := s.serve(func(r grpc.ServiceRegistrar) {
		paymentsv1.RegisterShopServiceServer(r, &shop{bank: paymentsv1.NewBankServiceClient(toBank)})
	}, false)
	if err != nil {
		return nil, nil, err
	}
	stops = append(stops, f)
	return paymentsv1.NewShopServiceClient(toShop), stop, nil
}

// serve runs a server, of which replies may get lost, and connects to it.
func (s *stack) serve(register func(grpc.ServiceRegistrar), lossy bool) (conn *grpc.ClientConn, stop func(), err error) {
	serverOptions, err := s.server()
	if err != nil {
		return nil, nil, err
	}
	clientOptions, err := s.client()
	if err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it takes no time
	if err != nil {
		return nil, nil, err
	}
	n := &network{Listener: l, conns: map[string]net.Conn{}}
	around := []grpc.UnaryServerInterceptor{recoverer}
	if lossy {
		around = append(around, n.lose)
	}
	srv := grpc.NewServer(append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(around...)}, serverOptions...)...)
	register(srv)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(n)
	}()
	creds := grpc.WithTransportCredentials(insecure.NewCredentials())
	conn, err = grpc.NewClient("passthrough:///"+l.Addr().String(), append(clientOptions, creds)...)
	stop = func() {
		if conn != nil {
			_ = conn.Close()
		}
		srv.Stop()
		<-served
	}
	if err != nil {
		stop()
	}
	return conn, stop, err
}

// recoverer makes a failure of a panic, as a crash is to the caller.
func recoverer(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (_ any, err error) {
	defer func() {
		if recover() != nil {
			err = status.Error(codes.Unavailable, "the server has crashed")
		}
	}()
	return next(ctx, req)
}

// network is a listener whose connections can be cut.
type network struct {
	net.Listener
	replies atomic.Int64

	mu    sync.Mutex
	conns map[string]net.Conn
}

// Accept waits for a connection.
func (n *network) Accept() (net.Conn, error) {
	conn, err := n.Listener.Accept()
	if err == nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.conns[conn.RemoteAddr().String()] = conn
	}
	return conn, err
}

// lose loses the reply to every third call that was served, by cutting the
// connection.
func (n *network) lose(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	reply, err := next(ctx, req)
	p, ok := peer.FromContext(ctx)
	if err != nil || !ok || n.replies.Add(1)%3 != 0 {
		return reply, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if conn := n.conns[p.Addr.String()]; conn != nil {
		err = conn.Close()
	}
	return reply, errors.Join(err, status.Error(codes.Unavailable, "nobody hears this"))
}
