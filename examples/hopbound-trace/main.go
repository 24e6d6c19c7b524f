// Command hopbound-trace reads spans in OTLP's JSON, in lines as the OpenTelemetry
// Collector's file exporter writes them, or in an envelope, and prints the tree of a
// request's attempts, and how often each hop was called for each request.
//
//	hopbound-trace spans.json
//	hopbound-trace < spans.json
//	hopbound-trace -trace 4bf92f35 spans.json
//
// Without -trace it shows the request with the most calls. With -trace it keeps, and
// counts, only the spans of that request.
//
// The input may be hostile or larger than memory. It is read as a stream, and there
// are limits for the size and the nesting of a span, for all spans that are kept, for
// the hops that are listed and for the depth of a tree. What is malformed or beyond a
// limit is reported on standard error and left out. The exit code is 3 then. It is 1
// if nothing can be read or there is nothing to show, and 2 for bad flags.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// Exit codes beside 0.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitLeftOut = 3
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, defaultLimits())) }

// run is the command. It returns its exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer, limits limits) int {
	flags := flag.NewFlagSet("hopbound-trace", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	id := flags.String("trace", "", "show the request with this trace id, or the one whose id begins so")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(stderr, "Usage: hopbound-trace [-trace id] [file ...]")
			flags.SetOutput(stderr)
			flags.PrintDefaults()
			return 0
		}
		fmt.Fprintln(stderr, "hopbound-trace:", err)
		return exitUsage
	}
	r := &reader{store: newStore(*id, limits.kept), report: &report{out: stderr, max: limits.reports}, limits: limits}
	err := r.readAll(flags.Args(), stdin)
	r.report.close()
	if err == nil {
		err = r.show(stdout)
	}
	switch {
	case err != nil:
		fmt.Fprintln(stderr, "hopbound-trace:", err)
		return exitFailed
	case r.report.reasons > 0:
		return exitLeftOut
	}
	return 0
}

// show prints the counts of all requests, and the tree of one.
func (r *reader) show(out io.Writer) error {
	if n := r.store.leftOut; n > 0 {
		r.report.notef("%d spans, as there is no room for more", n)
	}
	chosen, err := r.store.choose()
	if err != nil {
		return err
	}
	hops, err := writeHops(out, r.store.traces, r.limits.hops)
	if err != nil {
		return err
	}
	if hops > 0 {
		r.report.notef("%d hops beyond the first %d", hops, r.limits.hops)
	}
	req := r.store.traces[chosen]
	fmt.Fprintf(out, "\nRequest %s:\n\n", chosen)
	deep, err := tree.Write(out, req.spans)
	if deep > 0 {
		r.report.notef("%d spans deeper than %d levels", deep, tree.MaxDepth)
	}
	if req.leftOut > 0 {
		r.report.notef("%d of these are spans of request %s, whose tree is incomplete", req.leftOut, chosen)
	}
	return err
}
