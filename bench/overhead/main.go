// Command overhead measures what Hopbound adds to a healthy unary call, and
// writes the table in docs/benchmarks.md.
//
// It alternates between gRPC alone and gRPC with Hopbound, many short runs
// each, and reports medians: a machine that is busy for a while slows both.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/hopbound/hopbound/bench"
)

func main() {
	rounds := flag.Int("rounds", 21, "pairs of runs")
	out := flag.String("out", "", "file to write the table to; standard output if empty")
	flag.Parse()
	if err := run(*rounds, *out); err != nil {
		fmt.Fprintln(os.Stderr, "overhead:", err)
		os.Exit(1)
	}
}

func run(rounds int, out string) error {
	if rounds < 1 {
		return errors.New("-rounds must be at least 1")
	}
	var bare, ours series
	for i := range rounds {
		fmt.Fprintf(os.Stderr, "\rround %d of %d", i+1, rounds)
		if err := errors.Join(bare.measure(false), ours.measure(true)); err != nil {
			return err
		}
	}
	fmt.Fprintln(os.Stderr)
	ratios := make([]float64, rounds)
	for i := range ratios {
		ratios[i] = ours.nanos[i] / bare.nanos[i]
	}
	text := fmt.Sprintf(page, rounds, runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(),
		median(bare.nanos), median(bare.allocs), median(bare.bytes),
		median(ours.nanos), median(ours.allocs), median(ours.bytes),
		100*(median(ratios)-1), median(ours.allocs)-median(bare.allocs), median(ours.bytes)-median(bare.bytes))
	if out == "" {
		_, err := fmt.Fprint(os.Stdout, text)
		return err
	}
	return os.WriteFile(out, []byte(text), 0o644) //nolint:gosec // a document for all to read
}

const page = `# Benchmarks

Written by ` + "`make bench`" + `. Machines differ: what holds on another is the ratio.

## A healthy unary call

A call with a deadline that succeeds, over a connection in memory, client and
server together, with no tracer and no meter. Medians of %d pairs of runs that
alternate; the time added is the median of the pairs' ratios. %s on %s/%s with
%d cores.

| stack | ns/call | allocations/call | bytes/call |
|---|---|---|---|
| gRPC alone | %.0f | %.0f | %.0f |
| gRPC with Hopbound | %.0f | %.0f | %.0f |
| added | %+.1f %% | %+.0f | %+.0f |
`

// series is the results of runs of the same stack.
type series struct{ nanos, allocs, bytes []float64 }

func (s *series) measure(hopbound bool) error {
	h, err := bench.NewHealthy(hopbound)
	if err != nil {
		return err
	}
	defer h.Close()
	r := testing.Benchmark(h.Run)
	if r.N == 0 {
		return errors.New("the benchmark failed")
	}
	s.nanos = append(s.nanos, float64(r.T.Nanoseconds())/float64(r.N))
	s.allocs = append(s.allocs, float64(r.AllocsPerOp()))
	s.bytes = append(s.bytes, float64(r.AllocedBytesPerOp()))
	return nil
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
