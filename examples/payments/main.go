// Command payments runs a payment system of four services and a bank, as separate processes with PostgreSQL, Redis and
// mutual TLS. It tells a short story, or makes payments while everything fails and compares the books.
//
//	go run ./examples/payments
//	go run ./examples/payments -chaos 5m -seed 1
//	go run ./examples/payments -chaos 1m -idempotency=false
//	go run ./examples/payments -hold
//	go run ./examples/payments client -config FILE -as alice buy -key K -cart book -cents 1999
//	go run ./examples/payments client -config FILE -as alice receipt -order ORDER
//
// It starts PostgreSQL and Redis from the programs on PATH, in temporary folders. If one of them is missing, it says so and
// tells the story of one process without servers (-embedded).
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hopbound/hopbound/examples/payments/internal/chaos"
	"github.com/hopbound/hopbound/examples/payments/internal/cluster"
	"github.com/hopbound/hopbound/examples/payments/internal/embedded"
	"github.com/hopbound/hopbound/examples/payments/internal/shop"
)

// The exit codes of failures.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second interrupt ends the process
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// flags are the settings of a run.
type flags struct {
	chaos    time.Duration
	seed     uint64
	rate     float64
	json     bool
	native   bool
	keys     bool
	hold     bool
	stuck    bool
	embedded bool
	carts    int
	postgres string
	redis    string
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "serve" {
		return serve(ctx, args[1:], stderr)
	}
	if len(args) > 0 && args[0] == "client" {
		return client(ctx, args[1:], stdout, stderr)
	}
	f, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "payments:", err)
		return exitUsage
	}
	if err := f.run(ctx, stdout, stderr); err != nil {
		fmt.Fprintln(stderr, "payments:", err)
		return exitFailed
	}
	return 0
}

func parse(args []string, stderr io.Writer) (*flags, error) {
	f := &flags{}
	set := flag.NewFlagSet("payments", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.DurationVar(&f.chaos, "chaos", 0, "how long to make payments while everything fails; 0 tells the story")
	set.Uint64Var(&f.seed, "seed", 1, "of the payments and the faults of -chaos")
	set.Float64Var(&f.rate, "rate", 20, "payments a second of -chaos")
	set.BoolVar(&f.json, "json", false, "print the result of -chaos as one JSON object, and nothing else, on the standard output")
	set.BoolVar(&f.native, "native", false, "use gRPC's own retries instead of Hopbound, and no idempotency")
	set.BoolVar(&f.keys, "idempotency", true, "store outcomes under idempotency keys")
	set.BoolVar(&f.hold, "hold", false, "run the system until an interrupt, for the client command")
	set.BoolVar(&f.stuck, "stuck", false, "as -hold, with a payment whose gateway stands still (docs/runbooks/stuck-key.md)")
	set.BoolVar(&f.embedded, "embedded", false, "run in one process, without PostgreSQL and Redis")
	set.IntVar(&f.carts, "carts", 300, "number of carts to buy with -embedded")
	set.StringVar(&f.postgres, "postgres", "", "address of a PostgreSQL `server` that runs already, with a user postgres that may create databases; those of the run are dropped at its end")
	set.StringVar(&f.redis, "redis", "", "address of a Redis `server` that runs already")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	switch {
	case set.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q", set.Arg(0))
	case f.chaos < 0 || !(f.rate > 0 && f.rate <= 1e6) || f.carts < 1:
		return nil, errors.New("-chaos must not be negative, -rate must be positive and at most 1000000, and -carts positive")
	case f.json && f.chaos == 0:
		return nil, errors.New("-json needs -chaos")
	case (f.embedded || f.hold || f.stuck) && f.chaos > 0 || f.embedded && (f.hold || f.stuck):
		return nil, errors.New("only one of -chaos, -embedded and -hold or -stuck can be given")
	case f.stuck && (f.native || !f.keys):
		return nil, errors.New("-stuck needs keys, which -native and -idempotency=false turn off")
	case f.embedded && (f.native || !f.keys || f.postgres != "" || f.redis != ""):
		return nil, errors.New("-embedded shows both stacks, and uses no servers: -native, -idempotency, -postgres and -redis have no effect")
	}
	return f, nil
}

func (f *flags) run(ctx context.Context, stdout, stderr io.Writer) error {
	if f.embedded {
		return embedded.Run(ctx, stdout, f.carts)
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	progress := stdout
	if f.json {
		progress = stderr
	}
	c, err := cluster.Start(ctx, cluster.Options{Program: program, Postgres: f.postgres, Redis: f.redis, Traces: f.chaos == 0, Config: f.config()})
	switch {
	case errors.Is(err, cluster.ErrMissing) && f.chaos == 0 && !f.hold && !f.stuck:
		fmt.Fprintf(stderr, "payments: %v\nThis is the story of one process without them.\n\n", err)
		return embedded.Run(ctx, stdout, f.carts)
	case err != nil:
		return err
	}
	switch {
	case f.stuck:
		err = stuck(ctx, c, progress)
	case f.hold:
		err = hold(ctx, c, progress)
	case f.chaos > 0:
		err = f.fail(ctx, c, progress, stdout)
	default:
		err = story(ctx, c, progress)
	}
	return errors.Join(err, c.Stop())
}

// config returns the settings of the system.
func (f *flags) config() shop.Config {
	c := shop.Config{
		Native: f.native, Idempotency: f.keys && !f.native, Deadline: 2 * time.Second, Later: 6 * time.Second,
		BankTakes: 20 * time.Millisecond, Seed: f.seed,
	}
	if f.chaos > 0 { // the story decides itself when the bank fails
		c.BankFails, c.BankLoses = 0.02, 0.02
	}
	return c
}

// fail makes payments while everything fails.
func (f *flags) fail(ctx context.Context, c *cluster.Cluster, progress, stdout io.Writer) error {
	r, err := chaos.Run(ctx, c, chaos.Options{Seed: f.seed, Duration: f.chaos, Rate: f.rate, Progress: progress})
	if err != nil {
		return err
	}
	if f.json {
		err = json.NewEncoder(stdout).Encode(r)
	} else {
		err = r.Print(stdout)
	}
	if f.native || !f.keys {
		return err // what goes wrong is the point
	}
	return errors.Join(err, r.Check())
}

// serve runs one instance of a service.
func serve(ctx context.Context, args []string, stderr io.Writer) int {
	set := flag.NewFlagSet("payments serve", flag.ContinueOnError)
	set.SetOutput(stderr)
	path := set.String("config", "", "the `file` that the launcher has written")
	role := set.String("role", "", "gateway, orders, payments, ledger or bank")
	instance := set.Int("instance", 0, "from 0")
	release := set.Int("release", 1, "of the program: requests of release 2 have a field that release 1 does not know")
	if err := set.Parse(args); err != nil {
		return exitUsage
	}
	config, err := shop.Load(*path)
	if err == nil {
		config.Release = *release
		err = shop.Serve(ctx, config, *role, *instance)
	}
	if err != nil {
		fmt.Fprintln(stderr, "payments:", err)
		return exitFailed
	}
	return 0
}
