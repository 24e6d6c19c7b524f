package tree

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// MaxDepth is the maximum number of levels of spans that are printed.
const MaxDepth = 1000

// Write prints the spans of one trace as a tree, without times. It sorts the spans.
func Write(out io.Writer, spans []*Span) (leftOut int, err error) {
	return New(spans).write(out, false)
}

// Write prints the tree. Each line begins with a bar, which shows when the span ran, and with the span's own time if
// it is on the critical path. Write returns the number of spans below MaxDepth, which it omits.
func (t *Tree) Write(out io.Writer) (leftOut int, err error) { return t.write(out, true) }

func (t *Tree) write(out io.Writer, times bool) (leftOut int, err error) {
	w := &writer{out: bufio.NewWriter(out), times: times, took: t.took}
	if times && len(t.roots) > 0 {
		w.header()
	}
	for _, n := range t.roots {
		w.node(n, 0)
	}
	return w.leftOut, w.out.Flush()
}

// header prints the scale of the bars.
func (w *writer) header() {
	const start = "0"
	end := Short(w.took)
	fmt.Fprintf(w.out, "   |%s%*s| %9s  *: on the critical path, !: failed\n", start, barWidth-len(start), end, "own time")
}

type writer struct {
	out     *bufio.Writer // keeps the first error
	times   bool
	took    time.Duration
	leftOut int
}

// node prints a node whose depth is below MaxDepth, and what is below it.
func (w *writer) node(n *node, depth int) {
	w.line(n, depth, n.line()+n.note)
	depth++
	if depth == MaxDepth {
		w.leaveOut(n, depth)
		return
	}
	for _, below := range n.children {
		w.node(below, depth)
	}
}

// leaveOut counts all spans below a node instead of printing them. It does not use recursion, because there may be
// very many levels.
func (w *writer) leaveOut(n *node, depth int) {
	count := 0
	for stack := []*node{n}; len(stack) > 0; {
		last := stack[len(stack)-1]
		stack = append(stack[:len(stack)-1], last.children...)
		if last != n && last.event == nil {
			count++
		}
	}
	if count > 0 {
		w.line(nil, depth, fmt.Sprintf("(%s below left out)", Plural(int64(count), "span")))
	}
	w.leftOut += count
}

// maxIndent is the maximum level of indentation, so that the size of the output is linear.
const maxIndent = 40

// line prints a line at a depth. The node is nil if the line has no time.
func (w *writer) line(n *node, depth int, text string) {
	indent := strings.Repeat("  ", min(depth, maxIndent))
	if depth > maxIndent {
		indent += fmt.Sprintf("[level %d] ", depth)
	}
	gutter := ""
	if w.times {
		gutter = w.gutter(n)
	}
	fmt.Fprintf(w.out, "%s%s\n", gutter, Printable(indent+text))
}

// gutter returns what is before the text of a line: the marks of the critical path and of failures, the bar and the node's own time.
func (w *writer) gutter(n *node) string {
	if n == nil {
		return fmt.Sprintf("   %s %9s  ", strings.Repeat(" ", barWidth+len("||")), "")
	}
	path, failed, self := " ", " ", ""
	if n.onPath {
		path, self = "*", Short(n.self)
	}
	if n.event == nil && n.span.Failed {
		failed = "!"
	}
	return fmt.Sprintf("%s%s %s %9s  ", path, failed, n.bar(w.took), self)
}

// barWidth is the number of characters that stand for the time of a request.
const barWidth = 24

// bar returns a bar of fixed width that shows when a node ran in a request that took a time. A node on the critical
// path has #, and another one has -. A > at the end shows that the node ran longer than the request.
func (n *node) bar(took time.Duration) string {
	fill := byte('-')
	if n.onPath {
		fill = '#'
	}
	bar := []byte(strings.Repeat(".", barWidth))
	first := max(0, min(barWidth-1, int(scale(n.began, took))))
	last := min(barWidth-1, max(first, int(math.Ceil(scale(n.ended, took)))-1))
	for i := first; i <= last; i++ {
		bar[i] = fill
	}
	if n.ended > took && scale(n.ended-took, took) > 1 {
		bar[barWidth-1] = '>'
	}
	return "|" + string(bar) + "|"
}

// scale returns the place of a time in a bar.
func scale(at, took time.Duration) float64 {
	if took <= 0 {
		return 0
	}
	return max(-1, min(2*barWidth, float64(at)/float64(took)*barWidth))
}

// Short returns a duration with a fixed number of digits, so that a column of them is easy to compare.
func Short(d time.Duration) string {
	if d >= 10*time.Second {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return fmt.Sprintf("%.2fms", float64(d)/float64(time.Millisecond))
}
