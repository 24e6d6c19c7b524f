// Command hedging measures the latency of a method with and without hedging, on loopback. The server needs a
// hundred times as long for one call in twenty. The command appends its table to docs/benchmarks.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/bench"
	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func main() {
	calls := flag.Int("calls", 1000, "measured calls with each policy; a fifth as many are made before, to warm up")
	unit := flag.Duration("unit", 2*time.Millisecond, "time of a call that does not stall")
	out := flag.String("out", "", "file to append the table to; standard output if empty")
	flag.Parse()
	text, err := run(*calls, *unit)
	if err == nil {
		err = bench.Append(*out, text)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hedging:", err)
		os.Exit(1)
	}
}

const page = `
## A method that stalls

A server needs %v for a call, and a hundred times as long for one call in twenty.
%d calls are made one after another, on loopback.

| client | median | p99 | p99 in medians | more calls |
|---|---|---|---|---|
`

func run(calls int, unit time.Duration) (string, error) {
	if calls < 100 || unit <= 0 {
		return "", errors.New("-calls must be at least 100, and -unit must be positive")
	}
	var text strings.Builder
	fmt.Fprintf(&text, page, unit, calls)
	for _, kind := range []struct {
		name  string
		hedge *interceptors.HedgePolicy
	}{
		{"not hedged", nil},
		{"hedged after two units", &interceptors.HedgePolicy{Delay: 2 * unit}},
		{"hedged at the 95th percentile", &interceptors.HedgePolicy{Delay: interceptors.HedgeAtP95}},
	} {
		fmt.Fprintln(os.Stderr, kind.name)
		took, extra, err := measure(calls, unit, kind.hedge)
		if err != nil {
			return "", fmt.Errorf("%s: %w", kind.name, err)
		}
		median, p99 := took[calls/2], took[calls*99/100]
		fmt.Fprintf(&text, "| %s | %.1f ms | %.1f ms | %.1f | %+.1f %% |\n", kind.name,
			median.Seconds()*1000, p99.Seconds()*1000, float64(p99)/float64(median), 100*extra)
	}
	return text.String(), nil
}

// measure returns the durations of the calls in ascending order. extra is the share of additional calls that the
// server received, because of hedges.
func measure(calls int, unit time.Duration, hedge *interceptors.HedgePolicy) (took []time.Duration, extra float64, err error) {
	client, err := interceptors.NewClient(interceptors.WithPolicy(interceptors.MethodPolicies{"": {Hedge: hedge}}))
	if err != nil {
		return nil, 0, err
	}
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, 0, err
	}
	s := &staller{unit: unit}
	server := grpc.NewServer()
	testv1.RegisterTestServiceServer(server, s)
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	conn, err := grpc.NewClient(listener.Addr().String(), append(client.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = conn.Close() }()
	stub := testv1.NewTestServiceClient(conn)
	for i := -calls / 5; i < calls; i++ {
		if i == 0 {
			s.served.Store(0)
		}
		started := time.Now()
		if _, err := stub.Idempotent(context.Background(), &testv1.IdempotentRequest{}); err != nil {
			return nil, 0, err
		}
		if i >= 0 {
			took = append(took, time.Since(started))
		}
	}
	slices.Sort(took)
	return took, float64(s.served.Load())/float64(calls) - 1, nil
}

// staller is a server whose calls sometimes stall.
type staller struct {
	testv1.UnimplementedTestServiceServer
	unit   time.Duration
	served atomic.Int64
}

func (s *staller) Idempotent(ctx context.Context, _ *testv1.IdempotentRequest) (*testv1.IdempotentResponse, error) {
	d := s.unit
	if s.served.Add(1)%20 == 10 {
		d *= 100
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return &testv1.IdempotentResponse{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
