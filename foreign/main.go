// Command foreign runs the unchanged tests of gRPC and of go-grpc-middleware with Hopbound on every client and server,
// first in Observe mode and then in Enforce mode. It fails if a test fails that allowed.txt does not name.
//
// It adds Hopbound with "go test -overlay". The overlay adds a file to each package of tests, which passes Hopbound's
// options to all clients and servers through an internal hook of gRPC.
package main

import (
	_ "embed"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

//go:embed allowed.txt
var allowedText string

// The values of HOPBOUND_MODE, which the injected file reads. Off adds no options.
const (
	off     = "off"
	observe = "observe"
	enforce = "enforce"
)

const (
	grpcModule       = "google.golang.org/grpc"
	middlewareModule = "github.com/grpc-ecosystem/go-grpc-middleware/v2"
)

func main() {
	mode := flag.String("mode", "", "run only in this mode: observe, enforce, or off for the tests without Hopbound")
	match := flag.String("run", "", "run only tests whose package and name match this regular expression")
	count := flag.Int("count", 1, "number of times that each test is run")
	verbose := flag.Bool("v", false, "print the output of failed tests")
	flag.Parse()
	modes := []string{observe, enforce}
	if *mode != "" {
		modes = []string{*mode}
	}
	if err := run(modes, *match, *count, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "foreign:", err)
		os.Exit(1)
	}
}

func run(modes []string, match string, count int, verbose bool) error {
	pattern, err := regexp.Compile(match)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	allowed, err := parseAllowed(allowedText)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "foreign")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	units, err := build(dir)
	if err != nil {
		return err
	}
	units = slices.Repeat(units, count)
	failed := 0
	for _, mode := range modes {
		started := time.Now()
		r := runner{mode: mode, allowed: allowed[mode], pattern: pattern, verbose: verbose, failures: map[string]string{}}
		r.all(units)
		failed += r.report()
		fmt.Fprintf(os.Stdout, "%s: %d tests, %d failed, in %v\n", mode, r.count, len(r.failures), time.Since(started).Round(time.Second))
	}
	if failed > 0 {
		return fmt.Errorf("%d tests failed that allowed.txt does not name", failed)
	}
	return nil
}

// parseAllowed parses lines with a mode (or both), a package, a test and a reason. It returns the reasons by mode, and
// then by package and test.
func parseAllowed(text string) (map[string]map[string]string, error) {
	allowed := map[string]map[string]string{observe: {}, enforce: {}}
	for n, line := range strings.Split(text, "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] == "#" {
			continue
		}
		if len(fields) < 4 || fields[0] != "both" && allowed[fields[0]] == nil {
			return nil, fmt.Errorf("allowed.txt:%d: the line must contain a mode, a package, a test and a reason", n+1)
		}
		for mode, reasons := range allowed {
			if fields[0] == mode || fields[0] == "both" {
				reasons[fields[1]+" "+fields[2]] = strings.Join(fields[3:], " ")
			}
		}
	}
	return allowed, nil
}
