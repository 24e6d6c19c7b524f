// Command overhead measures what Hopbound adds to a healthy unary call and to the
// messages of a stream, and writes the tables in docs/benchmarks.md.
//
// It makes short blocks of calls, a block with each stack in turn, and compares
// each block with that of gRPC alone beside it: a machine that is busy for a
// while slows both. What it reports are medians over many such rounds.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hopbound/hopbound/bench"
)

func main() {
	rounds := flag.Int("rounds", 400, "blocks of each stack")
	calls := flag.Int("calls", 1000, "calls in a block")
	out := flag.String("out", "", "file to write the table to; standard output if empty")
	flag.Parse()
	if err := run(*rounds, *calls, *out); err != nil {
		fmt.Fprintln(os.Stderr, "overhead:", err)
		os.Exit(1)
	}
}

// The first of each table is what the others are compared with.
var (
	stacks = []bench.Stack{bench.Bare, bench.SameHeader, bench.Header, bench.Hopbound}
	traced = []bench.Stack{bench.Bare, bench.Otelgrpc, bench.Traced}
	stream = []bench.Stack{bench.Bare, bench.Hopbound, bench.Limited}
)

func run(rounds, calls int, out string) error {
	if rounds < 1 || calls < 1 {
		return errors.New("-rounds and -calls must be at least 1")
	}
	var text strings.Builder
	fmt.Fprintf(&text, page, rounds, calls, runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	if err := table(&text, "call", stacks, bench.NewHealthy, rounds, calls); err != nil {
		return err
	}
	fmt.Fprintf(&text, tracedPage, 100*bench.Sampled)
	if err := table(&text, "call", traced, bench.NewHealthy, rounds, calls); err != nil {
		return err
	}
	text.WriteString(streamPage)
	if err := table(&text, "exchange", stream, bench.NewMessages, rounds, calls); err != nil {
		return err
	}
	if out == "" {
		_, err := fmt.Fprint(os.Stdout, text.String())
		return err
	}
	return os.WriteFile(out, []byte(text.String()), 0o644) //nolint:gosec // a document for all to read
}

// measured is what is measured, a call at a time.
type measured interface {
	Call() error
	Close()
}

// table measures stacks side by side, and writes a row for each.
func table[M measured](text *strings.Builder, unit string, stacks []bench.Stack, open func(bench.Stack) (M, error), rounds, calls int) error {
	all := make([]series, len(stacks))
	for i, stack := range stacks {
		m, err := open(stack)
		if err != nil {
			return err
		}
		defer m.Close()
		all[i].of = m
	}
	for round := range rounds {
		if round%max(1, rounds/10) == 0 {
			fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, rounds)
		}
		for i := range stacks { // each stack comes first, second and third in turn
			if err := all[(round+i)%len(stacks)].measure(calls); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(text, "| stack | ns/%[1]s | time added | CPU added | allocations/%[1]s | bytes/%[1]s |\n|---|---|---|---|---|---|\n", unit)
	for i, stack := range stacks {
		text.WriteString(row(stack, &all[i], &all[0]))
	}
	return nil
}

const tracedPage = `
## The same call with traces

With an SDK that records %.0f %% of the traces, in rounds of their own. Each stack does all
that it does: otelgrpc nothing but its spans, Hopbound also the deadline and the budget.

`

const streamPage = `
## Messages of a stream

A message is sent, and one comes back, on a stream that stays open. The limits are all
that a server can set: a deadline of its own, idle time, and the time of a send.

`

const page = `# Benchmarks

Written by ` + "`make bench`" + `. Machines differ: what holds on another is the ratio.

## A healthy unary call

A call with a deadline that succeeds, over a connection in memory, client and
server together, with no tracer and no meter. Medians of %d rounds, each a block
of %d calls with every stack in turn; what is added is the median of the ratios
to the block of gRPC alone in the same round, with its quartiles. CPU is that of the
whole process. %s on %s/%s with %d cores.

`

func row(stack bench.Stack, s, bare *series) string {
	time, cpu := "–", "–"
	if s != bare {
		time, cpu = added(s.nanos, bare.nanos), added(s.cpu, bare.cpu)
	}
	return fmt.Sprintf("| %v | %.0f | %s | %s | %.1f | %.0f |\n", stack,
		quantile(s.nanos, 0.5), time, cpu, quantile(s.allocs, 0.5), quantile(s.bytes, 0.5))
}

// added returns by how much ours are more than theirs, block by block.
func added(ours, theirs []float64) string {
	ratios := make([]float64, len(ours))
	for i := range ratios {
		ratios[i] = 100 * (ours[i]/theirs[i] - 1)
	}
	return fmt.Sprintf("%+.1f %% (%+.1f to %+.1f)", quantile(ratios, 0.5), quantile(ratios, 0.25), quantile(ratios, 0.75))
}

// series is what the blocks of one stack took for each call.
type series struct {
	of                        measured
	nanos, cpu, allocs, bytes []float64
}

func (s *series) measure(calls int) error {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began, cpu := time.Now(), cpuTime()
	for range calls {
		if err := s.of.Call(); err != nil {
			return err
		}
	}
	took, used := time.Since(began), cpuTime()-cpu
	runtime.ReadMemStats(&after)
	s.nanos = append(s.nanos, float64(took.Nanoseconds())/float64(calls))
	s.cpu = append(s.cpu, float64(used.Nanoseconds())/float64(calls))
	s.allocs = append(s.allocs, float64(after.Mallocs-before.Mallocs)/float64(calls))
	s.bytes = append(s.bytes, float64(after.TotalAlloc-before.TotalAlloc)/float64(calls))
	return nil
}

// cpuTime returns the CPU time that the process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // which cannot fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[int(q*float64(len(sorted)-1))]
}
