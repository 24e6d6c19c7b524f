package main

import (
	"os"
	"strings"
	"testing"
)

func TestQuickstart(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	const want = `coffee: 450 cents, though the service was down twice
coffee: now 450 cents
coffee: now 455 cents
coffee: now 440 cents
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

// Each side is to be read at a glance.
func TestEachSideIsUnderSixtyLines(t *testing.T) {
	t.Parallel()
	for _, side := range []string{"server.go", "client.go"} {
		text, err := os.ReadFile(side)
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Count(string(text), "\n"); lines >= 60 {
			t.Errorf("%s has %d lines", side, lines)
		}
	}
}
