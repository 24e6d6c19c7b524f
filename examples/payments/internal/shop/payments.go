package shop

import (
	"context"

	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
)

// payments keeps the payments that the bank has made.
type payments struct {
	paymentsv1.UnimplementedPaymentsServiceServer
	db      *database
	ledger  paymentsv1.LedgerServiceClient
	release int
}

const paymentsSchema = `CREATE TABLE IF NOT EXISTS payments (reference text PRIMARY KEY, account text NOT NULL, cents bigint NOT NULL)`

func openPayments(ctx context.Context, c *Config, _ int, traces trace.TracerProvider) (*service, error) {
	d, err := c.open(ctx, Payments)
	if err != nil {
		return nil, err
	}
	conn, err := c.Connect(Payments, Ledger, traces)
	if err != nil {
		d.close()
		return nil, err
	}
	p := &payments{db: d, ledger: paymentsv1.NewLedgerServiceClient(conn), release: c.Release}
	s := d.service(func(r grpc.ServiceRegistrar) { paymentsv1.RegisterPaymentsServiceServer(r, p) })
	s.close = func() {
		_ = conn.Close()
		d.close()
	}
	return s, nil
}

// Settle books a payment and records it. The gateway and the queue may settle a payment at the same time: the ledger knows
// both by the same key, which is made of the reference, and not of the key of either call.
func (p *payments) Settle(ctx context.Context, req *paymentsv1.SettleRequest) (*paymentsv1.SettleResponse, error) {
	return &paymentsv1.SettleResponse{}, unavailable(p.db.inTx(ctx, func(tx pgx.Tx) error {
		reference := req.GetReference()
		if _, err := p.ledger.Book(idempotency.WithKey(ctx, idempotency.Key("book-"+reference)),
			Of(p.release, &paymentsv1.BookRequest{Reference: reference, Account: req.GetAccount(), Cents: req.GetCents()})); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO payments VALUES ($1, $2, $3) ON CONFLICT (reference) DO NOTHING`, reference, req.GetAccount(), req.GetCents())
		return err
	}))
}

// FindPayment says what state a payment is in.
func (p *payments) FindPayment(ctx context.Context, req *paymentsv1.FindPaymentRequest) (*paymentsv1.FindPaymentResponse, error) {
	var paid bool
	if err := p.db.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM payments WHERE reference = $1)`, req.GetReference()).Scan(&paid); err != nil {
		return nil, unavailable(err)
	}
	state := paymentsv1.PaymentState_PAYMENT_STATE_PENDING
	if paid {
		state = paymentsv1.PaymentState_PAYMENT_STATE_PAID
	}
	return &paymentsv1.FindPaymentResponse{State: state}, nil
}
