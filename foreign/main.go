// Command foreign runs the tests of gRPC and of go-grpc-middleware, as they come from
// the module cache, with Hopbound on every client and server, first in mode Observe and
// then in Enforce. It fails if a test fails that allowed.txt does not name.
//
// Hopbound gets into the tests by "go test -overlay": a file in each of their packages
// adds its options to all clients and servers, by a hook that gRPC has for itself.
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

// The modes, as the injected file reads them from HOPBOUND_MODE. Off injects nothing.
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
	mode := flag.String("mode", "", "run in this mode alone: observe, enforce, or off for the tests without Hopbound")
	match := flag.String("run", "", "run only tests whose package and name match this expression")
	count := flag.Int("count", 1, "run each test so many times")
	verbose := flag.Bool("v", false, "print the output of all tests that fail")
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
		began := time.Now()
		r := runner{mode: mode, allowed: allowed[mode], pattern: pattern, verbose: verbose, failures: map[string]string{}}
		r.all(units)
		failed += r.report()
		fmt.Fprintf(os.Stdout, "%s: %d tests, %d failed, in %v\n", mode, r.count, len(r.failures), time.Since(began).Round(time.Second))
	}
	if failed > 0 {
		return fmt.Errorf("%d tests failed that allowed.txt does not name", failed)
	}
	return nil
}

// parseAllowed reads lines of a mode, or both, a package, a test and a reason. It returns
// the reasons by mode, and by package and test.
func parseAllowed(text string) (map[string]map[string]string, error) {
	allowed := map[string]map[string]string{observe: {}, enforce: {}}
	for n, line := range strings.Split(text, "\n") {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] == "#" {
			continue
		}
		if len(fields) < 4 || fields[0] != "both" && allowed[fields[0]] == nil {
			return nil, fmt.Errorf("allowed.txt:%d: must be a mode, a package, a test and a reason", n+1)
		}
		for mode, reasons := range allowed {
			if fields[0] == mode || fields[0] == "both" {
				reasons[fields[1]+" "+fields[2]] = strings.Join(fields[3:], " ")
			}
		}
	}
	return allowed, nil
}
