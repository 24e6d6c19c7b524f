// Command queue pays for orders through a queue, which is River on PostgreSQL. The order's handler puts a job into the
// queue. A worker makes the payment, fails after it, and tries again, as workers do that lose their connection or
// restart. Because the job carries the order's key, the bank makes the payment once.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/examples/queue/internal/bank"
	"github.com/hopbound/hopbound/hopqueue"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"go.opentelemetry.io/otel/propagation"
)

func main() {
	postgres := flag.String("postgres", "", "connection string of an empty PostgreSQL database (required)")
	flag.Parse()
	if *postgres == "" {
		log.Fatal("-postgres is required, such as postgres://postgres@127.0.0.1:5432/postgres")
	}
	if err := run(context.Background(), *postgres, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// queueName is the name of the queue in child keys.
const queueName = "payments"

// job is a payment. Headers are what the order's request carries to it.
type job struct {
	Account string                 `json:"account"`
	Cents   int64                  `json:"cents"`
	Headers propagation.MapCarrier `json:"headers"`
}

// Kind names the job.
func (job) Kind() string { return "payment" }

// place places an order, which is paid later. In a service, the job is inserted in the transaction of the order.
func place(ctx context.Context, jobs *river.Client[pgx.Tx], account string, cents int64) error {
	headers := propagation.MapCarrier{}
	hopqueue.Inject(ctx, queueName, headers)
	_, err := jobs.Insert(ctx, job{account, cents, headers}, nil)
	return err
}

// worker makes payments.
type worker struct {
	river.WorkerDefaults[job]
	bank    *bank.Client
	retries *budget.Budget
	out     io.Writer
	done    chan struct{}
}

// Work makes a payment.
func (w *worker) Work(ctx context.Context, j *river.Job[job]) error {
	ctx, end := hopqueue.Extract(ctx, queueName, j.Args.Headers, w.retries)
	defer end()
	switch err := ctx.Err(); {
	case errors.Is(err, context.DeadlineExceeded):
		return river.JobCancel(err) // nobody waits for it any more
	case err != nil:
		return err // the worker stops, and another one tries again
	}
	charge, err := w.bank.Charge(ctx, j.Args.Account, j.Args.Cents)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(w.out, "try %d of the job: %s\n", j.Attempt, charge)
	if j.Attempt == 1 {
		return errors.New("the worker fails after the payment")
	}
	close(w.done)
	return nil
}

// NextRetry tries again at once.
func (*worker) NextRetry(*river.Job[job]) time.Time { return time.Now() }

func run(ctx context.Context, postgres string, out io.Writer) error {
	b, err := bank.Open()
	if err != nil {
		return err
	}
	defer b.Close()
	pool, err := pgxpool.New(ctx, postgres)
	if err != nil {
		return err
	}
	defer pool.Close()
	w := &worker{bank: b, retries: budget.New(), out: out, done: make(chan struct{})}
	jobs, err := start(ctx, pool, w)
	if err != nil {
		return err
	}
	defer func() { _ = jobs.Stop(ctx) }()
	// In a service, the context of a handler has the deadline and the key of its request.
	request, cancel := context.WithTimeout(idempotency.WithKey(ctx, "order-17"), time.Minute)
	defer cancel()
	if err := place(request, jobs, "rent", 90000); err != nil {
		return err
	}
	select {
	case <-w.done:
	case <-request.Done():
		return request.Err()
	}
	_, err = fmt.Fprintf(out, "payments that the bank has made: %d\n", b.Charges())
	return err
}

// start creates the tables of the queue, and starts its workers.
func start(ctx context.Context, pool *pgxpool.Pool, w *worker) (*river.Client[pgx.Tx], error) {
	m, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	if err != nil {
		return nil, err
	}
	if _, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, err
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, w)
	jobs, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 2}}, Workers: workers,
		FetchPollInterval: 100 * time.Millisecond,
	})
	if err != nil {
		return nil, err
	}
	return jobs, jobs.Start(ctx)
}
