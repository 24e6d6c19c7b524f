package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/hopbound/hopbound/examples/payments/internal/cluster"
	"github.com/hopbound/hopbound/examples/payments/internal/customer"
	"github.com/hopbound/hopbound/examples/payments/internal/shop"
	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/status"
)

// teller tells the story: what alice does, what she is told, and all that the bank has charged since the chapter began.
type teller struct {
	cluster *cluster.Cluster
	alice   *customer.Customer
	bob     *customer.Customer
	out     io.Writer
	rescued string // the trace of a payment during which a gateway was killed
	before  int    // lines of the bank's books from before the chapter
}

// patience is how long a customer waits for a reply.
const patience = 10 * time.Second

func story(ctx context.Context, c *cluster.Cluster, out io.Writer) error {
	fmt.Fprintf(out, "%d processes are running, with PostgreSQL at %s, Redis at %s, and mutual TLS.\n\n", len(c.Processes), c.Config.Postgres, c.Config.Redis)
	alice, err := customer.New(ctx, &c.Config, "alice")
	if err != nil {
		return err
	}
	bob, err := customer.New(ctx, &c.Config, "bob")
	if err != nil {
		return errors.Join(err, alice.Close())
	}
	defer customer.CloseAll([]*customer.Customer{alice, bob}) //nolint:errcheck // the story is over
	t := &teller{cluster: c, alice: alice, bob: bob, out: out}
	t.line("what happens", "the customer is told", "the bank has charged")
	for _, chapter := range []func(context.Context) error{t.once, t.twice, t.cancelled, t.otherTenant, t.reused, t.killed, t.pending} {
		books, err := shop.ReadBooks(c.Config.BooksPath())
		if err != nil {
			return err
		}
		t.before = len(books)
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	if err := t.showTrace(ctx, out); err != nil {
		return err
	}
	return t.books(ctx, out)
}

// tell adds a line: what happened, what the customer was told, and the transfers of the chapter.
func (t *teller) tell(what, told string) error {
	books, err := shop.ReadBooks(t.cluster.Config.BooksPath())
	if err != nil {
		return err
	}
	n, cents := 0, int64(0)
	for _, b := range books[t.before:] {
		if b.Made {
			n++
			cents += b.Cents
		}
	}
	t.line(what, told, fmt.Sprintf("%d × %.2f €", n, float64(cents)/100/float64(max(1, n))))
	return nil
}

func (t *teller) line(what, told, charged string) {
	fmt.Fprintf(t.out, "%-56s %-32s %s\n", what, told, charged)
}

// buy pays, and returns the order and what the customer is told.
func buy(ctx context.Context, c *customer.Customer, key idempotency.Key, cart string, cents int64) (order, told string) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	reply, err := c.Buy(ctx, key, cart, cents, 1)
	if err != nil {
		return "", status.Code(err).String() + " " + reason(err)
	}
	return reply.GetOrder(), describe(reply.GetState())
}

func describe(s paymentsv1.PaymentState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "PAYMENT_STATE_"))
}

func (t *teller) once(ctx context.Context) error {
	key := idempotency.NewKey()
	first, told := buy(ctx, t.alice, key, "book", 1999)
	if err := t.tell("alice buys a book", told); err != nil {
		return err
	}
	second, told := buy(ctx, t.alice, key, "book", 1999)
	return t.tell("she presses the button again (the same key)", told+same(first, second))
}

func same(first, second string) string {
	if first == second {
		return ", the same order"
	}
	return ", another order"
}

func (t *teller) twice(ctx context.Context) error {
	first, _ := buy(ctx, t.alice, idempotency.NewKey(), "ticket", 500)
	second, told := buy(ctx, t.alice, idempotency.NewKey(), "ticket", 500)
	return t.tell("she buys two tickets on purpose (two keys)", told+same(first, second))
}

func (t *teller) cancelled(ctx context.Context) error {
	key := idempotency.NewKey()
	short, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
	_, err := t.alice.Buy(short, key, "lamp", 4900, 1)
	cancel()
	order, told := buy(ctx, t.alice, key, "lamp", 4900)
	if err := t.awaitPaid(ctx, order); err != nil {
		return err
	}
	return t.tell("she gives up after 5 ms ("+status.Code(err).String()+"), asks again", told)
}

func (t *teller) otherTenant(ctx context.Context) error {
	key := idempotency.NewKey()
	hers, _ := buy(ctx, t.alice, key, "chair", 8000)
	his, told := buy(ctx, t.bob, key, "chair", 8000)
	if err := t.tell("bob happens to use the key of alice's chair", told+same(hers, his)); err != nil {
		return err
	}
	_, err := t.bob.Receipt(ctx, hers)
	return t.tell("bob asks for alice's receipt", status.Code(err).String())
}

func (t *teller) reused(ctx context.Context) error {
	key := idempotency.NewKey()
	_, _ = buy(ctx, t.alice, key, "pen", 200)
	_, told := buy(ctx, t.alice, key, "car", 2000000)
	return t.tell("alice uses the key of a pen for a car", told)
}

// killed kills the gateway that makes a payment. The other one takes over.
func (t *teller) killed(ctx context.Context) error {
	ctx, span := t.alice.Tracer.Start(ctx, "alice buys a bicycle")
	defer span.End()
	t.rescued = span.SpanContext().TraceID().String()
	t.cluster.Find(shop.Bank, 0).Signal(syscall.SIGSTOP) // so that the payment is under way for long enough
	done := make(chan string, 1)
	key := idempotency.NewKey()
	go func() {
		_, told := buy(ctx, t.alice, key, "bicycle", 49900)
		done <- told
	}()
	p, err := whoRuns(ctx, t.cluster, key)
	if err == nil {
		p.Kill()
		err = p.Start(ctx)
	}
	t.cluster.Find(shop.Bank, 0).Signal(syscall.SIGCONT)
	told := <-done
	if err != nil {
		return err
	}
	return t.tell(p.String()+" is killed while alice buys a bicycle", told)
}

// pending stops the bank. The payment is made later, from the queue.
func (t *teller) pending(ctx context.Context) error {
	bank := t.cluster.Find(shop.Bank, 0)
	bank.Kill()
	order, told := buy(ctx, t.alice, idempotency.NewKey(), "sofa", 99900)
	if err := t.tell("the bank is down when alice buys a sofa", told); err != nil {
		return err
	}
	if err := bank.Start(ctx); err != nil {
		return err
	}
	if err := t.awaitPaid(ctx, order); err != nil {
		return err
	}
	return t.tell("the bank is back, and alice looks at her receipt", "paid")
}

// awaitPaid waits until a receipt of alice says that an order is paid for.
func (t *teller) awaitPaid(ctx context.Context, order string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for ; ctx.Err() == nil; time.Sleep(100 * time.Millisecond) { // it polls as a customer would
		receipt, err := t.alice.Receipt(ctx, order)
		if err == nil && receipt.GetState() == paymentsv1.PaymentState_PAYMENT_STATE_PAID {
			return nil
		}
	}
	return fmt.Errorf("order %s is not paid for: %w", order, ctx.Err())
}

// showTrace prints the trace of the payment that survived its gateway.
func (t *teller) showTrace(ctx context.Context, out io.Writer) error {
	for until := time.Now().Add(patience); !t.cluster.Traces.Has(t.rescued, "alice", shop.Gateway, shop.Ledger) && time.Now().Before(until) && ctx.Err() == nil; {
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Fprint(out, "\nThe trace of the bicycle:\n\n")
	return t.cluster.Traces.Write(out, t.rescued)
}

// books prints the sums of the accounts in the ledger, and of the bank.
func (t *teller) books(ctx context.Context, out io.Writer) error {
	conn, err := pgx.Connect(ctx, t.cluster.Config.URL(shop.Ledger))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, `SELECT account, sum(cents)::bigint FROM entries GROUP BY account ORDER BY account`)
	if err != nil {
		return err
	}
	transfers, err := shop.ReadBooks(t.cluster.Config.BooksPath())
	if err != nil {
		return err
	}
	charged := map[string]int64{}
	for _, b := range transfers {
		if b.Made {
			charged[b.Account] += b.Cents
		}
	}
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprint(table, "\naccount\tledger\tcharged by the bank\t\n")
	var sum int64
	for rows.Next() {
		var account string
		var cents int64
		if err := rows.Scan(&account, &cents); err != nil {
			return err
		}
		sum += cents
		fmt.Fprintf(table, "%s\t%.2f €\t%.2f €\t\n", account, float64(cents)/100, float64(charged[account])/100)
	}
	fmt.Fprintf(table, "sum\t%.2f €\t\t\n", float64(sum)/100)
	return errors.Join(rows.Err(), table.Flush())
}

// reason returns the reason of an error of Hopbound.
func reason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(interface{ GetReason() string }); ok {
			return info.GetReason()
		}
	}
	return ""
}
