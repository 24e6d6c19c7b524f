package shop

import (
	"context"
	"log/slog"
	"math"
	"time"

	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// queueTimeout bounds one try of a queued payment.
const queueTimeout = 20 * time.Second

// migrateQueue creates the tables of the queue.
func migrateQueue(ctx context.Context, pool *pgxpool.Pool) error {
	m, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	if err != nil {
		return err
	}
	_, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

// payLaterArgs is an order whose payment may have to be made.
type payLaterArgs struct {
	Order   string `json:"order"`
	Account string `json:"account"`
	Cents   int64  `json:"cents"`
}

// Kind names the job.
func (payLaterArgs) Kind() string { return "pay_later" }

// payLater makes payments that could not be made at once, and tries each until it is made, however long that takes.
type payLater struct {
	river.WorkerDefaults[payLaterArgs]
	orders   *orders
	payments paymentsv1.PaymentsServiceClient
	bank     paymentsv1.ClearingServiceClient
	later    time.Duration
}

// newQueue starts the workers of an instance.
func newQueue(ctx context.Context, pool *pgxpool.Pool, w *payLater) (*river.Client[pgx.Tx], error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, w)
	queue, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 8}}, Workers: workers,
		FetchPollInterval: time.Second, RescueStuckJobsAfter: 2 * queueTimeout, JobTimeout: queueTimeout,
		MaxAttempts: math.MaxInt16, // only crashes count: a worker that fails returns river.JobSnooze
	})
	if err != nil {
		return nil, err
	}
	return queue, queue.Start(ctx)
}

// Work makes a payment, if nobody has. A payment that cannot be made now is retried until it succeeds: customers have been
// told that it is pending.
func (w *payLater) Work(ctx context.Context, job *river.Job[payLaterArgs]) error {
	if err := w.pay(ctx, job); err != nil {
		slog.Warn("a payment is not made yet", "order", job.Args.Order, "err", err)
		return river.JobSnooze(w.later)
	}
	return nil
}

// pay makes a payment. The bank knows it by the reference that the gateway has used.
func (w *payLater) pay(ctx context.Context, job *river.Job[payLaterArgs]) error {
	order, account, cents := job.Args.Order, job.Args.Account, job.Args.Cents
	found, err := w.payments.FindPayment(ctx, &paymentsv1.FindPaymentRequest{Reference: order})
	if err != nil || found.GetState() == paymentsv1.PaymentState_PAYMENT_STATE_PAID {
		return err
	}
	placed, err := w.orders.find(ctx, order)
	if err != nil {
		return err
	}
	if !placed.charged {
		if _, err := w.bank.Transfer(ctx, &paymentsv1.TransferRequest{Reference: order, Account: account, Cents: cents}); err != nil {
			return err
		}
	}
	_, err = w.payments.Settle(idempotency.WithKey(ctx, idempotency.Key("settle-"+order)),
		&paymentsv1.SettleRequest{Reference: order, Account: account, Cents: cents})
	return err
}

// NextRetry returns when to retry a payment whose worker has crashed.
func (w *payLater) NextRetry(*river.Job[payLaterArgs]) time.Time { return time.Now().Add(w.later) }
