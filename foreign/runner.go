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
	unix    sync.Mutex // held while a test uses the one socket file

	mu       sync.Mutex
	count    int
	failures map[string]string // outputs of failed tests, by package and test
}

// parallel returns how many processes run at the same time. It is large, because most of them wait.
func parallel() int { return 3 * runtime.NumCPU() }

// all runs all units. A unit that fails runs again, alone, up to twice. It counts as failed if it fails two of three
// times, because some of gRPC's tests are flaky without Hopbound too.
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

// mayFail reports whether all failed tests of a unit are allowed to fail.
func (r *runner) mayFail(u unit) bool {
	for name := range r.failures {
		if (name == u.name || strings.HasPrefix(name, u.name+" ")) && r.allowed[name] == "" {
			return false
		}
	}
	return true
}

// repeat runs a unit again, up to twice, and deletes the failures that do not recur.
func (r *runner) repeat(u unit) {
	again := r.one(u)
	if len(again) == 0 {
		again = r.one(u)
	}
	for name := range r.failures {
		if (name == u.name || strings.HasPrefix(name, u.name+" ")) && again[name] == "" {
			fmt.Fprintf(os.Stdout, "%s: %s failed once of three times\n", r.mode, name)
			if r.verbose {
				printOutput(os.Stdout, r.failures[name])
			}
			delete(r.failures, name)
		}
	}
}

// timeLimit is the maximum time for a process.
const timeLimit = 40 * time.Second

// one runs one unit and returns the outputs of failed tests, by package and test.
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
	if len(failed) == 0 { // a panic, or the time limit
		failed[u.name] = string(out)
	}
	return failed
}

var failLine = regexp.MustCompile(`(?m)^ *--- FAIL: (\S+)`)

// failedTests returns the names of failed tests. It omits a test if one of its subtests is listed. The names of gRPC's
// tests have no "Test/", and those of other tests have at most two levels.
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

// report prints the failed tests, and returns how many of them are not allowed to fail.
func (r *runner) report() (failed int) {
	for _, test := range slices.Sorted(maps.Keys(r.failures)) {
		if reason := r.allowed[test]; reason != "" {
			fmt.Fprintf(os.Stdout, "%s: %s failed, which is allowed: %s\n", r.mode, test, reason)
			continue
		}
		failed++
		fmt.Fprintf(os.Stdout, "%s: FAIL: %s\n", r.mode, test)
		if r.verbose {
			printOutput(os.Stdout, r.failures[test])
		}
	}
	return failed
}

// printOutput writes the lines of out that are not gRPC's logs.
func printOutput(w io.Writer, out string) {
	for lines := bufio.NewScanner(strings.NewReader(out)); lines.Scan(); {
		if line := lines.Text(); !strings.Contains(line, "tlogger.go") {
			fmt.Fprintln(w, "   ", line)
		}
	}
}
