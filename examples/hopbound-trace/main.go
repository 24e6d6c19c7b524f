// Command hopbound-trace reads spans in OTLP's JSON, as lines that the OpenTelemetry Collector's file exporter
// writes or in an envelope. It prints how many calls each hop received per request, and the tree of one request's
// attempts.
//
//	hopbound-trace spans.json
//	hopbound-trace < spans.json
//	hopbound-trace -trace 4bf92f35 spans.json
//
// Without -trace, it shows the request with the most calls. With -trace, it keeps and counts only the spans of
// that request.
//
// The input may be hostile or larger than memory. The command reads it as a stream. It limits the size and the
// nesting of a span, the size of all spans that are kept, the number of hops that are listed, and the depth of a
// tree. It leaves out what is malformed or exceeds a limit, and reports that on standard error.
//
// The exit code is 3 if something was left out, 1 if the input cannot be read or has nothing to show, and 2 if the
// flags are wrong.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// The exit codes of failures.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitLeftOut = 3
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, defaultLimits())) }

// run runs the command and returns its exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer, limits limits) int {
	flags := flag.NewFlagSet("hopbound-trace", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	id := flags.String("trace", "", "show the request whose trace `id` is this, or begins with this")
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
		r.report.notef("%d spans, because the limit for all spans is reached", n)
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
