package examples_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestTableOfDependenciesIsCorrect compares docs/dependencies.md with what the go command says
// of each package, built in its own module.
func TestTableOfDependenciesIsCorrect(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile("`([^`]+)`")
	rows := 0
	for line := range strings.SplitSeq(string(text), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 4 || !strings.Contains(cells[1], "`") {
			continue
		}
		rows++
		name := code.FindStringSubmatch(cells[1])[1]
		var want []string
		for _, m := range code.FindAllStringSubmatch(cells[2], -1) {
			want = append(want, m[1])
		}
		got, err := modules(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s compiles %v, and the table says %v", name, got, want)
		}
	}
	if rows < 8 {
		t.Errorf("the table has %d rows", rows)
	}
}

// modules returns the modules that are compiled for a package, but for its own.
func modules(name string) ([]string, error) {
	const root = "github.com/hopbound/hopbound/"
	cmd := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}", ".") //nolint:noctx // it takes a moment
	cmd.Dir = filepath.Join("..", strings.TrimPrefix(name, root))
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	list := strings.Fields(string(out))
	slices.Sort(list)
	return slices.Compact(list), nil
}
