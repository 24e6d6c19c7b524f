// Command hopbound-trace finds the requests that failed or were slow in files of spans, and shows why. It reads OTLP's
// JSON, as one document or in lines that the OpenTelemetry Collector's file exporter writes, the JSON of Jaeger's
// HTTP API, and the JSON of Go's stdouttrace exporter. It recognizes the format.
//
//	hopbound-trace spans.json
//	hopbound-trace < spans.json
//	hopbound-trace -failed spans.json
//	hopbound-trace -slower 1s -service cart spans.json
//	hopbound-trace -trace 4bf92f35 spans.json
//
// Without flags, it prints how many calls each hop received per request, the requests that failed or were slowest,
// and the tree of the first of them. With -failed, -slower or -service, it prints only the requests for which all of
// these hold. With -trace, it keeps and counts only the spans of one request. The tree shows the attempts of the
// request, what failed first, and the critical path: the chain of spans that determined the end of the request.
//
// The input may be hostile or larger than memory. The command reads it as a stream. It limits the size and the
// nesting of a span, the size of all spans that are kept, the number of hops that are listed, and the depth of a
// tree. It leaves out what is malformed or exceeds a limit, and reports that on standard error. If the input is cut
// off, it shows what is before the cut.
//
// The exit code is 3 if something was left out or the input was cut off, 1 if the input cannot be read or has nothing
// to show, and 2 if the flags are wrong.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
)

// The exit codes of failures.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitLeftOut = 3
)

func main() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(maxMemory)
	}
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, defaultLimits()))
}

// run runs the command and returns its exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer, limits limits) int {
	options, err := parse(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "hopbound-trace:", err)
		return exitUsage
	}
	r := &reader{store: newStore(options.trace, limits.kept), report: &report{out: stderr, max: limits.reports}, limits: limits}
	err = r.readAll(options.files, stdin)
	r.report.close()
	if err == nil {
		err = r.show(stdout, options)
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
