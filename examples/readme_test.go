package examples_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestCodeOfDocumentsIsCompiled checks that each block of Go or protobuf of the
// README and the guides stands, but for indentation, in a file of the project,
// where it is compiled and tested.
func TestCodeOfDocumentsIsCompiled(t *testing.T) {
	t.Parallel()
	var readme []byte
	guides, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(guides, "../README.md") {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		readme = append(readme, text...)
	}
	var sources strings.Builder
	err = filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if ext := filepath.Ext(path); err != nil || entry.IsDir() || ext != ".go" && ext != ".proto" {
			return err
		}
		text, err := os.ReadFile(path)
		sources.WriteString(flat(string(text)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```(?:go|proto)\n(.*?)^```$").FindAllStringSubmatch(string(readme), -1)
	if len(blocks) == 0 {
		t.Fatal("no Go in the documents")
	}
	for _, b := range blocks {
		if !strings.Contains(sources.String(), flat(b[1])) {
			t.Errorf("no file has\n%s", b[1])
		}
	}
}

// flat drops the indentation of all lines.
func flat(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimSpace(line)
	}
	return strings.Join(lines, "\n") + "\n"
}
