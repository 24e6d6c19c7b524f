package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	chainv1 "github.com/hopbound/hopbound/examples/chain/proto/hopbound/examples/chain/v1"
)

// users is the number of concurrent requests.
const users = 32

// result is one line of the table.
type result struct {
	Stack               stack   `json:"stack"`
	Depth               int     `json:"depth"`
	Attempts            int     `json:"attempts"`
	Fail                float64 `json:"fail"`
	Requests            int     `json:"requests"`
	LeafCallsPerRequest float64 `json:"leaf_calls_per_request"`
	CallsPerRequest     float64 `json:"calls_per_request"`
	Success             float64 `json:"success"`
	P50                 float64 `json:"p50_ms"`
	P99                 float64 `json:"p99_ms"`
	WastedLeaf          float64 `json:"wasted_leaf_ms"`
}

// measure sends users' requests through a chain.
func measure(ctx context.Context, cfg *config, s stack, fail float64, p *progress) (result, error) {
	c, err := start(ctx, cfg, builder{stack: s, attempts: cfg.attempts}, fault{fail: fail})
	if err != nil {
		return result{}, err
	}
	defer c.close()
	var (
		wg        sync.WaitGroup
		next      atomic.Int64
		succeeded atomic.Int64
		took      = make([]time.Duration, cfg.requests)
	)
	title := fmt.Sprintf("%s, %v of the last service's calls fail", s, percent(fail))
	stop := p.follow(title, cfg.requests, &next, &c.counters)
	for range min(users, cfg.requests) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(cfg.requests) && ctx.Err() == nil; i = next.Add(1) - 1 {
				started := time.Now()
				if c.request(ctx, cfg.timeout) == nil {
					succeeded.Add(1)
				}
				took[i] = time.Since(started)
			}
		})
	}
	wg.Wait()
	stop()
	if ctx.Err() != nil {
		return result{}, ctx.Err()
	}
	slices.Sort(took)
	n := float64(cfg.requests)
	return result{
		Stack: s, Depth: cfg.depth, Attempts: cfg.attempts, Fail: fail, Requests: cfg.requests,
		LeafCallsPerRequest: float64(c.leafCalls.Load()) / n,
		CallsPerRequest:     float64(c.calls.Load()) / n,
		Success:             float64(succeeded.Load()) / n,
		P50:                 millis(took[len(took)*50/100]),
		P99:                 millis(took[len(took)*99/100]),
		WastedLeaf:          millis(time.Duration(c.wasted.Load())),
	}, nil
}

// request makes one request of a user.
func (c *chain) request(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	_, err := c.user.Pass(ctx, &chainv1.PassRequest{UserGoneUnixMicros: deadline.UnixMicro()})
	return err
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func percent(share float64) string { return fmt.Sprintf("%.4g %%", 100*share) }

// progress shows the progress of a measurement. On a terminal, it overwrites one line; elsewhere, it writes a
// new line every two seconds.
type progress struct {
	out      io.Writer
	terminal bool
}

func newProgress(out io.Writer) *progress {
	p := &progress{out: out}
	if f, ok := out.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// follow shows the progress of a measurement until stop is called.
func (p *progress) follow(title string, requests int, next *atomic.Int64, c *counters) (stop func()) {
	every, end := 2*time.Second, "\n"
	if p.terminal {
		every, end = 100*time.Millisecond, "\r"
	}
	show := func(end string) {
		done := min(next.Load(), int64(requests))
		fmt.Fprintf(p.out, "%s: %d of %d requests, %d calls to the last service%s", title, done, requests, c.leafCalls.Load(), end)
	}
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				show(end)
			case <-quit:
				show("\n")
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-ended
	}
}
