// Package bank is a gRPC server in the same process, which stores the outcomes of charges, and a client for it.
package bank

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"

	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Client charges accounts.
type Client struct {
	server *grpc.Server
	served chan struct{}
	conn   *grpc.ClientConn
	books  *books
}

type books struct {
	paymentsv1.UnimplementedBankServiceServer
	charges atomic.Int64
}

// Charge charges an account.
func (b *books) Charge(_ context.Context, r *paymentsv1.ChargeRequest) (*paymentsv1.ChargeResponse, error) {
	return &paymentsv1.ChargeResponse{Charge: fmt.Sprintf("charge %d of %s", b.charges.Add(1), r.GetAccount())}, nil
}

// Open serves the bank and connects to it.
func Open() (*Client, error) {
	server, err := interceptors.NewServer(interceptors.WithIdempotency(idempotency.NewMemory()))
	if err != nil {
		return nil, err
	}
	client, err := interceptors.NewClient()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it takes no time
	if err != nil {
		return nil, err
	}
	c := &Client{server: grpc.NewServer(server.ServerOptions()...), served: make(chan struct{}), books: &books{}}
	paymentsv1.RegisterBankServiceServer(c.server, c.books)
	go func() {
		defer close(c.served)
		_ = c.server.Serve(listener) // ends with Close
	}()
	options := append(client.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if c.conn, err = grpc.NewClient(listener.Addr().String(), options...); err != nil {
		c.server.Stop()
	}
	return c, err
}

// Close stops the bank.
func (c *Client) Close() {
	_ = c.conn.Close()
	c.server.Stop()
	<-c.served
}

// Charge charges an account once for the key of ctx, and returns the charge.
func (c *Client) Charge(ctx context.Context, account string, cents int64) (string, error) {
	reply, err := paymentsv1.NewBankServiceClient(c.conn).Charge(ctx, &paymentsv1.ChargeRequest{Account: account, Cents: cents})
	return reply.GetCharge(), err
}

// Charges returns how many charges were made.
func (c *Client) Charges() int64 { return c.books.charges.Load() }
