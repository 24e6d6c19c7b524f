// Command overhead measures what Hopbound adds to a healthy unary call and to the messages of a stream. It writes the
// tables to docs/benchmarks.md.
//
// It runs rounds. A round is a short block of calls with each stack. The command compares each block with the block
// of gRPC alone in the same round, because a machine that is busy for a while slows both. It reports medians over
// all rounds.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/hopbound/hopbound/bench"
)

func main() {
	rounds := flag.Int("rounds", 400, "number of rounds, with one block of each stack")
	calls := flag.Int("calls", 1000, "number of calls in a block")
	out := flag.String("out", "", "file to write the table to; standard output if empty")
	flag.Parse()
	if err := run(*rounds, *calls, *out); err != nil {
		fmt.Fprintln(os.Stderr, "overhead:", err)
		os.Exit(1)
	}
}

// The stacks of each table. The others are compared with the first.
var (
	stacks = []bench.Stack{bench.Bare, bench.SameHeader, bench.Header, bench.Hopbound}
	traced = []bench.Stack{bench.Bare, bench.Otelgrpc, bench.Traced}
	stream = []bench.Stack{bench.Bare, bench.Hopbound, bench.Limited}
)

func run(rounds, calls int, out string) error {
	if rounds < 1 || calls < 1 {
		return errors.New("-rounds and -calls must be positive")
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

// measured makes the calls that are measured.
type measured interface {
	Call() error
	Close()
}

// table measures stacks in the same rounds, and writes a row for each.
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
		for i := range stacks { // the order rotates between rounds
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

An SDK records %.0f %% of the traces. otelgrpc makes only spans; Hopbound also carries the
deadline and the budget. The rounds are separate from those above.

`

const streamPage = `
## Messages of a stream

A message is sent and returned on an open stream. With limits, the server sets all limits
of a stream: a maximum deadline, an idle limit and a send timeout.

`

const page = `# Benchmarks

Written by ` + "`make bench`" + `. Machines differ, so compare the ratios.

## A healthy unary call

A call has a deadline, uses a connection in memory, and succeeds. Client and server run in
one process, without a tracer and a meter. The numbers are medians of %d rounds, each with a
block of %d calls for every stack. Time and CPU added are medians, with quartiles, of the
ratios to the block of gRPC alone in the same round. CPU is that of the whole process.
%s on %s/%s with %d cores.

`

func row(stack bench.Stack, s, bare *series) string {
	time, cpu := "–", "–"
	if s != bare {
		time, cpu = added(s.nanos, bare.nanos), added(s.cpu, bare.cpu)
	}
	return fmt.Sprintf("| %v | %.0f | %s | %s | %.1f | %.0f |\n", stack,
		bench.Quantile(s.nanos, 0.5), time, cpu, bench.Quantile(s.allocs, 0.5), bench.Quantile(s.bytes, 0.5))
}

// added returns the median and the quartiles by which ours exceed theirs, compared block by block.
func added(ours, theirs []float64) string {
	ratios := make([]float64, len(ours))
	for i := range ratios {
		ratios[i] = 100 * (ours[i]/theirs[i] - 1)
	}
	return fmt.Sprintf("%+.1f %% (%+.1f to %+.1f)", bench.Quantile(ratios, 0.5), bench.Quantile(ratios, 0.25), bench.Quantile(ratios, 0.75))
}

// series is the cost per call in each block of one stack.
type series struct {
	of                        measured
	nanos, cpu, allocs, bytes []float64
}

func (s *series) measure(calls int) error {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	started, cpu := time.Now(), cpuTime()
	for range calls {
		if err := s.of.Call(); err != nil {
			return err
		}
	}
	took, used := time.Since(started), cpuTime()-cpu
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
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
