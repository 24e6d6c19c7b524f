// Command stores measures idempotency stores, and the same steps with the bare database. It starts the database
// servers, and appends its tables to docs/benchmarks.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/bench"
)

func main() {
	rounds := flag.Int("rounds", 75, "number of blocks of each contender")
	block := flag.Duration("block", 100*time.Millisecond, "minimum duration of a block")
	out := flag.String("out", "", "file to append the tables to; standard output if empty")
	only := flag.String("only", "", "measure only the groups whose title begins with this; all if empty")
	flag.Parse()
	text, err := run(*rounds, *block, *only)
	if err == nil {
		err = bench.Append(*out, text)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "stores:", err)
		os.Exit(1)
	}
}

// contender makes the writes that are measured. Writes are numbered one after another.
type contender struct {
	name string
	do   func(ctx context.Context, n uint64) error
}

// group is contenders that are compared with the first of them.
type group struct {
	title, text string
	longer      int // factor by which blocks are longer, and fewer, to reach a steady state; 0 counts as 1
	concurrency []int
	open        func(e *environment) ([]contender, error)
}

const page = `
## Idempotency stores

A write claims a new key and completes it. It is compared with the same number of steps in
the bare store. The numbers are medians of blocks with their quartiles; the contenders' blocks
alternate. The ratio is to the first contender in the same round. The servers run on the same
%d cores.
`

func run(rounds int, block time.Duration, only string) (string, error) {
	if rounds < 3 || block <= 0 {
		return "", errors.New("-rounds must be at least 3, and -block must be positive")
	}
	var text strings.Builder
	fmt.Fprintf(&text, page, runtime.NumCPU())
	groups := []group{memoryGroup, boltGroup, redisGroup, transactionGroup, leaseGroup}
	if only != "" {
		groups = slices.DeleteFunc(groups, func(g group) bool { return !strings.HasPrefix(strings.ToLower(g.title), strings.ToLower(only)) })
	}
	if len(groups) == 0 {
		return "", fmt.Errorf("-only is %q; no group has such a title", only)
	}
	for _, g := range groups {
		if err := g.run(&text, rounds, block); err != nil {
			return "", fmt.Errorf("%s: %w", g.title, err)
		}
	}
	return text.String(), nil
}

func (g *group) run(text *strings.Builder, rounds int, block time.Duration) (err error) {
	e := &environment{}
	defer e.close()
	defer func() {
		if p, ok := recover().(failure); ok {
			err = errors.New(string(p))
		}
	}()
	contenders, err := g.open(e)
	if err != nil {
		return err
	}
	rounds, block = max(3, rounds/max(1, g.longer)), block*time.Duration(max(1, g.longer))
	fmt.Fprintf(text, "\n### %s\n\n%s %d blocks of at least %v.\n\n| at once | | writes/s | of the first | allocations |\n|---|---|---|---|---|\n", g.title, g.text, rounds, block)
	numbers := make([]atomic.Uint64, len(contenders))
	for i := range numbers {
		numbers[i].Store(uint64(i) << 40)
	}
	for _, at := range g.concurrency {
		fmt.Fprintln(os.Stderr, g.title, at)
		if err := compare(text, contenders, numbers, at, rounds, block); err != nil {
			return err
		}
	}
	return nil
}

// compare runs rounds with a block of each contender. The first round is a warm-up and does not count.
func compare(text *strings.Builder, contenders []contender, numbers []atomic.Uint64, at, rounds int, block time.Duration) error {
	rates := make([][]float64, len(contenders))
	allocs := make([][]float64, len(contenders))
	for round := range rounds + 1 {
		for i := range contenders {
			i = (i + round) % len(contenders)
			rate, alloc, err := measure(contenders[i], &numbers[i], at, block)
			if err != nil {
				return fmt.Errorf("%s: %w", contenders[i].name, err)
			}
			if round > 0 {
				rates[i], allocs[i] = append(rates[i], rate), append(allocs[i], alloc)
			}
		}
	}
	for i, c := range contenders {
		ratios := make([]float64, rounds)
		for r := range ratios {
			ratios[r] = rates[i][r] / rates[0][r]
		}
		ratio := "–"
		if i > 0 {
			ratio = fmt.Sprintf("%.0f %% (%.0f to %.0f)", 100*bench.Quantile(ratios, .5), 100*bench.Quantile(ratios, .25), 100*bench.Quantile(ratios, .75))
		}
		rate := rates[i]
		fmt.Fprintf(text, "| %d | %s | %.0f (%.0f to %.0f) | %s | %.0f |\n", at, c.name,
			bench.Quantile(rate, .5), bench.Quantile(rate, .25), bench.Quantile(rate, .75), ratio, bench.Quantile(allocs[i], .5))
	}
	return nil
}

// measure makes concurrent writes for the duration of a block. It returns the writes per second, and the allocations
// of this process per write.
func measure(c contender, numbers *atomic.Uint64, at int, block time.Duration) (rate, allocs float64, err error) {
	ctx := context.Background()
	var (
		wg     sync.WaitGroup
		done   atomic.Int64
		failed atomic.Pointer[error]
		before runtime.MemStats
		after  runtime.MemStats
	)
	runtime.GC()
	runtime.ReadMemStats(&before)
	started := time.Now()
	for range at {
		wg.Go(func() {
			const batch = 16 // writes for which a goroutine reserves numbers and checks the clock once
			for time.Since(started) < block && failed.Load() == nil {
				last := numbers.Add(batch)
				for n := last - batch; n < last; n++ {
					if err := c.do(ctx, n); err != nil {
						failed.Store(new(err)) // allocates only for an error
						return
					}
				}
				done.Add(batch)
			}
		})
	}
	wg.Wait()
	took := time.Since(started)
	runtime.ReadMemStats(&after)
	if err := failed.Load(); err != nil {
		return 0, 0, *err
	}
	n := float64(done.Load())
	return n / took.Seconds(), float64(after.Mallocs-before.Mallocs) / n, nil
}

// environment takes the place of a test for the functions that start servers.
type environment struct{ cleanups []func() }

// failure is the panic with which environment ends a group.
type failure string

func (e *environment) Helper()           {}
func (e *environment) Cleanup(f func())  { e.cleanups = append(e.cleanups, f) }
func (e *environment) Fatal(args ...any) { panic(failure(fmt.Sprint(args...))) }
func (e *environment) Fatalf(format string, args ...any) {
	panic(failure(fmt.Sprintf(format, args...)))
}

func (e *environment) Skipf(format string, args ...any) {
	panic(failure(fmt.Sprintf(format, args...)))
}

func (e *environment) close() {
	for _, f := range slices.Backward(e.cleanups) {
		f()
	}
}
