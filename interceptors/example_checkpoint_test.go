package interceptors_test

import (
	"context"
	"fmt"
	"net"

	grpcrecovery "github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
)

// cardProvider is a payment provider outside of the application. It knows its charges by the
// references that its customers choose.
type cardProvider struct{ charges map[string]int64 }

func (p *cardProvider) charge(reference string, cents int64) { p.charges[reference] = cents }

func (p *cardProvider) charged(reference string) bool { return p.charges[reference] > 0 }

// cashier charges cards at a provider.
type cashier struct {
	testv1.UnimplementedTestServiceServer
	provider *cardProvider
	runs     int
}

// Pay chooses a reference and stores it before it charges. A run that takes over finds the
// reference, and asks the provider what became of it.
func (s *cashier) Pay(ctx context.Context, req *testv1.PayRequest) (*testv1.PayResponse, error) {
	s.runs++
	reference := string(idempotency.LastCheckpoint(ctx))
	if reference == "" {
		reference = string(idempotency.NewKey())
		if err := idempotency.Checkpoint(ctx, []byte(reference)); err != nil {
			return nil, idempotency.NoEffect(err) // nothing was charged
		}
	}
	if !s.provider.charged(reference) {
		s.provider.charge(reference, req.GetCents())
	}
	if s.runs == 1 {
		panic("the server crashes before it has stored the outcome")
	}
	return &testv1.PayResponse{Payment: reference}, nil
}

// A handler charges at a provider, records its reference, and crashes. The run that takes over
// looks the charge up, and the customer pays once.
func ExampleWithIdempotency_checkpoint() {
	server, err := interceptors.NewServer(interceptors.WithIdempotency(idempotency.NewMemory()))
	if err != nil {
		fmt.Println(err)
		return
	}
	listener := bufconn.Listen(1 << 16)
	srv := grpc.NewServer(append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(grpcrecovery.UnaryServerInterceptor())}, server.ServerOptions()...)...)
	provider := &cardProvider{charges: map[string]int64{}}
	testv1.RegisterTestServiceServer(srv, &cashier{provider: provider})
	go func() { _ = srv.Serve(listener) }()
	defer srv.Stop()

	client, err := interceptors.NewClient()
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, err := grpc.NewClient("passthrough:///till", append(client.DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	ctx := idempotency.WithKey(context.Background(), "order-17")
	for range 2 { // the customer presses the button again
		reply, err := testv1.NewTestServiceClient(conn).Pay(ctx, &testv1.PayRequest{Account: "rent", Cents: 90000})
		fmt.Println("paid:", err == nil && provider.charged(reply.GetPayment()), "charges:", len(provider.charges))
	}
	// Output:
	// paid: false charges: 1
	// paid: true charges: 1
}
