package shop

import (
	"context"
	"errors"
	"time"

	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// payments keeps the payments. Each payment is queued in the transaction that opens it. If the gateway settles it first,
// the queue finds nothing to do.
type payments struct {
	paymentsv1.UnimplementedPaymentsServiceServer
	db     *database
	ledger paymentsv1.LedgerServiceClient
	bank   paymentsv1.ClearingServiceClient
	queue  *river.Client[pgx.Tx]
	later  time.Duration
}

const paymentsSchema = `CREATE TABLE IF NOT EXISTS payments (reference text PRIMARY KEY, account text NOT NULL, cents bigint NOT NULL, paid boolean NOT NULL DEFAULT false)`

// migrateQueue creates the tables of the queue.
func migrateQueue(ctx context.Context, pool *pgxpool.Pool) error {
	m, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	if err != nil {
		return err
	}
	_, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

func openPayments(ctx context.Context, c *Config, _ int, traces trace.TracerProvider) (*service, error) {
	d, err := c.open(ctx, Payments)
	if err != nil {
		return nil, err
	}
	toLedger, err := c.Connect(Payments, Ledger, traces)
	if err != nil {
		return nil, err
	}
	toBank, err := c.Connect(Payments, Bank, traces)
	if err != nil {
		return nil, err
	}
	p := &payments{db: d, ledger: paymentsv1.NewLedgerServiceClient(toLedger), bank: paymentsv1.NewClearingServiceClient(toBank), later: c.Later}
	workers := river.NewWorkers()
	river.AddWorker(workers, &payLater{payments: p})
	p.queue, err = river.NewClient(riverpgxv5.New(d.pool), &river.Config{
		Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 8}}, Workers: workers, RetryPolicy: p,
		FetchPollInterval: time.Second, RescueStuckJobsAfter: 2 * queueTimeout, JobTimeout: queueTimeout, MaxAttempts: 1000,
	})
	if err != nil {
		return nil, err
	}
	if err := p.queue.Start(context.WithoutCancel(ctx)); err != nil {
		return nil, err
	}
	s := d.service(func(r grpc.ServiceRegistrar) { paymentsv1.RegisterPaymentsServiceServer(r, p) })
	s.close = func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), queueTimeout)
		defer cancel()
		_ = p.queue.Stop(stop)
		_, _ = toLedger.Close(), toBank.Close()
		d.close()
	}
	return s, nil
}

// Open records a payment, and queues it in the same transaction.
func (p *payments) Open(ctx context.Context, req *paymentsv1.OpenRequest) (*paymentsv1.OpenResponse, error) {
	return &paymentsv1.OpenResponse{}, unavailable(p.db.inTx(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `INSERT INTO payments (reference, account, cents) VALUES ($1, $2, $3) ON CONFLICT (reference) DO NOTHING`,
			req.GetReference(), req.GetAccount(), req.GetCents())
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		_, err = p.queue.InsertTx(ctx, tx, payLaterArgs{Reference: req.GetReference()}, &river.InsertOpts{ScheduledAt: time.Now().Add(p.later)})
		return err
	}))
}

// Settle records that the bank has made a payment.
func (p *payments) Settle(ctx context.Context, req *paymentsv1.SettleRequest) (*paymentsv1.SettleResponse, error) {
	return &paymentsv1.SettleResponse{}, unavailable(p.db.inTx(ctx, func(tx pgx.Tx) error { return p.settle(ctx, tx, req.GetReference()) }))
}

// settle books a payment and marks it as paid. The gateway and the queue may do so at the same time: the ledger knows both
// by the same key.
func (p *payments) settle(ctx context.Context, tx pgx.Tx, reference string) error {
	var account string
	var cents int64
	switch err := tx.QueryRow(ctx, `SELECT account, cents FROM payments WHERE reference = $1`, reference).Scan(&account, &cents); {
	case errors.Is(err, pgx.ErrNoRows):
		return status.Error(codes.NotFound, "there is no such payment")
	case err != nil:
		return err
	}
	if _, err := p.ledger.Book(idempotency.WithKey(ctx, idempotency.Key("book-"+reference)),
		&paymentsv1.BookRequest{Reference: reference, Account: account, Cents: cents}); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `UPDATE payments SET paid = true WHERE reference = $1`, reference)
	return err
}

// FindPayment says what state a payment is in.
func (p *payments) FindPayment(ctx context.Context, req *paymentsv1.FindPaymentRequest) (*paymentsv1.FindPaymentResponse, error) {
	paid, err := p.paid(ctx, req.GetReference())
	state := paymentsv1.PaymentState_PAYMENT_STATE_PENDING
	if paid {
		state = paymentsv1.PaymentState_PAYMENT_STATE_PAID
	}
	return &paymentsv1.FindPaymentResponse{State: state}, unavailable(err)
}

func (p *payments) paid(ctx context.Context, reference string) (paid bool, err error) {
	err = p.db.pool.QueryRow(ctx, `SELECT paid FROM payments WHERE reference = $1`, reference).Scan(&paid)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, status.Error(codes.NotFound, "there is no such payment")
	}
	return paid, err
}

// payLaterArgs is a payment that may have to be made.
type payLaterArgs struct {
	Reference string `json:"reference"`
}

// Kind names the job.
func (payLaterArgs) Kind() string { return "pay_later" }

// payLater makes payments that could not be made at once.
type payLater struct {
	river.WorkerDefaults[payLaterArgs]
	payments *payments
}

// Work makes a payment, if nobody has. The bank knows it by the reference that the gateway has used.
func (w *payLater) Work(ctx context.Context, job *river.Job[payLaterArgs]) error {
	p, reference := w.payments, job.Args.Reference
	paid, err := p.paid(ctx, reference)
	if err != nil || paid {
		return err
	}
	var account string
	var cents int64
	if err := p.db.pool.QueryRow(ctx, `SELECT account, cents FROM payments WHERE reference = $1`, reference).Scan(&account, &cents); err != nil {
		return err
	}
	if _, err := p.bank.Transfer(ctx, &paymentsv1.TransferRequest{Reference: reference, Account: account, Cents: cents}); err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, p.db.pool, func(tx pgx.Tx) error { return p.settle(ctx, tx, reference) })
}

// NextRetry is when a queued payment is tried again: soon, and then every ten seconds.
func (p *payments) NextRetry(job *rivertype.JobRow) time.Time {
	return time.Now().Add(min(time.Duration(job.Attempt)*p.later, 10*time.Second))
}
