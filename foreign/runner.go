package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// runner runs tests in one mode.
type runner struct {
	mode    string
	allowed map[string]string // reasons by package and test
	pattern *regexp.Regexp
	verbose bool
	unix    sync.Mutex // held by tests that use one socket file

	mu       sync.Mutex
	count    int
	failures map[string]string // what they print, by package and test
}

// parallel is how many processes run at the same time. Most of them wait.
func parallel() int { return 3 * runtime.NumCPU() }

// all runs all tests. Those that fail run up to twice more, alone: a test counts as
// failed if it fails two of three times. gRPC's own tests fail now and then, too.
func (r *runner) all(units []unit) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallel())
	var failed []unit
	for _, u := range units {
		if !r.pattern.MatchString(u.name) {
			continue
		}
		r.count++
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if failures := r.one(u); len(failures) > 0 {
				r.mu.Lock()
				defer r.mu.Unlock()
				failed = append(failed, u)
				maps.Copy(r.failures, failures)
			}
		})
	}
	wg.Wait()
	for _, u := range failed {
		if !r.mayFail(u) {
			r.repeat(u)
		}
	}
}

// mayFail reports whether all that has failed of a unit is allowed to.
func (r *runner) mayFail(u unit) bool {
	for name := range r.failures {
		if (name == u.name || strings.HasPrefix(name, u.name+" ")) && r.allowed[name] == "" {
			return false
		}
	}
	return true
}

// repeat runs a unit again, and forgets the failures that do not come again.
func (r *runner) repeat(u unit) {
	again := r.one(u)
	if len(again) == 0 {
		again = r.one(u)
	}
	for name := range r.failures {
		if (name == u.name || strings.HasPrefix(name, u.name+" ")) && again[name] == "" {
			fmt.Fprintf(os.Stdout, "%s: %s failed once of three times\n", r.mode, name)
			if r.verbose {
				tail(os.Stdout, r.failures[name])
			}
			delete(r.failures, name)
		}
	}
}

// timeLimit is how long a process may run.
const timeLimit = 40 * time.Second

// one runs one unit, and returns what the tests that failed print, by name.
func (r *runner) one(u unit) map[string]string {
	if strings.Contains(u.name, " Unix") {
		r.unix.Lock()
		defer r.unix.Unlock()
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeLimit)
	defer cancel()
	out, err := u.run(ctx, r.mode)
	if err == nil {
		return nil
	}
	out = fmt.Appendf(out, "\n%v\n", err)
	failed := map[string]string{}
	pkg, _, _ := strings.Cut(u.name, " ")
	for _, name := range failedTests(out) {
		failed[pkg+" "+name] = string(out)
	}
	if len(failed) == 0 { // a panic, or no time left
		failed[u.name] = string(out)
	}
	return failed
}

var failLine = regexp.MustCompile(`(?m)^ *--- FAIL: (\S+)`)

// failedTests returns the tests that failed, without those that failed because a part
// of them did: of gRPC's, the name without "Test/", of others down to the second level.
func failedTests(out []byte) []string {
	var names []string
	for _, m := range failLine.FindAllSubmatch(out, -1) {
		levels := strings.Split(string(m[1]), "/")
		if levels[0] == "Test" && len(levels) > 1 {
			names = append(names, levels[1])
		} else if levels[0] != "Test" {
			names = append(names, strings.Join(levels[:min(2, len(levels))], "/"))
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return slices.DeleteFunc(names, func(name string) bool {
		return slices.ContainsFunc(names, func(other string) bool { return strings.HasPrefix(other, name+"/") })
	})
}

// report prints the tests that failed, and returns how many were not allowed to.
func (r *runner) report() (failed int) {
	for _, test := range slices.Sorted(maps.Keys(r.failures)) {
		if reason := r.allowed[test]; reason != "" {
			fmt.Fprintf(os.Stdout, "%s: %s fails, as it may: %s\n", r.mode, test, reason)
			continue
		}
		failed++
		fmt.Fprintf(os.Stdout, "%s: FAIL: %s\n", r.mode, test)
		if r.verbose {
			tail(os.Stdout, r.failures[test])
		}
	}
	return failed
}

// tail writes the lines of out that are not gRPC's logs.
func tail(w io.Writer, out string) {
	for lines := bufio.NewScanner(strings.NewReader(out)); lines.Scan(); {
		if line := lines.Text(); !strings.Contains(line, "tlogger.go") {
			fmt.Fprintln(w, "   ", line)
		}
	}
}
