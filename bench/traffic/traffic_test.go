package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// Hopbound meets the bars in the smaller form of the shapes. If a bar is relative to
// another stack, the test measures that stack too. With the race detector it measures only the shapes that make many calls at
// the same time for one request: the others make a hundred thousand calls, and take seven minutes.
func TestHopboundMeetsTheBars(t *testing.T) {
	t.Parallel()
	var grpcInStorms []row
	if !raceDetector {
		grpcInStorms = measureNamed(t, "storm/plain", grpcAlone)
	}
	for _, s := range allShapes() {
		if _, ok := barOf(s.rows[0]); !ok || s.realTime {
			continue
		}
		if raceDetector && !strings.HasPrefix(s.rows[0], "fan-out") && s.rows[0] != "held-watch" {
			continue
		}
		t.Run(s.rows[0], func(t *testing.T) {
			t.Parallel()
			rows := measureNamed(t, s.rows[0], hopbound)
			switch family(s.rows[0]) {
			case "storm":
				rows = append(rows, grpcInStorms...)
			case "deep-random":
				rows = append(rows, measureNamed(t, s.rows[0], native)...)
			}
			for _, r := range rows {
				if want := missed(r, rows); want != "" {
					t.Errorf("want %s, got:\n%s", want, textTable(rows))
				}
			}
		})
	}
}

// measureNamed measures the smaller form of a shape.
func measureNamed(t *testing.T, shape, stack string) []row {
	t.Helper()
	shapes, err := shapesNamed(shape)
	if err != nil {
		t.Fatal(err)
	}
	return shapes[0].measure(t, stacksNamed(stack)[0], true)
}

func TestEveryBarHasAShape(t *testing.T) {
	t.Parallel()
	for name := range bars() {
		if _, err := shapesNamed(name); err != nil {
			t.Error(err)
		}
	}
}

func TestUnknownNamesAreErrors(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-shape", "stork"}, {"-shape", "storm/hedge"}, {"-stack", "envoy"}, {"storm"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("parse(%q) returned no error", args)
		}
	}
	if _, err := parse([]string{"-shape", "stork"}); err == nil || !strings.Contains(err.Error(), "storm/hedge=30ms") {
		t.Errorf("the error does not list the shapes: %v", err)
	}
}

func TestSectionOfBenchmarksIsReplaced(t *testing.T) {
	t.Parallel()
	const section = "## Real traffic\n\nnew\n"
	for name, c := range map[string]struct{ before, after string }{
		"in an empty file": {"", section},
		"at the end":       {"# B\n\ntext\n", "# B\n\ntext\n\n" + section},
		"in place of the old one at the end": {
			"# B\n\n## Real traffic\n\nold\n\n### More\n\nold\n",
			"# B\n\n" + section,
		},
		"before another section": {
			"# B\n\n## Real traffic\n\nold\n\n## Stores\n\ntext\n",
			"# B\n\n" + section + "\n## Stores\n\ntext\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := replaceSection(c.before, section)
			if got != c.after {
				t.Errorf("got %q, want %q", got, c.after)
			}
			if again := replaceSection(got, section); again != got {
				t.Errorf("the second time it is %q", again)
			}
		})
	}
}

func TestTableOfTheReadmeIsReplaced(t *testing.T) {
	t.Parallel()
	const before = "a\n<!-- traffic -->\nold\n<!-- /traffic -->\nb\n"
	if got, want := replaceBetween(before, "new\n"), strings.Replace(before, "old", "new", 1); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := replaceBetween("no marks\n", "new\n"); got != "no marks\n" {
		t.Errorf("a README without marks becomes %q", got)
	}
	if lines := strings.Count(readmeTable(nil), "\n"); lines > 8 {
		t.Errorf("the table has %d lines, want at most 8 with its header", lines)
	}
}

func TestChartIsXMLWithEveryStack(t *testing.T) {
	t.Parallel()
	var rows []row
	for _, k := range allStacks() {
		for i, percent := range chartPercents() {
			rows = append(rows, row{Shape: fmt.Sprintf("chart/fail=%d%%", percent), Stack: k.name, Success: 1 - 0.1*float64(i), LeafCalls: 1 + 0.1*float64(i)})
		}
	}
	image := chart(rows)
	decoder := xml.NewDecoder(strings.NewReader(image))
	for {
		_, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range allStacks() {
		if !strings.Contains(image, ">"+k.name+"</text>") {
			t.Errorf("the chart has no %s", k.name)
		}
	}
}

func TestStormIsOverAfterThreeGoodWindows(t *testing.T) {
	t.Parallel()
	for failures, want := range map[string]float64{"000": 0, "9000": 0.25, "00900": -1, "009000": 0.75, "100": 0, "200": -1} {
		windows := make([]counter, len(failures))
		for i, f := range failures {
			windows[i].requests.Store(100)
			windows[i].failed.Store(int64(f - '0'))
		}
		if got := recoveredAfter(windows); got != want {
			t.Errorf("with failures of %q in 100 requests a window, it is over after %v s, want %v", failures, got, want)
		}
	}
}
