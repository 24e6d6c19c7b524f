package examples_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestThreatModelNamesItsTests checks that SECURITY.md names only tests that there are, and
// that each line of its table names one or says where they are.
func TestThreatModelNamesItsTests(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	declaration := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err = filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, found := range declaration.FindAllStringSubmatch(string(source), -1) {
			there[found[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(string(text), -1)
	if len(named) < 30 {
		t.Errorf("it names %d tests", len(named))
	}
	for _, test := range named {
		if !there[test[1]] {
			t.Errorf("there is no test %s", test[1])
		}
	}
	lines := 0
	for line := range strings.SplitSeq(string(text), "\n") {
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "| who") || strings.HasPrefix(line, "|---") {
			continue
		}
		lines++
		if !strings.Contains(line, "`Test") && !strings.Contains(line, "`Fuzz") && !strings.Contains(line, "see `storetest`") {
			t.Errorf("a line names no test: %s", line)
		}
	}
	if lines < 20 {
		t.Errorf("the table has %d lines", lines)
	}
}
