package shop

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"time"

	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"github.com/hopbound/hopbound/idempotency/pgstore"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/riverqueue/river"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// orders keeps the orders. It uses database/sql, as services with sqlc or an ORM do.
type orders struct {
	paymentsv1.UnimplementedOrdersServiceServer
	db       *sql.DB
	pool     *pgxpool.Pool // the same connections, for the queue
	payments paymentsv1.PaymentsServiceClient
	queue    *river.Client[pgx.Tx]
	later    time.Duration
	release  int
}

const ordersSchema = `CREATE TABLE IF NOT EXISTS orders (id text PRIMARY KEY, account text NOT NULL, cart text NOT NULL, cents bigint NOT NULL, charged boolean NOT NULL DEFAULT false)`

func openOrders(ctx context.Context, c *Config, _ int, traces trace.TracerProvider) (*service, error) {
	d, err := c.open(ctx, Orders)
	if err != nil {
		return nil, err
	}
	var conns [2]*grpc.ClientConn
	for i, role := range []string{Payments, Bank} {
		if conns[i], err = c.Connect(Orders, role, traces); err != nil {
			return nil, err
		}
	}
	o := &orders{db: stdlib.OpenDBFromPool(d.pool), pool: d.pool, payments: paymentsv1.NewPaymentsServiceClient(conns[0]), later: c.Later, release: c.Release}
	o.queue, err = newQueue(context.WithoutCancel(ctx), d.pool, &payLater{orders: o, payments: o.payments, bank: paymentsv1.NewClearingServiceClient(conns[1]), later: c.Later})
	if err != nil {
		return nil, err
	}
	s := d.service(func(r grpc.ServiceRegistrar) { paymentsv1.RegisterOrdersServiceServer(r, o) })
	s.close = func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), queueTimeout)
		defer cancel()
		_ = o.queue.Stop(stop)
		_, _, _ = conns[0].Close(), conns[1].Close(), o.db.Close()
		d.close()
	}
	return s, nil
}

// inTx runs f in the transaction of the request, which database/sql and pgx share, or in one of its own if the server stores
// no outcomes.
func (o *orders) inTx(ctx context.Context, f func(insert func(query string, args ...any) (int64, error), tx pgx.Tx) error) error {
	if tx, ok := pgstore.SQLTx(ctx); ok {
		same, _ := pgstore.Tx(ctx)
		return f(func(query string, args ...any) (int64, error) {
			result, err := tx.ExecContext(ctx, query, args...)
			if err != nil {
				return 0, err
			}
			return result.RowsAffected()
		}, same)
	}
	return pgx.BeginFunc(ctx, o.pool, func(tx pgx.Tx) error {
		return f(func(query string, args ...any) (int64, error) {
			tag, err := tx.Exec(ctx, query, args...)
			return tag.RowsAffected(), err
		}, tx)
	})
}

// Place records an order, and queues its payment in the same transaction. From here on the payment will be made, whatever
// happens to the gateway. If the gateway is as fast as usual, the queue finds nothing to do.
//
// It calls no other service. What another service commits is not rolled back with this transaction, so that a payment could
// be left without an order.
func (o *orders) Place(ctx context.Context, req *paymentsv1.PlaceRequest) (*paymentsv1.PlaceResponse, error) {
	return &paymentsv1.PlaceResponse{}, unavailable(o.inTx(ctx, func(insert func(string, ...any) (int64, error), tx pgx.Tx) error {
		placed, err := insert(`INSERT INTO orders (id, account, cart, cents) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING`,
			req.GetOrder(), req.GetAccount(), req.GetCart(), req.GetCents())
		if err != nil || placed == 0 {
			return err
		}
		_, err = o.queue.InsertTx(ctx, tx, payLaterArgs{req.GetOrder(), req.GetAccount(), req.GetCents()},
			&river.InsertOpts{ScheduledAt: time.Now().Add(o.later)})
		return err
	}))
}

// order is a row of the table.
type order struct {
	account string
	cents   int64
	charged bool
}

func (o *orders) find(ctx context.Context, id string) (found order, err error) {
	err = o.db.QueryRowContext(ctx, `SELECT account, cents, charged FROM orders WHERE id = $1`, id).Scan(&found.account, &found.cents, &found.charged)
	if errors.Is(err, sql.ErrNoRows) {
		return found, status.Error(codes.NotFound, "there is no such order")
	}
	return found, unavailable(err)
}

// Confirm records that an order is charged, and settles its payment. If that fails, the queue settles it, and need not ask the
// bank.
func (o *orders) Confirm(ctx context.Context, req *paymentsv1.ConfirmRequest) (*paymentsv1.ConfirmResponse, error) {
	found, err := o.find(ctx, req.GetOrder())
	if err != nil {
		return nil, err
	}
	reply := &paymentsv1.ConfirmResponse{}
	return reply, unavailable(o.inTx(ctx, func(update func(string, ...any) (int64, error), _ pgx.Tx) error {
		if _, err := update(`UPDATE orders SET charged = true WHERE id = $1`, req.GetOrder()); err != nil {
			return err
		}
		_, err := o.payments.Settle(ctx, Of(o.release, &paymentsv1.SettleRequest{Reference: req.GetOrder(), Account: found.account, Cents: found.cents}))
		reply.Settled = err == nil
		return nil
	}))
}

// FindOrder finds an order and asks for the state of its payment. Without an answer, the state is unspecified.
func (o *orders) FindOrder(ctx context.Context, req *paymentsv1.FindOrderRequest) (*paymentsv1.FindOrderResponse, error) {
	found, err := o.find(ctx, req.GetOrder())
	if err != nil {
		return nil, err
	}
	payment, err := o.payments.FindPayment(ctx, &paymentsv1.FindPaymentRequest{Reference: req.GetOrder()})
	if err != nil {
		slog.Debug("the state of a payment is not known", "order", req.GetOrder(), "err", err)
	}
	return &paymentsv1.FindOrderResponse{Account: found.account, Cents: found.cents, State: payment.GetState()}, nil
}
