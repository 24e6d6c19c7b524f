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
	set := flag.NewFlagSet("payments client", flag.ContinueOnError)
	set.SetOutput(stderr)
	path := set.String("config", "", "the `file` that -hold has printed")
	as := set.String("as", "alice", "the customer: alice, bob, carol or dave")
	if err := set.Parse(args); err != nil {
		return usageOf(err)
	}
	config, err := shop.Load(*path)
	if err == nil && set.NArg() == 0 {
		err = errors.New(`the command is missing: "buy" or "receipt"`)
	}
	if err == nil {
		err = call(ctx, config, *as, set.Args(), stdout, stderr)
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "payments:", err)
		return exitFailed
	}
	return 0
}

func usageOf(err error) int {
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	return exitUsage
}

// call runs a command of the client.
func call(ctx context.Context, config *shop.Config, as string, args []string, stdout, stderr io.Writer) error {
	set := flag.NewFlagSet("payments client "+args[0], flag.ContinueOnError)
	set.SetOutput(stderr)
	key := set.String("key", string(idempotency.NewKey()), "the idempotency key; a retry has the same one")
	cart := set.String("cart", "", "what to buy")
	cents := set.Int64("cents", 0, "its price")
	order := set.String("order", "", "the order of a receipt")
	timeout := set.Duration("timeout", 10*time.Second, "how long to wait; a short one cancels the call")
	if err := set.Parse(args[1:]); err != nil {
		return err
	}
	c, err := customer.New(ctx, config, as)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	switch args[0] {
	case "buy":
		reply, err := c.Buy(ctx, idempotency.Key(*key), *cart, *cents, 1)
		if err != nil {
			return fmt.Errorf("key %s: %w", *key, err)
		}
		fmt.Fprintf(stdout, "order %s\nstate %s\nkey   %s\n", reply.GetOrder(), describe(reply.GetState()), *key)
	case "receipt":
		r, err := c.Receipt(ctx, *order)
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "order %s\nstate %s\ncents %d\n", r.GetOrder(), describe(r.GetState()), r.GetCents())
	default:
		return fmt.Errorf(`%q is no command: use "buy" or "receipt"`, args[0])
	}
	return nil
}
