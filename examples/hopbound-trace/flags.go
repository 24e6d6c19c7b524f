package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"
)

// options are what the flags say.
type options struct {
	trace   string // the beginning of the id of the request to show
	failed  bool
	slower  time.Duration
	service string
	files   []string
}

const help = `Usage: hopbound-trace [flags] [file ...]

hopbound-trace finds the requests that failed or were slow in files of spans, and shows why: which hop made which
attempts, which service failed first, and what took the time. Without a file, it reads standard input.

It recognizes the formats by itself:
  OTLP JSON, also in lines (the Collector's file exporter, Tempo)
  the JSON of Jaeger's HTTP API (/api/traces)
  the JSON of Go's stdouttrace exporter

Without flags, it prints a summary of all hops, the requests that failed, the slowest requests, and the tree of the
first of these. With -failed, -slower or -service, it prints the requests for which all of these flags hold, and the
tree of the first.

Examples:
  hopbound-trace spans.json                          summary, failed and slowest requests
  hopbound-trace -failed spans.json                  the requests that failed
  hopbound-trace -slower 1s -service cart spans.json the requests that used cart and took more than a second
  hopbound-trace -trace 4bf92f35 spans.json          one request
  curl -s 'http://localhost:16686/api/traces?service=cart' | hopbound-trace

Flags:
`

const exitCodes = `
Exit codes:
  0  everything was read and shown
  1  the input cannot be read, or it has nothing to show
  2  the flags are wrong
  3  something was left out; standard error says what. This is also the code for a file that is cut off: what is
     before the cut is shown.
`

// parse parses the flags. For -h, it returns flag.ErrHelp and writes the help to out.
func parse(args []string, out io.Writer) (*options, error) {
	var o options
	flags := flag.NewFlagSet("hopbound-trace", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.trace, "trace", "", "show the request whose trace `id` is this, or begins with this")
	flags.BoolVar(&o.failed, "failed", false, "list only requests whose root call failed")
	flags.DurationVar(&o.slower, "slower", 0, "list only requests that took longer than this `duration`, such as 1s or 250ms")
	flags.StringVar(&o.service, "service", "", "list only requests that have a span of the service with this `name`")
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(out, help)
		flags.SetOutput(out)
		flags.PrintDefaults()
		fmt.Fprint(out, exitCodes)
	}
	if err != nil {
		return nil, err
	}
	o.files = flags.Args()
	set := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { set[f.Name] = true })
	switch {
	case set["slower"] && o.slower <= 0:
		return nil, fmt.Errorf("-slower is %v; it must be positive", o.slower)
	case o.trace != "" && o.selects():
		return nil, errors.New("-trace shows one request, and cannot be used with -failed, -slower or -service")
	}
	return &o, nil
}

// selects reports whether the options select some of the requests.
func (o *options) selects() bool { return o.failed || o.slower > 0 || o.service != "" }

// describe says what holds for the selected requests. The argument have is the verb for their number.
func (o *options) describe(have string) string {
	var parts []string
	if o.failed {
		parts = append(parts, "failed")
	}
	if o.slower > 0 {
		parts = append(parts, fmt.Sprintf("took longer than %v", o.slower))
	}
	if o.service != "" {
		parts = append(parts, fmt.Sprintf("%s a span of the service %q", have, o.service))
	}
	return strings.Join(parts, " and ")
}
