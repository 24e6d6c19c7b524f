package embedded

import (
	"context"
	"net"
	"sync/atomic"

	"github.com/hopbound/hopbound/examples/internal/cutlistener"
	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// stack is a way to make and to serve calls.
type stack struct {
	name   string
	mark   func(ctx context.Context) context.Context // adds a cart's key to a customer's context
	server func() ([]grpc.ServerOption, error)
	client func() ([]grpc.DialOption, error)
}

// native uses grpc-go's retries. Servers do not recognize a retry.
var native = stack{
	name:   "native",
	mark:   func(ctx context.Context) context.Context { return ctx },
	server: func() ([]grpc.ServerOption, error) { return nil, nil },
	client: func() ([]grpc.DialOption, error) {
		return []grpc.DialOption{grpc.WithDefaultServiceConfig(`{"methodConfig": [{"name": [{}], "retryPolicy": {
			"maxAttempts": 3, "initialBackoff": "0.001s", "maxBackoff": "0.01s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`)}, nil
	},
}

// hopbound uses an idempotency key for each cart. The key of its charge is derived from it.
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

// open starts the bank and the shop on loopback, and returns the customers' client.
func (s *stack) open(l *ledger) (customers paymentsv1.ShopServiceClient, stop func(), err error) {
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
	toBank, f, err := s.serve(func(r grpc.ServiceRegistrar) { paymentsv1.RegisterBankServiceServer(r, &bank{ledger: l}) }, true)
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

// serve starts a server and connects to it. A lossy server loses replies.
func (s *stack) serve(register func(grpc.ServiceRegistrar), lossy bool) (conn *grpc.ClientConn, stop func(), err error) {
	serverOptions, err := s.server()
	if err != nil {
		return nil, nil, err
	}
	clientOptions, err := s.client()
	if err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // returns at once
	if err != nil {
		return nil, nil, err
	}
	n := &network{Listener: cutlistener.New(l)}
	chain := []grpc.UnaryServerInterceptor{recoverPanic}
	if lossy {
		chain = append(chain, n.lose)
	}
	srv := grpc.NewServer(append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(chain...)}, serverOptions...)...)
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

// recoverPanic turns a panic into UNAVAILABLE, which is what the caller of a crashed server sees.
func recoverPanic(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (_ any, err error) {
	defer func() {
		if recover() != nil {
			err = status.Error(codes.Unavailable, "the server has crashed")
		}
	}()
	return next(ctx, req)
}

// network is a listener that loses replies.
type network struct {
	*cutlistener.Listener
	replies atomic.Int64
}

// lose loses the reply of every third successful call by cutting the connection.
func (n *network) lose(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	reply, err := next(ctx, req)
	if err != nil || n.replies.Add(1)%3 != 0 {
		return reply, err
	}
	n.Cut(ctx)
	return nil, status.Error(codes.Unavailable, "never received, because the connection is cut")
}
