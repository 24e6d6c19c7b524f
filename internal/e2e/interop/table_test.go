package interop_test

import (
	"flag"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// With -args -write, the tests write their tables into docs/interop.md.
var write = flag.Bool("write", false, "write docs/interop.md")

const page = "../../../docs/interop.md"

// table is a table of docs/interop.md.
type table struct {
	header []string

	mu   sync.Mutex
	rows [][]string
}

// writing is held while a table is written.
var writing sync.Mutex

// newTable returns a table that is written below its name when the test and its subtests have passed.
func newTable(t *testing.T, name string, header ...string) *table {
	t.Helper()
	tab := &table{header: header}
	t.Cleanup(func() {
		if *write && !t.Failed() && !t.Skipped() {
			tab.write(t, name)
		}
	})
	return tab
}

func (tab *table) add(cells ...string) {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	tab.rows = append(tab.rows, cells)
}

// write replaces the lines between the comment with the table's name and the next empty line after its table.
func (tab *table) write(t *testing.T, name string) {
	t.Helper()
	writing.Lock()
	defer writing.Unlock()
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	mark := "<!-- " + name + " -->\n\n"
	before, after, found := strings.Cut(string(data), mark)
	if !found {
		t.Fatalf("%s has no line %q", page, strings.TrimSpace(mark))
	}
	_, after, _ = strings.Cut(after, "\n\n")
	lines := []string{"| " + strings.Join(tab.header, " | ") + " |", "|" + strings.Repeat("---|", len(tab.header))}
	slices.SortStableFunc(tab.rows, slices.Compare)
	for _, r := range tab.rows {
		lines = append(lines, "| "+strings.Join(r, " | ")+" |")
	}
	text := before + mark + strings.Join(lines, "\n") + "\n\n" + after
	if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
