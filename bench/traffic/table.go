package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// textTable returns the table for a terminal. It marks the rows that miss their bar.
func textTable(rows []row) string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "shape\tstack\tsuccess\tleaf calls/request\tmiddle calls/request\tfailed\trequests\trecovery\tnote")
	for _, r := range rows {
		note := r.Note
		if want := missed(r, rows); want != "" {
			note = strings.TrimSpace("FAIL: want " + want + "  " + note)
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%.4f\t%.4f\t%.4f\t%d\t%d\t%s\t%s\n",
			r.Shape, r.Stack, r.Success, r.LeafCalls, r.MiddleCalls, r.Failed, r.Requests, seconds(r), note)
	}
	_ = w.Flush()
	return text.String()
}

// column returns the text of a row's cell in a table.
type column func(r row) string

// The columns. If a stack was not measured with a shape, the cell is a dash.
func successes(r row) string { return fmt.Sprintf("%.4f (%s)", r.Success, calls(r)) }
func leaf(r row) string      { return calls(r) }
func failures(r row) string  { return fmt.Sprintf("%d of %d", r.Failed, r.Requests) }
func storms(r row) string    { return fmt.Sprintf("%s (%.3f)", seconds(r), r.Success) }
func middles(r row) string   { return fmt.Sprintf("%.4f", r.MiddleCalls) }
func percent(r row) string   { return fmt.Sprintf("%.2f %%", 100*r.Success) }

// calls returns the leaf calls per request, with three decimals below 100.
func calls(r row) string {
	if r.LeafCalls >= 100 {
		return fmt.Sprintf("%.0f", r.LeafCalls)
	}
	return fmt.Sprintf("%.3f", r.LeafCalls)
}

// seconds returns the recovery time of a storm, or "" for other shapes.
func seconds(r row) string {
	switch {
	case r.Recovery == nil:
		return ""
	case *r.Recovery < 0:
		return "never"
	default:
		return fmt.Sprintf("%.2f s", *r.Recovery)
	}
}

// markdown returns a table with a line for each shape of the families and a column for each stack. If bars is true, the
// last column has Hopbound's bars.
func markdown(rows []row, show column, bars bool, families ...string) string {
	var text strings.Builder
	text.WriteString("| shape |")
	for _, k := range allStacks() {
		fmt.Fprintf(&text, " %s |", k.name)
	}
	if bars {
		text.WriteString(" bar for hopbound |")
	}
	text.WriteString("\n|---|" + strings.Repeat("---|", len(allStacks())))
	if bars {
		text.WriteString("---|")
	}
	text.WriteString("\n")
	for _, name := range shapeNames(rows) {
		if !slices.Contains(families, family(name)) {
			continue
		}
		fmt.Fprintf(&text, "| `%s` |", name)
		for _, k := range allStacks() {
			fmt.Fprintf(&text, " %s |", cellOf(rows, k.name, name, show))
		}
		if bars {
			fmt.Fprintf(&text, " %s |", barText(rows, name))
		}
		text.WriteString("\n")
	}
	return text.String()
}

func cellOf(rows []row, stack, shape string, show column) string {
	r, ok := find(rows, stack, shape)
	if !ok {
		return "–"
	}
	return show(r)
}

// barText returns the bar of a shape, and marks it if Hopbound misses it.
func barText(rows []row, shape string) string {
	b, ok := barOf(shape)
	if !ok {
		return "–"
	}
	if r, ok := find(rows, hopbound, shape); ok && missed(r, rows) != "" {
		return "**missed:** " + b.want
	}
	return b.want
}

// shapeNames returns the names of the shapes of rows, in order.
func shapeNames(rows []row) []string {
	var names []string
	for _, r := range rows {
		if !slices.Contains(names, r.Shape) {
			names = append(names, r.Shape)
		}
	}
	return names
}

// readmeTable returns the short table of the README.
func readmeTable(rows []row) string {
	var text strings.Builder
	stacks := []string{native, throttled, failsafely, hopbound}
	text.WriteString("| traffic | " + strings.Join(stacks, " | ") + " |\n|---|" + strings.Repeat("---|", len(stacks)) + "\n")
	for _, line := range []struct {
		about, shape string
		show         column
	}{
		{"the last of 5 services is down: calls that reach it per request", "outage/depth=5", leaf},
		{"500 idle processes, their common service is down: calls per request", allOfManyRoots, leaf},
		{"the last of 5 services fails 10 % of its calls: success", "partial/depth=5", percent},
		{"100 parallel calls per request, 5 % fail once: success", "fan-out-100/parallel", percent},
		{"HTTP pages of 9 calls, 10 % fail once: success", httpPages, percent},
		{"three tiers, replicas killed in turn: failed requests", "kill/three-tier", failures},
	} {
		fmt.Fprintf(&text, "| %s |", line.about)
		for _, stack := range stacks {
			fmt.Fprintf(&text, " %s |", cellOf(rows, stack, line.shape, line.show))
		}
		text.WriteString("\n")
	}
	return text.String()
}
