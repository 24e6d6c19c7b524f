// Package customer is the customers of the payment system.
package customer

import (
	"context"
	"errors"

	"github.com/hopbound/hopbound/examples/payments/internal/shop"
	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
)

// Customer buys at the gateway. It is safe for concurrent use.
type Customer struct {
	Name     string
	Tracer   trace.Tracer
	conn     *grpc.ClientConn
	gateway  paymentsv1.GatewayServiceClient
	shutdown func() // of the traces
}

// New connects a customer to the gateways.
func New(ctx context.Context, c *shop.Config, name string) (*Customer, error) {
	traces, shutdown, err := c.Provider(ctx, name)
	if err != nil {
		return nil, err
	}
	conn, err := c.Connect(name, shop.Gateway, traces)
	if err != nil {
		shutdown()
		return nil, err
	}
	return &Customer{name, traces.Tracer("customer"), conn, paymentsv1.NewGatewayServiceClient(conn), shutdown}, nil
}

// Buy buys a cart under a key, with the app of a release.
func (c *Customer) Buy(ctx context.Context, key idempotency.Key, cart string, cents int64, release int) (*paymentsv1.BuyResponse, error) {
	return c.gateway.Buy(ctx, shop.Of(release, &paymentsv1.BuyRequest{Cart: cart, Cents: cents}), interceptors.UseKey(key))
}

// Receipt asks what became of an order.
func (c *Customer) Receipt(ctx context.Context, order string) (*paymentsv1.GetReceiptResponse, error) {
	return c.gateway.GetReceipt(ctx, &paymentsv1.GetReceiptRequest{Order: order})
}

// Close ends the connections.
func (c *Customer) Close() error {
	defer c.shutdown()
	return c.conn.Close()
}

// CloseAll closes customers.
func CloseAll(all []*Customer) error {
	errs := make([]error, 0, len(all))
	for _, c := range all {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
