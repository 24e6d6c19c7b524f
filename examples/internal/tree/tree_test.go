package tree_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

func TestSpansBelowACircleAreNotSaidToBeInIt(t *testing.T) {
	t.Parallel()
	spans := []*tree.Span{
		{ID: "1", Parent: "8", Name: "tail"},
		{ID: "0", Parent: "1", Name: "last"},
		{ID: "8", Parent: "9", Name: "eight"},
		{ID: "9", Parent: "8", Name: "nine"},
	}
	var out strings.Builder
	leftOut, err := tree.Write(&out, spans)
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if err != nil || leftOut != 0 || len(lines) != len(spans) {
		t.Fatalf("%d left out, %v\n%s", leftOut, err, out.String())
	}
	for _, line := range lines {
		below := strings.HasSuffix(line, "(it is below itself)")
		if tail := strings.Contains(line, "tail") || strings.Contains(line, "last"); below && tail {
			t.Errorf("%q is not below itself", line)
		}
	}
	if n := strings.Count(out.String(), "(it is below itself)"); n != 1 {
		t.Errorf("a circle begins %d times\n%s", n, out.String())
	}
}

func TestSpansDeeperThanMaxDepthAreCounted(t *testing.T) {
	t.Parallel()
	for _, call := range []int{0, 1, 2} { // no calls, those with an odd number, or an even one
		for _, more := range []int{0, 1, 7} {
			var spans []*tree.Span
			for i := range tree.MaxDepth + more {
				s := &tree.Span{ID: strconv.Itoa(i), Parent: strconv.Itoa(i - 1)}
				if call > 0 && i%2 == call%2 {
					s.Attributes = map[string]any{"hopbound.attempts": int64(1)}
				}
				spans = append(spans, s)
			}
			var out strings.Builder
			leftOut, err := tree.Write(&out, spans)
			lines := strings.Count(out.String(), "\n")
			if err != nil || leftOut != more || lines != tree.MaxDepth+min(more, 1) {
				t.Errorf("calls %d, %d more: %d left out, %d lines, %v", call, more, leftOut, lines, err)
			}
		}
	}
}
