package shop

import (
	"context"
	"database/sql"
	"errors"

	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"github.com/hopbound/hopbound/idempotency/pgstore"
	"github.com/jackc/pgx/v5/stdlib"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// orders keeps the orders. It uses database/sql, as services with sqlc or an ORM do.
type orders struct {
	paymentsv1.UnimplementedOrdersServiceServer
	db       *sql.DB
	payments paymentsv1.PaymentsServiceClient
}

const ordersSchema = `CREATE TABLE IF NOT EXISTS orders (id text PRIMARY KEY, account text NOT NULL, cart text NOT NULL, cents bigint NOT NULL)`

func openOrders(ctx context.Context, c *Config, _ int, traces trace.TracerProvider) (*service, error) {
	d, err := c.open(ctx, Orders)
	if err != nil {
		return nil, err
	}
	conn, err := c.Connect(Orders, Payments, traces)
	if err != nil {
		d.close()
		return nil, err
	}
	o := &orders{db: stdlib.OpenDBFromPool(d.pool), payments: paymentsv1.NewPaymentsServiceClient(conn)}
	s := d.service(func(r grpc.ServiceRegistrar) { paymentsv1.RegisterOrdersServiceServer(r, o) })
	s.close = func() {
		_, _ = conn.Close(), o.db.Close()
		d.close()
	}
	return s, nil
}

// inTx runs f in the transaction of the request, or in one of its own if the server stores no outcomes.
func (o *orders) inTx(ctx context.Context, f func(tx *sql.Tx) error) error {
	if tx, ok := pgstore.SQLTx(ctx); ok {
		return f(tx)
	}
	tx, err := o.db.BeginTx(ctx, nil)
	if err != nil {
		return unavailable(err)
	}
	if err := f(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return unavailable(tx.Commit())
}

// Place records an order, and opens its payment.
func (o *orders) Place(ctx context.Context, req *paymentsv1.PlaceRequest) (*paymentsv1.PlaceResponse, error) {
	return &paymentsv1.PlaceResponse{}, o.inTx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO orders VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING`,
			req.GetOrder(), req.GetAccount(), req.GetCart(), req.GetCents()); err != nil {
			return unavailable(err)
		}
		_, err := o.payments.Open(ctx, &paymentsv1.OpenRequest{Reference: req.GetOrder(), Account: req.GetAccount(), Cents: req.GetCents()})
		return err
	})
}

// Confirm settles the payment of an order.
func (o *orders) Confirm(ctx context.Context, req *paymentsv1.ConfirmRequest) (*paymentsv1.ConfirmResponse, error) {
	_, err := o.payments.Settle(ctx, &paymentsv1.SettleRequest{Reference: req.GetOrder()})
	return &paymentsv1.ConfirmResponse{}, err
}

// FindOrder finds an order and asks for the state of its payment.
func (o *orders) FindOrder(ctx context.Context, req *paymentsv1.FindOrderRequest) (*paymentsv1.FindOrderResponse, error) {
	found := &paymentsv1.FindOrderResponse{}
	switch err := o.db.QueryRowContext(ctx, `SELECT account, cents FROM orders WHERE id = $1`, req.GetOrder()).Scan(&found.Account, &found.Cents); {
	case errors.Is(err, sql.ErrNoRows):
		return nil, status.Error(codes.NotFound, "there is no such order")
	case err != nil:
		return nil, unavailable(err)
	}
	payment, err := o.payments.FindPayment(ctx, &paymentsv1.FindPaymentRequest{Reference: req.GetOrder()})
	found.State = payment.GetState()
	return found, err
}
