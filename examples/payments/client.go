package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/hopbound/hopbound/examples/payments/internal/customer"
	"github.com/hopbound/hopbound/examples/payments/internal/shop"
	"github.com/hopbound/hopbound/idempotency"
)

// client makes one call as a customer.
func client(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c, err := parseClient(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "payments:", err)
		return exitUsage
	}
	if err := c.call(ctx, stdout); err != nil {
		fmt.Fprintln(stderr, "payments:", err)
		return exitFailed
	}
	return 0
}

// clientFlags are the settings of a call.
type clientFlags struct {
	config, as, command, key, cart, order string
	cents                                 int64
	timeout                               time.Duration
}

func parseClient(args []string, stderr io.Writer) (*clientFlags, error) {
	c := &clientFlags{}
	set := flag.NewFlagSet("payments client", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.StringVar(&c.config, "config", "", "the `file` that -hold has printed")
	set.StringVar(&c.as, "as", "alice", "the customer: alice, bob, carol or dave")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	if c.command = set.Arg(0); c.command != "buy" && c.command != "receipt" {
		return nil, fmt.Errorf(`%q is no command: use "buy" or "receipt"`, c.command)
	}
	own := flag.NewFlagSet("payments client "+c.command, flag.ContinueOnError)
	own.SetOutput(stderr)
	own.DurationVar(&c.timeout, "timeout", 10*time.Second, "how long to wait; a short one cancels the call")
	if c.command == "buy" {
		own.StringVar(&c.key, "key", string(idempotency.NewKey()), "the idempotency key; a retry has the same one")
		own.StringVar(&c.cart, "cart", "", "what to buy")
		own.Int64Var(&c.cents, "cents", 0, "its price")
	} else {
		own.StringVar(&c.order, "order", "", "the order of the receipt")
	}
	if err := own.Parse(set.Args()[1:]); err != nil {
		return nil, err
	}
	if own.NArg() > 0 { // it would end the flags, and a key after it would be ignored
		return nil, fmt.Errorf("unexpected argument %q", own.Arg(0))
	}
	return c, nil
}

// call makes the call.
func (c *clientFlags) call(ctx context.Context, stdout io.Writer) error {
	config, err := shop.Load(c.config)
	if err != nil {
		return err
	}
	one, err := customer.New(ctx, config, c.as)
	if err != nil {
		return err
	}
	defer one.Close()
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if c.command == "receipt" {
		r, err := one.Receipt(ctx, c.order)
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "order %s\nstate %s\ncents %d\n", r.GetOrder(), describe(r.GetState()), r.GetCents())
		return nil
	}
	reply, err := one.Buy(ctx, idempotency.Key(c.key), c.cart, c.cents, 1)
	if err != nil {
		return fmt.Errorf("key %s: %w", c.key, err)
	}
	fmt.Fprintf(stdout, "order %s\nstate %s\nkey   %s\n", reply.GetOrder(), describe(reply.GetState()), c.key)
	return nil
}
