// Package embedded sells carts through a shop that charges a bank, in one process and without servers. Replies are lost and
// the shop crashes. It counts the charges, once with grpc-go's own retries and once with Hopbound.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
)

// Run buys carts with each stack, and prints a table.
func Run(ctx context.Context, out io.Writer, carts int) error {
	fmt.Fprintf(out, "%d carts, 8 at a time; the first reply to one charge in three is lost, and one in five checkouts crashes the shop\n\n", carts)
	fmt.Fprintf(out, "%10s   %12s   %12s   %13s   %18s\n", "stack", "bought", "charges", "charged twice", "bought, not charged")
	for _, s := range []stack{native, hopbound} {
		r, err := s.sell(ctx, carts)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Fprintf(out, "%10s   %12d   %12d   %13d   %18d\n", s.name, r.bought, r.charges, r.twice, r.unpaid)
	}
	return ctx.Err()
}

// result counts what happened to all carts.
type result struct{ bought, charges, twice, unpaid int }

// sell buys each cart until there is a receipt for it, and returns what the bank's ledger contains.
func (s *stack) sell(ctx context.Context, carts int) (result, error) {
	book := &ledger{charges: map[string]int{}}
	shop, stop, err := s.open(book)
	if err != nil {
		return result{}, err
	}
	defer stop()
	var (
		wg   sync.WaitGroup
		next atomic.Int64
		errs [8]error
	)
	for i := range errs {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(carts) && errs[i] == nil; n = next.Add(1) {
				errs[i] = s.buy(ctx, shop, fmt.Sprint("cart ", n))
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return result{}, err
	}
	return book.result(carts), nil
}

// pause is the time that a customer waits before trying again.
const pause = 20 * time.Millisecond

// buy is a customer who tries until there is a receipt.
func (s *stack) buy(ctx context.Context, shop paymentsv1.ShopServiceClient, cart string) error {
	ctx = s.mark(ctx)
	var err error
	for range 50 {
		if _, err = shop.Checkout(ctx, &paymentsv1.CheckoutRequest{Cart: cart}); err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		time.Sleep(pause)
	}
	return fmt.Errorf("%s: failed 50 times: %w", cart, err)
}

// ledger counts the charges of the bank, by account.
type ledger struct {
	mu      sync.Mutex
	charges map[string]int
}

func (l *ledger) charge(account string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.charges[account]++
	return l.charges[account]
}

func (l *ledger) result(carts int) result {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := result{bought: carts, unpaid: carts - len(l.charges)}
	for _, n := range l.charges {
		r.charges += n
		if n > 1 {
			r.twice++
		}
	}
	return r
}
