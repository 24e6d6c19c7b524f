// Command stores measures what idempotency stores cost beside the same steps made
// with the bare database, on servers that it starts, and appends the tables to
// docs/benchmarks.md.
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
)

func main() {
	rounds := flag.Int("rounds", 75, "blocks of each contender")
	block := flag.Duration("block", 100*time.Millisecond, "how long a block lasts")
	out := flag.String("out", "", "file to append the tables to; standard output if empty")
	only := flag.String("only", "", "what the title of the stores to measure begins with; all if empty")
	flag.Parse()
	text, err := run(*rounds, *block, *only)
	if err == nil {
		err = write(*out, text)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "stores:", err)
		os.Exit(1)
	}
}

func write(out, text string) error {
	if out == "" {
		_, err := fmt.Fprint(os.Stdout, text)
		return err
	}
	f, err := os.OpenFile(out, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644) //nolint:gosec // a document for all to read
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// contender makes one write: what is measured. Each write has a number of its own,
// which is one more than that of the contender's write before.
type contender struct {
	name string
	do   func(ctx context.Context, n uint64) error
}

// group is contenders that are compared with the first of them. Those that come to a
// steady state only after a while have blocks that are longer, and fewer.
type group struct {
	title, text string
	longer      int // how many times; 0 is 1
	concurrency []int
	open        func(e *environment) ([]contender, error)
}

const page = `
## Idempotency stores

Claim and completion of new keys, beside what the bare store takes for the same
number of steps: medians of blocks and their quartiles, with every contender in turn.
The ratio is that to the first in the same round. The servers run on the same %d
cores.
`

func run(rounds int, block time.Duration, only string) (string, error) {
	if rounds < 3 || block <= 0 {
		return "", errors.New("-rounds must be at least 3, and -block more than nothing")
	}
	var text strings.Builder
	fmt.Fprintf(&text, page, runtime.NumCPU())
	groups := []group{memoryGroup, boltGroup, redisGroup, transactionGroup, leaseGroup}
	if only != "" {
		groups = slices.DeleteFunc(groups, func(g group) bool { return !strings.HasPrefix(strings.ToLower(g.title), strings.ToLower(only)) })
	}
	if len(groups) == 0 {
		return "", fmt.Errorf("-only %q: there is no such store", only)
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

// compare runs blocks in turn, after one of each that does not count.
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
			ratio = fmt.Sprintf("%.0f %% (%.0f to %.0f)", 100*quantile(ratios, .5), 100*quantile(ratios, .25), 100*quantile(ratios, .75))
		}
		rate := rates[i]
		fmt.Fprintf(text, "| %d | %s | %.0f (%.0f to %.0f) | %s | %.0f |\n", at, c.name,
			quantile(rate, .5), quantile(rate, .25), quantile(rate, .75), ratio, quantile(allocs[i], .5))
	}
	return nil
}

func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[int(q*float64(len(sorted)-1)+.5)]
}

// measure makes writes for a while, some at once, and returns how many a second,
// and how many allocations each took in this process.
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
	began := time.Now()
	for range at {
		wg.Go(func() {
			const few = 16 // between looks at the clock, and numbers that are its own
			for time.Since(began) < block && failed.Load() == nil {
				last := numbers.Add(few)
				for n := last - few; n < last; n++ {
					if err := c.do(ctx, n); err != nil {
						failed.Store(new(err)) // which is on the heap only if there is one
						return
					}
				}
				done.Add(few)
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	if err := failed.Load(); err != nil {
		return 0, 0, *err
	}
	n := float64(done.Load())
	return n / took.Seconds(), float64(after.Mallocs-before.Mallocs) / n, nil
}

// environment is what servers run in, in place of a test.
type environment struct{ cleanups []func() }

// failure ends a group.
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
