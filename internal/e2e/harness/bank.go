package harness

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// Bank makes payments, and counts how often each was made.
type Bank struct {
	testv1.UnimplementedTestServiceServer
	OnPay func(ctx context.Context, n int64, req *testv1.PayRequest) error
	Calls atomic.Int64
}

// Pay calls OnPay and makes a payment. Its text is invalid UTF-8 if the metadata has x-spoil.
func (b *Bank) Pay(ctx context.Context, req *testv1.PayRequest) (*testv1.PayResponse, error) {
	n := b.Calls.Add(1)
	if b.OnPay != nil {
		if err := b.OnPay(ctx, n, req); err != nil {
			return nil, err
		}
	}
	payment := fmt.Sprintf("payment %d of %s", n, req.GetAccount())
	if len(metadata.ValueFromIncomingContext(ctx, "x-spoil")) > 0 {
		payment = "\xff"
	}
	return &testv1.PayResponse{Payment: payment}, nil
}

// Write calls OnPay without a request.
func (b *Bank) Write(ctx context.Context, _ *testv1.WriteRequest) (*testv1.WriteResponse, error) {
	n := b.Calls.Add(1)
	if b.OnPay != nil {
		if err := b.OnPay(ctx, n, nil); err != nil {
			return nil, err
		}
	}
	return &testv1.WriteResponse{Text: fmt.Sprint("write ", n)}, nil
}

// Read counts as a call, and does not call OnPay.
func (b *Bank) Read(context.Context, *testv1.ReadRequest) (*testv1.ReadResponse, error) {
	return &testv1.ReadResponse{Text: fmt.Sprint("read ", b.Calls.Add(1))}, nil
}

// Open serves the bank with a store until the test ends.
func (b *Bank) Open(t testing.TB, store idempotency.Store, opts ...idempotency.Option) *Node {
	t.Helper()
	return b.OpenWith(t, interceptors.WithIdempotency(store, opts...))
}

// OpenWith serves the bank with options of a Hopbound server until the test ends.
func (b *Bank) OpenWith(t testing.TB, opts ...interceptors.ServerOption) *Node {
	t.Helper()
	s := NewServer(t, opts...)
	n := NewNode(t, s.ServerOptions()...)
	testv1.RegisterTestServiceServer(n.Server, b)
	if err := s.Check(n.Server); err != nil {
		t.Fatal(err)
	}
	n.Start()
	return n
}

// Customer calls a bank without Hopbound and without gRPC's retries.
type Customer struct{ testv1.TestServiceClient }

// Customer connects a customer to the node.
func (n *Node) Customer(opts ...grpc.DialOption) Customer {
	n.t.Helper()
	return Customer{testv1.NewTestServiceClient(n.Dial(append([]grpc.DialOption{grpc.WithDisableRetry()}, opts...)...))}
}

// PayWithKey pays with a key in the metadata.
func (c Customer) PayWithKey(ctx context.Context, key string, req *testv1.PayRequest, opts ...grpc.CallOption) (string, error) {
	reply, err := c.Pay(metadata.AppendToOutgoingContext(ctx, idempotency.Header, key), req, opts...)
	return reply.GetPayment(), err
}

// Rent returns the request of a payment.
func Rent() *testv1.PayRequest { return &testv1.PayRequest{Account: "rent", Cents: 90000} }

// Downstream connects a handler's client to the node, with Hopbound.
func (n *Node) Downstream() testv1.TestServiceClient {
	n.t.Helper()
	return testv1.NewTestServiceClient(n.Dial(NewClient(n.t).DialOptions()...))
}

// OpenRecovering serves the bank with a store. A panic of a handler becomes a failure, which is what
// a caller sees of a crash.
func (b *Bank) OpenRecovering(t testing.TB, store idempotency.Store) *Node {
	t.Helper()
	s := NewServer(t, interceptors.WithIdempotency(store))
	n := NewNode(t, append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (_ any, err error) {
			defer func() {
				if recover() != nil {
					err = ErrUnavailable
				}
			}()
			return next(ctx, req)
		})}, s.ServerOptions()...)...)
	testv1.RegisterTestServiceServer(n.Server, b)
	n.Start()
	return n
}
