package embedded

import (
	"context"
	"net"
	"sync"

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

// hopbound uses an idempotency key for each cart. The key of its charge is derived from it. The connections have no TLS, so
// the servers cannot distinguish their callers, and all of them may use all keys.
var hopbound = stack{
	name: "hopbound",
	mark: func(ctx context.Context) context.Context {
		return idempotency.WithKey(ctx, idempotency.NewKey())
	},
	server: func() ([]grpc.ServerOption, error) {
		s, err := interceptors.NewServer(interceptors.WithIdempotency(idempotency.NewMemory(), idempotency.SharedKeys()))
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
	n := &network{Listener: cutlistener.New(l), known: map[string]bool{}}
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

	mu    sync.Mutex
	known map[string]bool // accounts with a successful charge
}

// lose loses the first reply for every third account by cutting the connection. The other calls on the connection lose
// their replies too. The number of cuts has a limit, so that every customer gets a receipt in the end, also on a slow
// machine.
func (n *network) lose(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	reply, err := next(ctx, req)
	charge, ok := req.(*paymentsv1.ChargeRequest)
	if err != nil || !ok || !n.chooses(charge.GetAccount()) {
		return reply, err
	}
	n.Cut(ctx)
	return nil, status.Error(codes.Unavailable, "never received, because the connection is cut")
}

func (n *network) chooses(account string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known[account] {
		return false
	}
	n.known[account] = true
	return len(n.known)%3 == 0
}
