// Command hopbound-trace reads spans in OTLP's JSON, in lines as the OpenTelemetry
// Collector's file exporter writes them, or in an envelope, and prints the tree of a
// request's attempts, and how often each hop was called for each request.
//
//	hopbound-trace spans.json
//	hopbound-trace < spans.json
//	hopbound-trace -trace 4bf92f35 spans.json
//
// Without -trace it shows the request with the most calls. What is malformed is
// named on standard error by its line, and left out; the exit code is 3 then. It is
// 1 if nothing can be read or there is nothing to show, and 2 for bad flags.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// Exit codes beside 0.
const (
	exitFailed    = 1
	exitUsage     = 2
	exitMalformed = 3
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is the command. It returns its exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
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
	r := newReader(stderr)
	if err := r.readAll(flags.Args(), stdin); err != nil {
		fmt.Fprintln(stderr, "hopbound-trace:", err)
		return exitFailed
	}
	if err := show(stdout, r.traces(), *id); err != nil {
		fmt.Fprintln(stderr, "hopbound-trace:", err)
		return exitFailed
	}
	if r.malformed > 0 {
		return exitMalformed
	}
	return 0
}

// show prints what there is of all requests, and one of them.
func show(out io.Writer, traces map[string][]*tree.Span, id string) error {
	if len(traces) == 0 {
		return errors.New("there are no spans")
	}
	chosen, err := choose(traces, strings.ToLower(id))
	if err != nil {
		return err
	}
	if err := writeHops(out, traces); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nRequest %s:\n\n", chosen)
	_, err = tree.Write(out, traces[chosen])
	return err
}

// choose returns the trace whose id begins with prefix or, without one, that with
// the most calls.
func choose(traces map[string][]*tree.Span, prefix string) (string, error) {
	var found []string
	for id := range traces {
		if strings.HasPrefix(id, prefix) {
			found = append(found, id)
		}
	}
	slices.SortFunc(found, func(a, b string) int {
		return cmp.Or(cmp.Compare(served(traces[b]), served(traces[a])), cmp.Compare(a, b))
	})
	switch {
	case len(found) == 0:
		return "", fmt.Errorf("no trace has an id that begins with %q", prefix)
	case prefix != "" && len(found) > 1:
		return "", fmt.Errorf("%d traces have an id that begins with %q", len(found), prefix)
	}
	return found[0], nil
}

// served returns how many calls servers got, or how many spans there are of a
// trace that has none of a server.
func served(spans []*tree.Span) int {
	n := 0
	for _, s := range spans {
		if s.Kind == tree.Server {
			n++
		}
	}
	return cmp.Or(n, len(spans))
}
