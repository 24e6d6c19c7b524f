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
	fixed  int // the cells of a row, from the first, that are the same in each run

	mu   sync.Mutex
	rows [][]string
}

// writing is held while a table is written.
var writing sync.Mutex

// newTable returns a table that is written below its name when the test and its subtests have passed. If it is not written,
// the page must have its rows, as far as they are the same in each run.
func newTable(t *testing.T, name string, fixed int, header ...string) *table {
	t.Helper()
	if *write && os.Getenv("HOPBOUND_REQUIRE_SERVICES") != "1" {
		t.Fatal("only a run with all counterparts may write: set HOPBOUND_REQUIRE_SERVICES=1")
	}
	tab := &table{header: header, fixed: fixed}
	t.Cleanup(func() {
		switch {
		case t.Failed() || t.Skipped():
		case *write:
			tab.write(t, name)
		default:
			tab.compare(t)
		}
	})
	return tab
}

// compare compares the rows with those of the page.
func (tab *table) compare(t *testing.T) {
	t.Helper()
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range tab.rows {
		if row := "\n| " + strings.Join(r[:tab.fixed], " | ") + " |"; !strings.Contains(string(data), row) {
			t.Errorf("docs/interop.md does not have the row %q; write it with -args -write", row[1:])
		}
	}
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
