package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hopbound/hopbound/examples/payments/internal/cluster"
	"github.com/hopbound/hopbound/examples/payments/internal/shop"
	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
)

// Result is what the books say after a run. The reconciliation looks at every reference that a customer, an order, a payment,
// an entry or the bank has, and at every answer that a customer got.
type Result struct {
	Seed     uint64  `json:"seed"`
	Seconds  float64 `json:"seconds"`
	Payments int     `json:"payments"` // that customers wanted to make, each with a key

	Acknowledged          int     `json:"acknowledged"`            // of these, with a receipt or the answer that they are pending
	DoubleCharges         int     `json:"double_charges"`          // carts that the bank has charged, or the ledger has booked, more than once
	LostPayments          int     `json:"lost_payments"`           // references for which the bank has made no transfer, and acknowledged payments without an order
	ChargesWithoutReceipt int     `json:"charges_without_receipt"` // transfers, payments and entries that are not those of the same order, payment and transfer, with the same account and cents
	UnequalReplies        int     `json:"unequal_replies"`         // keys with different replies, with the order of another cart, with a receipt of other contents, or with an error that is not retryable
	UntoldRuns            int     `json:"untold_runs"`             // second runs of a key after one that may have had an effect, whose handler was not told that it takes over
	LedgerSum             int64   `json:"ledger_sum"`              // in cents
	LateCalls             int     `json:"late_calls"`              // calls of customers that ended more than 100 ms after their deadline
	BankAmplification     float64 `json:"bank_amplification"`      // calls that reach the bank for each cart that is charged
	Kills                 int     `json:"kills"`
	Restarts              int     `json:"restarts"`

	Patient  int `json:"-"` // payments of customers who do not give up
	Answered int `json:"-"` // of these, acknowledged
	ToldRuns int `json:"-"` // second runs whose handler was told
	Pending  int `json:"-"` // acknowledged as pending, and paid later
}

// Check returns an error that names everything which must not be.
func (r *Result) Check() error {
	var errs []error
	for name, n := range map[string]int{
		"double charges": r.DoubleCharges, "lost payments": r.LostPayments, "charges without a receipt": r.ChargesWithoutReceipt,
		"unequal replies": r.UnequalReplies, "runs that were not told": r.UntoldRuns,
	} {
		if n > 0 {
			errs = append(errs, fmt.Errorf("%d %s", n, name))
		}
	}
	if r.LedgerSum != 0 {
		errs = append(errs, fmt.Errorf("the ledger's sum is %d", r.LedgerSum))
	}
	if r.Answered*10 < r.Patient*9 {
		errs = append(errs, fmt.Errorf("only %d of the %d payments of patient customers were acknowledged", r.Answered, r.Patient))
	}
	return errors.Join(errs...)
}

// awaitQueue waits until no payment is queued.
func awaitQueue(ctx context.Context, c *cluster.Cluster) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.Config.URL(shop.Orders))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for {
		var queued int
		if err := conn.QueryRow(ctx, `SELECT count(*) FROM river_job WHERE finalized_at IS NULL`).Scan(&queued); err != nil {
			return fmt.Errorf("waiting for the queue: %w", err)
		}
		if queued == 0 {
			return nil
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return fmt.Errorf("%d payments are still queued", queued)
		}
	}
}

// books are the records of the services, the bank and the gateways.
type books struct {
	orders    map[string]row // by reference, as all of these
	payments  map[string]row
	entries   map[string][]row
	transfers map[string][]row // that the bank has made
	calls     int              // of the bank
	runs      []*shop.Run
}

// row is a row of a table, or a line of the bank's books.
type row struct {
	account, cart string // the cart is only known of orders
	cents         int64
}

// readBooks reads the databases of the services, the bank's books and the records of runs.
func readBooks(ctx context.Context, c *cluster.Cluster) (*books, error) {
	b := &books{orders: map[string]row{}, payments: map[string]row{}, entries: map[string][]row{}, transfers: map[string][]row{}}
	query := func(role, sql string, add func(reference string, r row)) error {
		conn, err := pgx.Connect(ctx, c.Config.URL(role))
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		rows, err := conn.Query(ctx, sql)
		if err != nil {
			return err
		}
		var reference string
		var r row
		_, err = pgx.ForEachRow(rows, []any{&reference, &r.account, &r.cart, &r.cents}, func() error {
			add(reference, r)
			return nil
		})
		return err
	}
	err := errors.Join(
		query(shop.Orders, `SELECT id, account, cart, cents FROM orders`, func(reference string, r row) { b.orders[reference] = r }),
		query(shop.Payments, `SELECT reference, account, '', cents FROM payments`, func(reference string, r row) { b.payments[reference] = r }),
		query(shop.Ledger, `SELECT reference, account, '', cents FROM entries`, func(reference string, r row) {
			b.entries[reference] = append(b.entries[reference], r)
		}))
	if err != nil {
		return nil, err
	}
	lines, err := shop.ReadBooks(c.Config.BooksPath())
	if err != nil {
		return nil, err
	}
	for _, t := range lines {
		if t.Made {
			b.transfers[t.Reference] = append(b.transfers[t.Reference], row{account: t.Account, cents: t.Cents})
		} else {
			b.calls++
		}
	}
	b.runs, err = shop.ReadRuns(c.Config.Folder)
	return b, err
}

// references returns all references that anybody knows.
func (b *books) references() map[string]bool {
	all := map[string]bool{}
	for _, of := range []map[string]row{b.orders, b.payments} {
		for reference := range of {
			all[reference] = true
		}
	}
	for _, of := range []map[string][]row{b.entries, b.transfers} {
		for reference := range of {
			all[reference] = true
		}
	}
	return all
}

// compare compares the books with each other, and with what customers wanted and were told.
func (b *books) compare(payments []*payment) *Result {
	r := &Result{Payments: len(payments)}
	wanted := map[row]bool{}
	for _, p := range payments {
		wanted[row{p.customer.Name, p.cart, p.cents}] = true
	}
	charged := map[row]int{}
	for reference := range b.references() {
		order, transfers, entries := b.orders[reference], b.transfers[reference], b.entries[reference]
		for _, e := range entries {
			r.LedgerSum += e.cents
		}
		if len(entries) > 2 {
			r.DoubleCharges++
		}
		if len(transfers) == 0 {
			r.LostPayments++
		} else if _, ok := b.orders[reference]; ok {
			charged[order] += len(transfers)
		}
		if !b.agree(reference, wanted) {
			r.ChargesWithoutReceipt++
		}
	}
	for _, n := range charged {
		if n > 1 {
			r.DoubleCharges++
		}
	}
	if len(charged) > 0 {
		r.BankAmplification = float64(b.calls) / float64(len(charged))
	}
	for _, p := range payments {
		b.checkReplies(r, p)
	}
	r.countRuns(b.runs)
	return r
}

// agree reports whether all books have the same payment under a reference, which a customer wanted to make. Without a
// transfer, there must not be a payment either.
func (b *books) agree(reference string, wanted map[row]bool) bool {
	order, transfers, entries := b.orders[reference], b.transfers[reference], b.entries[reference]
	payment, paid := b.payments[reference]
	if len(transfers) == 0 {
		return !paid && len(entries) == 0
	}
	money := row{account: order.account, cents: order.cents}
	return wanted[order] && transfers[0] == money && payment == money && len(entries) == 2 &&
		slices.Contains(entries, row{account: money.account, cents: -money.cents}) &&
		slices.Contains(entries, row{account: "shop", cents: money.cents})
}

// checkReplies compares what a customer was told with the books.
func (b *books) checkReplies(r *Result, p *payment) {
	r.LateCalls += p.late
	if !p.gaveUp {
		r.Patient++
	}
	unequal := p.refused
	if len(p.replies) > 0 {
		r.Acknowledged++
		if !p.gaveUp {
			r.Answered++
		}
		first := p.replies[0]
		mine := row{p.customer.Name, p.cart, p.cents}
		if b.orders[first.GetOrder()] == (row{}) {
			r.LostPayments++
		} else if b.orders[first.GetOrder()] != mine {
			unequal = true
		}
		for _, reply := range p.replies[1:] {
			unequal = unequal || !proto.Equal(reply, first)
		}
		want := &paymentsv1.GetReceiptResponse{Order: first.GetOrder(), Account: mine.account, Cents: mine.cents, State: paymentsv1.PaymentState_PAYMENT_STATE_PAID}
		unequal = unequal || !proto.Equal(p.receipt, want)
		if first.GetState() == paymentsv1.PaymentState_PAYMENT_STATE_PENDING {
			r.Pending++
		}
	}
	if unequal {
		r.UnequalReplies++
	}
}

// countRuns counts the second runs of keys.
func (r *Result) countRuns(runs []*shop.Run) {
	first := map[[2]string]int{}
	for _, run := range runs {
		switch of := [2]string{run.Tenant, run.Key}; {
		case run.NoEffect && run.TakenOver: // it was counted as told
		case run.NoEffect: // the next run need not be told of that one
			first[of]--
		case run.TakenOver:
			r.ToldRuns++
		default:
			first[of]++
		}
	}
	for _, n := range first {
		r.UntoldRuns += max(0, n-1)
	}
}

// Print prints the result for people.
func (r *Result) Print(out io.Writer) error {
	_, err := fmt.Fprintf(out, `
%d payments in %.0f s, with %d kills and %d restarts
  %6d acknowledged, %d of them as pending and paid later
  %6d double charges
  %6d lost payments
  %6d charges without a receipt
  %6d keys with unequal replies
  %6d second runs of a key that were told, %d that were not
  %6d cents is the sum of the ledger
  %6d calls ended late
  %6.3f calls of the bank for each cart that is charged
`, r.Payments, r.Seconds, r.Kills, r.Restarts, r.Acknowledged, r.Pending, r.DoubleCharges, r.LostPayments, r.ChargesWithoutReceipt,
		r.UnequalReplies, r.ToldRuns, r.UntoldRuns, r.LedgerSum, r.LateCalls, r.BankAmplification)
	return err
}
