package chaos

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hopbound/hopbound/examples/payments/internal/cluster"
	"github.com/hopbound/hopbound/examples/payments/internal/customer"
	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"github.com/hopbound/hopbound/idempotency"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// load is the customers. They do not wait for each other.
type load struct {
	customers []*customer.Customer
	random    *rand.Rand
	rate      float64
	log       *log

	payments []*payment
	wg       sync.WaitGroup
}

// payment is what a customer wants to pay, and what it was told.
type payment struct {
	customer *customer.Customer
	key      idempotency.Key
	cart     string
	cents    int64

	submissions int           // at the same time
	again       time.Duration // after which it is submitted once more; 0 for never
	gaveUp      bool          // after the first failure

	mu      sync.Mutex
	replies []*paymentsv1.BuyResponse
	receipt *paymentsv1.GetReceiptResponse // that the customer gets in the end
	tries   int
	late    int  // calls that ended too late
	refused bool // a call failed with an error that is not retryable, such as KEY_REUSED
}

func newLoad(ctx context.Context, c *cluster.Cluster, o *Options) (*load, error) {
	l := &load{random: rand.New(rand.NewPCG(o.Seed, 0)), rate: o.Rate, log: newLog(o.Progress)} //nolint:gosec // it must be repeatable
	for _, name := range cluster.Customers() {
		one, err := customer.New(ctx, &c.Config, name)
		if err != nil {
			l.close()
			return nil, err
		}
		l.customers = append(l.customers, one)
	}
	return l, nil
}

func (l *load) close() { _ = customer.CloseAll(l.customers) }

// run makes payments until running ends, and waits for their replies until ctx does.
func (l *load) run(running, ctx context.Context) {
	var keys [16]byte
	for i := 0; ; i++ {
		pause := time.Duration(l.random.ExpFloat64() / l.rate * float64(time.Second))
		select {
		case <-time.After(pause):
		case <-running.Done():
			l.wg.Wait()
			return
		}
		for b := range keys {
			keys[b] = byte(l.random.Uint32()) //nolint:gosec // eight bits of it
		}
		p := &payment{
			customer: l.customers[l.random.IntN(len(l.customers))], key: idempotency.Key(hex.EncodeToString(keys[:])),
			cart: fmt.Sprint("cart ", i), cents: 1 + l.random.Int64N(10000), submissions: 1,
		}
		switch dice := l.random.IntN(100); {
		case dice < 10:
			p.submissions = 2 + dice%2
		case dice < 20:
			p.again = time.Duration(dice) * 100 * time.Millisecond
		case dice < 25:
			p.gaveUp = true
		}
		l.payments = append(l.payments, p)
		for range p.submissions {
			l.wg.Go(func() { p.submit(ctx) })
		}
	}
}

// submit tries until there is a reply, as a customer does who wants to know.
func (p *payment) submit(ctx context.Context) {
	if !p.untilReply(ctx) || p.again == 0 {
		return
	}
	select {
	case <-time.After(p.again):
		p.untilReply(ctx)
	case <-ctx.Done():
	}
}

func (p *payment) untilReply(ctx context.Context) bool {
	const tries, pause = 40, 500 * time.Millisecond
	for range tries {
		if p.try(ctx) {
			return true
		}
		if p.gaveUp {
			return false
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return false
		}
	}
	return false
}

func (p *payment) try(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	started := time.Now()
	p.mu.Lock()
	p.tries++
	release := 1 + p.tries%2 // the customer's app is upgraded, and rolled back
	p.mu.Unlock()
	reply, err := p.customer.Buy(ctx, p.key, p.cart, p.cents, release)
	took := time.Since(started)
	p.mu.Lock()
	defer p.mu.Unlock()
	if took > deadline+100*time.Millisecond {
		p.late++
	}
	switch status.Code(err) {
	case codes.OK:
		p.replies = append(p.replies, reply)
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Aborted, codes.ResourceExhausted:
	default:
		p.refused = true
	}
	return err == nil
}

// ask repeats every acknowledged purchase and gets its receipt. Call it once the queue is empty.
func (l *load) ask(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for _, p := range l.payments {
		if len(p.replies) > 0 {
			g.Go(func() error { return p.ask(ctx) })
		}
	}
	return g.Wait()
}

func (p *payment) ask(ctx context.Context) (err error) {
	if !p.untilReply(ctx) {
		return fmt.Errorf("%s: no reply when asked again", p.cart)
	}
	for range 10 {
		p.receipt, err = p.customer.Receipt(ctx, p.replies[0].GetOrder())
		if err == nil || status.Code(err) == codes.NotFound { // compare counts a missing receipt
			return nil
		}
		sleep(ctx, 100*time.Millisecond)
	}
	return fmt.Errorf("the receipt of %s: %w", p.cart, err)
}
