package main

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/hopbound/hopbound/examples/internal/services"
)

// The commands of docs/policies.md print what the document says. In it, … stands for lines that are left out.
func TestDocumentShowsWhatItsCommandsPrint(t *testing.T) {
	t.Parallel()
	services.Protoc(t)
	page, err := os.ReadFile("../../docs/policies.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?ms)^```sh\n(.*?)^```$.*?^```text\n(.*?)^```$").FindAllSubmatch(page, -1)
	if len(blocks) == 0 {
		t.Fatal("it has no commands")
	}
	for _, block := range blocks {
		cmd := exec.CommandContext(t.Context(), "bash", "-uc", string(block[1]))
		cmd.Dir = "../.."
		out, err := cmd.Output()
		if cmd.ProcessState.ExitCode() != exitUndeclared {
			t.Errorf("%v", err)
		}
		first, last, _ := strings.Cut(string(block[2]), "…\n")
		if !strings.HasPrefix(string(out), first) || !strings.HasSuffix(string(out), last) {
			t.Errorf("%s prints\n%s\nand the document says\n%s", block[1], out, block[2])
		}
	}
}
