package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	heading     = "## Real traffic"
	readmeBegin = "<!-- traffic -->"
	readmeEnd   = "<!-- /traffic -->"
)

// writeDocs writes the chart and the section of benchmarks.md to folder, and the table to README.md in the folder
// above it.
func writeDocs(folder string, rows []row) error {
	image := filepath.Join(folder, "images", "traffic.svg")
	if err := os.MkdirAll(filepath.Dir(image), 0o755); err != nil { //nolint:gosec // documents for all to read
		return err
	}
	return errors.Join(
		os.WriteFile(image, []byte(chart(rows)), 0o644), //nolint:gosec // likewise
		edit(filepath.Join(folder, "benchmarks.md"), func(text string) string { return replaceSection(text, section(rows)) }),
		edit(filepath.Join(folder, "..", "README.md"), func(text string) string { return replaceBetween(text, readmeTable(rows)) }),
	)
}

// edit rewrites a file if change changes its text. A file that does not exist counts as empty.
func edit(name string, change func(string) string) error {
	before, err := os.ReadFile(name) //nolint:gosec // a document of the project
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	after := change(string(before))
	if after == string(before) {
		return nil
	}
	return os.WriteFile(name, []byte(after), 0o644) //nolint:gosec // a document for all to read
}

// replaceSection replaces the section Real traffic, or appends it.
func replaceSection(text, section string) string {
	lines := strings.SplitAfter(text, "\n")
	var before, after strings.Builder
	found, inside := false, false
	for _, line := range lines {
		if strings.HasPrefix(line, "## ") {
			inside = strings.TrimSpace(line) == heading
			found = found || inside
		}
		switch {
		case inside:
		case found:
			after.WriteString(line)
		default:
			before.WriteString(line)
		}
	}
	text = strings.TrimRight(before.String(), "\n") + "\n\n" + section
	if after.Len() > 0 {
		text += "\n" + after.String()
	}
	return strings.TrimLeft(text, "\n")
}

// replaceBetween replaces the text between the marks of the README's table. If there are no marks, it changes
// nothing.
func replaceBetween(text, table string) string {
	before, rest, found := strings.Cut(text, readmeBegin+"\n")
	_, after, closed := strings.Cut(rest, readmeEnd)
	if !found || !closed {
		return text
	}
	return before + readmeBegin + "\n" + table + readmeEnd + after
}

// section is the section of benchmarks.md.
func section(rows []row) string {
	repairs := []string{
		"partial", "mapped", "deep-random", "fan-out-20", "fan-out-100", httpPages, slowSiblings, "held-watch",
		"one-of-three-bad", "one-of-three-hangs", "chart",
	}
	parts := []string{
		heading, intro,
		aboutOutages, markdown(rows, leaf, true, "outage", "outage-after-traffic", "many-roots", "plain-hop"), requestsNote(rows),
		aboutRepairs, markdown(rows, successes, true, repairs...),
		aboutMiddle, markdown(rows, middles, false, "partial", "deep-random", "fan-out-20", "fan-out-100"),
		aboutKills, markdown(rows, failures, true, "kill"),
		aboutStorms, markdown(rows, storms, true, "storm"),
	}
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	parts = slices.DeleteFunc(parts, func(s string) bool { return s == "" })
	return strings.Join(parts, "\n\n") + "\n"
}

// requestsNote returns a text about the stacks that made fewer requests than others.
func requestsNote(rows []row) string {
	var notes []string
	for _, name := range shapeNames(rows) {
		full := 0
		for _, r := range rows {
			if r.Shape == name {
				full = max(full, r.Requests)
			}
		}
		for _, r := range rows {
			if r.Shape == name && r.Requests < full {
				notes = append(notes, fmt.Sprintf("`%s` %s %d instead of %d", name, r.Stack, r.Requests, full))
			}
		}
	}
	if len(notes) == 0 {
		return ""
	}
	return fmt.Sprintf("An outage ends early when the leaf has received %d calls. Fewer requests were therefore made in:\n%s.",
		maxLeafCalls, strings.Join(notes, ",\n"))
}
