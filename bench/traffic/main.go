// Command traffic measures retries under the traffic of real systems: outages, partial
// failures, fan-out, killed servers and overload. It measures gRPC alone, grpc-go's own retries, the retries of other
// libraries and Hopbound, all with the same retry policy.
//
// It runs real grpc-go in virtual time, except for the shape kill. Without flags, it measures all shapes, and writes
// the section "Real traffic" of docs/benchmarks.md, a chart, and a table in README.md. The exit code is 1 if Hopbound
// misses a bar.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"testing"
	"time"
)

// options are the command's flags.
type options struct {
	shape, stack, out string
	json              bool
}

func main() {
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "traffic:", err)
		os.Exit(2)
	}
	// Virtual time requires a test. testing.Main runs one outside of "go test". It reads os.Args and writes to
	// os.Stdout, which is needed for the results.
	debug.SetGCPercent(400) // the heap is small, and the command takes minutes
	results := os.Stdout
	os.Stdout = os.Stderr
	os.Args = []string{os.Args[0], "-test.timeout=0"}
	testing.Main(func(string, string) (bool, error) { return true, nil },
		[]testing.InternalTest{{Name: "traffic", F: func(t *testing.T) {
			t.Helper()
			o.run(t, results)
		}}}, nil, nil)
}

func parse(args []string) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("traffic", flag.ContinueOnError)
	flags.StringVar(&o.shape, "shape", "", "measure only this shape or family of shapes, such as storm; all if empty")
	flags.StringVar(&o.stack, "stack", "", "measure only this stack; all if empty")
	flags.BoolVar(&o.json, "json", false, "print the rows as a JSON array, and write no files")
	flags.StringVar(&o.out, "out", "docs", "folder of benchmarks.md; README.md is in the folder above it")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if _, err := shapesNamed(o.shape); err != nil {
		return nil, err
	}
	if o.stack != "" && len(stacksNamed(o.stack)) == 0 {
		var names []string
		for _, s := range allStacks() {
			names = append(names, s.name)
		}
		return nil, fmt.Errorf("unknown stack %q; the stacks are %q", o.stack, names)
	}
	return o, nil
}

// run measures, reports, and exits the process. It returns only if a measurement has failed, which fails the test.
func (o *options) run(t *testing.T, results io.Writer) {
	t.Helper()
	started := time.Now()
	rows, ok := o.measure(t)
	if !ok {
		return
	}
	fmt.Fprintf(os.Stderr, "%d rows in %v\n", len(rows), time.Since(started).Round(time.Second))
	code := 0
	if err := o.report(rows, results); err != nil {
		fmt.Fprintln(os.Stderr, "traffic:", err)
		code = 1
	}
	for _, r := range rows {
		if want := missed(r, rows); want != "" {
			fmt.Fprintf(os.Stderr, "%s: want %s\n", r.Shape, want)
			code = 1
		}
	}
	os.Exit(code)
}

// report writes the output that the flags select.
func (o *options) report(rows []row, results io.Writer) error {
	if o.json {
		encoder := json.NewEncoder(results)
		encoder.SetIndent("", "  ")
		return encoder.Encode(rows)
	}
	if _, err := io.WriteString(results, textTable(rows)); err != nil || o.shape != "" || o.stack != "" {
		return err
	}
	return writeDocs(o.out, rows)
}

// measure runs the shapes. Shapes in real time run first, one by one. The others run in parallel, as many as there
// are processors.
func (o *options) measure(t *testing.T) ([]row, bool) {
	t.Helper()
	shapes, err := shapesNamed(o.shape)
	if err != nil {
		t.Fatal(err)
	}
	var results [][]row
	var names []string
	if o.stack != "" {
		names = []string{o.stack}
	}
	ok := t.Run("measure", func(t *testing.T) {
		for _, s := range shapes {
			for _, k := range stacksNamed(names...) {
				if !s.has(k.name) {
					continue
				}
				i := len(results)
				results = append(results, nil)
				t.Run(s.rows[0]+" "+k.name, func(t *testing.T) {
					if !s.realTime {
						t.Parallel()
					}
					started := time.Now()
					results[i] = s.measure(t, k, false)
					fmt.Fprintf(os.Stderr, "%-36s %-18s %6.2fs\n", s.rows[0], k.name, time.Since(started).Seconds())
				})
			}
		}
	})
	rows := slices.DeleteFunc(slices.Concat(results...), func(r row) bool { return !named(r.Shape, o.shape) })
	return rows, ok
}
