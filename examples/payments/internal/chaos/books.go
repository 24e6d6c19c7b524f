package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hopbound/hopbound/examples/payments/internal/cluster"
	"github.com/hopbound/hopbound/examples/payments/internal/shop"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
)

// Result is what the books say after a run.
type Result struct {
	Seed     uint64  `json:"seed"`
	Seconds  float64 `json:"seconds"`
	Payments int     `json:"payments"` // that customers wanted to make, each with a key

	Acknowledged          int     `json:"acknowledged"`            // of these, with a receipt or the answer that they are pending
	DoubleCharges         int     `json:"double_charges"`          // carts that the bank has charged, or the ledger has booked, more than once
	LostPayments          int     `json:"lost_payments"`           // acknowledged, and the bank knows nothing of them
	ChargesWithoutReceipt int     `json:"charges_without_receipt"` // transfers of the bank for which there is no order, or no payment that is marked as paid, or no entry
	UnequalReplies        int     `json:"unequal_replies"`         // keys for which customers got different replies
	UntoldRuns            int     `json:"untold_runs"`             // second runs of a key after one that may have had an effect, whose handler was not told that it takes over
	LedgerSum             int64   `json:"ledger_sum"`              // in cents
	LateCalls             int     `json:"late_calls"`              // that ended more than 100 ms after their deadline
	BankAmplification     float64 `json:"bank_amplification"`      // calls that reach the bank for each cart that is charged
	Kills                 int     `json:"kills"`
	Restarts              int     `json:"restarts"`

	FalselyReused int `json:"-"` // calls that failed with KEY_REUSED, while releases with different requests were running

	ToldRuns int `json:"-"` // second runs whose handler was told
	Pending  int `json:"-"` // acknowledged as pending, and paid later
}

// Check returns an error that names everything which must not be.
func (r *Result) Check() error {
	var errs []error
	for name, n := range map[string]int{
		"double charges": r.DoubleCharges, "lost payments": r.LostPayments, "charges without a receipt": r.ChargesWithoutReceipt,
		"unequal replies": r.UnequalReplies, "runs that were not told": r.UntoldRuns, "false KEY_REUSED": r.FalselyReused,
	} {
		if n > 0 {
			errs = append(errs, fmt.Errorf("%d %s", n, name))
		}
	}
	if r.LedgerSum != 0 {
		errs = append(errs, fmt.Errorf("the ledger's sum is %d", r.LedgerSum))
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

// order is what the databases have of an order.
type order struct {
	account, cart string
	paid          bool
	entries       int
}

// orders reads the databases of the services.
func readOrders(ctx context.Context, c *cluster.Cluster) (map[string]*order, int64, error) {
	all := map[string]*order{}
	query := func(role, sql string, scan func(pgx.Rows) error) error {
		conn, err := pgx.Connect(ctx, c.Config.URL(role))
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		rows, err := conn.Query(ctx, sql)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if err := scan(rows); err != nil {
				return err
			}
		}
		return rows.Err()
	}
	get := func(id string) *order {
		if all[id] == nil {
			all[id] = &order{}
		}
		return all[id]
	}
	var sum int64
	err := errors.Join(
		query(shop.Orders, `SELECT id, account, cart FROM orders`, func(rows pgx.Rows) error {
			var id, account, cart string
			err := rows.Scan(&id, &account, &cart)
			get(id).account, get(id).cart = account, cart
			return err
		}),
		query(shop.Payments, `SELECT reference FROM payments`, func(rows pgx.Rows) error {
			var id string
			err := rows.Scan(&id)
			get(id).paid = true
			return err
		}),
		query(shop.Ledger, `SELECT reference, cents FROM entries`, func(rows pgx.Rows) error {
			var id string
			var cents int64
			err := rows.Scan(&id, &cents)
			get(id).entries++
			sum += cents
			return err
		}))
	return all, sum, err
}

// reconcile compares what customers were told with the books of everybody.
func reconcile(ctx context.Context, c *cluster.Cluster, payments []*payment) (*Result, error) {
	orders, sum, err := readOrders(ctx, c)
	if err != nil {
		return nil, err
	}
	lines, err := shop.ReadBooks(c.Config.BooksPath())
	if err != nil {
		return nil, err
	}
	runs, err := shop.ReadRuns(c.Config.Folder)
	if err != nil {
		return nil, err
	}
	r := &Result{Payments: len(payments), LedgerSum: sum}
	made, calls, charged := map[string]bool{}, 0, map[[2]string]int{}
	for _, t := range lines {
		if !t.Made {
			calls++
			continue
		}
		made[t.Reference] = true
		o := orders[t.Reference]
		if o == nil || o.cart == "" || !o.paid || o.entries == 0 {
			r.ChargesWithoutReceipt++
			continue
		}
		charged[[2]string{o.account, o.cart}]++
	}
	for _, n := range charged {
		if n > 1 {
			r.DoubleCharges++
		}
	}
	for _, o := range orders {
		if o.entries > 2 {
			r.DoubleCharges++
		}
	}
	r.countReplies(payments, made)
	if len(charged) > 0 {
		r.BankAmplification = float64(calls) / float64(len(charged))
	}
	r.countRuns(runs)
	return r, nil
}

// countReplies counts what customers were told.
func (r *Result) countReplies(payments []*payment, made map[string]bool) {
	for _, p := range payments {
		r.LateCalls += p.late
		r.FalselyReused += p.reused
		if len(p.replies) == 0 {
			continue
		}
		r.Acknowledged++
		if !made[p.replies[0].GetOrder()] {
			r.LostPayments++
		}
		for _, reply := range p.replies[1:] {
			if !proto.Equal(reply, p.replies[0]) {
				r.UnequalReplies++
				break
			}
		}
		if p.replies[0].GetState().Number() == 1 {
			r.Pending++
		}
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
  %6d calls that were rejected although their key was not reused
  %6d second runs of a key that were told, %d that were not
  %6d cents is the sum of the ledger
  %6d calls ended late
  %6.3f calls of the bank for each cart that is charged
`, r.Payments, r.Seconds, r.Kills, r.Restarts, r.Acknowledged, r.Pending, r.DoubleCharges, r.LostPayments, r.ChargesWithoutReceipt,
		r.UnequalReplies, r.FalselyReused, r.ToldRuns, r.UntoldRuns, r.LedgerSum, r.LateCalls, r.BankAmplification)
	return err
}
