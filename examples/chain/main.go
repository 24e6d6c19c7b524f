// Command chain runs a chain of services whose last one fails, once with grpc-go's own retries and once with
// Hopbound. It shows how many calls reach the last service.
//
//	go run ./examples/chain
//	go run ./examples/chain -depth 6 -fail 100%,10% -requests 1000 -json
//	go run ./examples/chain -ui 127.0.0.1:8080
//
// Each service is a grpc.Server on its own loopback port. All of them run in this process.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"go.opentelemetry.io/otel"
)

// The exit codes of failures.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130 // the code that a shell reports
)

func main() {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(reportErrors(os.Stderr, 10*time.Second)))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second interrupt ends the process
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// reportErrors returns a handler that prints OpenTelemetry's errors, such as that the backend is unreachable.
// It prints at most one per interval, because every service has the same error.
func reportErrors(out io.Writer, every time.Duration) func(error) {
	var mu sync.Mutex
	var last time.Time
	return func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.Sub(last) >= every {
			last = now
			fmt.Fprintln(out, "chain:", err)
		}
	}
}

// run runs the command and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cfg, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "chain:", err)
		return exitUsage
	}
	if cfg.ui != "" { // the page runs until an interrupt
		if err := serveLive(ctx, cfg, stdout); err != nil {
			fmt.Fprintln(stderr, "chain:", err)
			return exitFailed
		}
		return 0
	}
	switch err := compare(ctx, cfg, stdout, stderr); {
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "chain: interrupted")
		return exitInterrupted
	case err != nil:
		fmt.Fprintln(stderr, "chain:", err)
		return exitFailed
	}
	return 0
}

// compare measures every stack with every share of failing calls. It prints a table and one request's trace,
// or JSON.
func compare(ctx context.Context, cfg *config, stdout, stderr io.Writer) error {
	var results []result
	for _, fail := range cfg.fail {
		for _, s := range cfg.stacks {
			r, err := measure(ctx, cfg, s, fail, newProgress(stderr))
			if err != nil {
				return err
			}
			results = append(results, r)
		}
	}
	if cfg.json {
		return writeJSON(stdout, results)
	}
	if err := writeTable(stdout, cfg, results); err != nil {
		return err
	}
	return showTrace(ctx, cfg, stdout)
}
