package main

import (
	"context"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/hopbound/hopbound/examples/payments/internal/cluster"
	"github.com/hopbound/hopbound/examples/payments/internal/customer"
	"github.com/hopbound/hopbound/examples/payments/internal/shop"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/jackc/pgx/v5"
)

// hold keeps the system running until an interrupt.
func hold(ctx context.Context, c *cluster.Cluster, out io.Writer) error {
	prefix := ""
	if c.Config.Prefix != "" {
		prefix = " # hopbound-keys needs -prefix " + c.Config.Prefix
	}
	fmt.Fprintf(out, `The system is running. These are its addresses:

export CONFIG=%s
export HOPBOUND_STORE=redis://%s%s
export ORDERS='%s'
export PAYMENTS='%s'

An interrupt (Ctrl-C) ends it.
`, c.ConfigPath(), c.Config.Redis, prefix, c.Config.URL(shop.Orders), c.Config.URL(shop.Payments))
	<-ctx.Done()
	return nil
}

// stuck leaves a payment half made: its gateway stands still, and the customer has gone away.
func stuck(ctx context.Context, c *cluster.Cluster, out io.Writer) error {
	alice, err := customer.New(ctx, &c.Config, "alice")
	if err != nil {
		return err
	}
	defer alice.Close()
	bank := c.Find(shop.Bank, 0)
	bank.Signal(syscall.SIGSTOP) // so that the payment is under way for long enough
	key := idempotency.NewKey()
	call, giveUp := context.WithTimeout(ctx, 5*time.Second)
	defer giveUp()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = alice.Buy(call, key, "sofa", 99900, 1)
	}()
	p, err := whoRuns(ctx, c, key)
	if err != nil {
		return err
	}
	if err := awaitOrder(ctx, c); err != nil {
		return err
	}
	p.Signal(syscall.SIGSTOP)
	giveUp()
	<-gone
	bank.Signal(syscall.SIGCONT)
	fmt.Fprintf(out, "%s stands still, and alice has not waited.\n\nexport KEY=%s\nexport HASH=%s\nexport GATEWAY=%d\n\n", p, key, key.Hash(), p.PID())
	return hold(ctx, c, out)
}

// awaitOrder waits until the only order is placed: its gateway then waits for the bank.
func awaitOrder(ctx context.Context, c *cluster.Cluster) error {
	conn, err := pgx.Connect(ctx, c.Config.URL(shop.Orders))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for until := time.Now().Add(patience); time.Now().Before(until) && ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
		var n int
		if err := conn.QueryRow(ctx, `SELECT count(*) FROM orders`).Scan(&n); err != nil || n > 0 {
			return err
		}
	}
	return fmt.Errorf("no order was placed within %v", patience)
}

// whoRuns waits until a gateway has started to run a key.
func whoRuns(ctx context.Context, c *cluster.Cluster, key idempotency.Key) (*cluster.Process, error) {
	for until := time.Now().Add(patience); time.Now().Before(until) && ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
		for i := range 2 {
			runs, err := shop.ReadRunsOf(c.Config.Folder, i)
			if err != nil {
				return nil, err
			}
			for _, r := range runs {
				if r.Key == string(key) {
					return c.Find(shop.Gateway, i), nil
				}
			}
		}
	}
	return nil, fmt.Errorf("no gateway has run the payment within %v", patience)
}
