package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// hop counts the spans of one service in all requests.
type hop struct {
	name      string
	depth     int // minimum number of servers above it
	requests  int // in which it received a call
	served    int // calls that it received
	failed    int // of these
	calls     int // that it made
	attempts  int
	decisions tally  // on attempts that failed and were not retried
	seen      string // the last trace in which it received a call

	clients int // CLIENT spans, counted as attempts if the service has no attempts of Hopbound
}

// hopTable counts the spans of each service.
type hopTable map[string]*hop

// write prints a line for each service: how many calls it received per request that reached it, and how many
// attempts it made for each of its own calls. It prints at most limit lines, and returns how many services it omits.
func (t hopTable) write(out io.Writer, limit int) (leftOut int, err error) {
	all := slices.SortedFunc(maps.Values(t), func(a, b *hop) int {
		return cmp.Or(cmp.Compare(a.depth, b.depth), cmp.Compare(a.name, b.name))
	})
	shown := all[:min(len(all), limit)]
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "hop\tcalls received\tper request\tfailed\tcalls made\tattempts\tper call\tnot retried because\t")
	for _, h := range shown {
		fmt.Fprintf(table, "%s\t%d\t%s\t%d\t%d\t%d\t%s\t%s\t\n", tree.Printable(h.name), h.served, ratio(h.served, h.requests),
			h.failed, h.calls, cmp.Or(h.attempts, h.clients), ratio(h.attempts, h.calls), tree.Printable(h.decisions.String()))
	}
	return len(all) - len(shown), table.Flush()
}

// add counts the spans of one request.
func (t hopTable) add(spans []*tree.Span) {
	depths := depthsOf(spans)
	for _, s := range spans {
		h := t[s.Service]
		if h == nil {
			h = &hop{name: cmp.Or(s.Service, "(no service.name)"), depth: depths[s]}
			t[s.Service] = h
		}
		h.depth = min(h.depth, depths[s])
		switch decision := s.Text("hopbound.decision"); {
		case s.Kind == tree.Server:
			h.served++
			if h.seen != s.Trace {
				h.seen = s.Trace
				h.requests++
			}
			if s.Failed {
				h.failed++
			}
		case s.IsCall():
			h.calls++
		case s.IsAttempt():
			h.attempts++
			if decision != "done" && decision != "retried" && decision != "hedge_lost" {
				h.decisions.add(decision)
			}
		case s.Kind == tree.Client:
			h.clients++
		}
	}
}

// depthsOf returns the number of server spans among each span and its ancestors. It visits each span once, and
// does not use recursion.
func depthsOf(spans []*tree.Span) map[*tree.Span]int {
	known := make(map[string]*tree.Span, len(spans))
	for _, s := range spans {
		known[s.ID] = s
	}
	depths := make(map[*tree.Span]int, len(spans))
	var path []*tree.Span // from a span up to the first whose depth is known
	for _, s := range spans {
		depth := 0
		for above := s; above != nil; above = known[above.Parent] {
			if d, ok := depths[above]; ok {
				depth = d
				break
			}
			depths[above] = 0 // so that a circle of parents ends here
			path = append(path, above)
		}
		for _, below := range slices.Backward(path) {
			if below.Kind == tree.Server {
				depth++
			}
			depths[below] = depth
		}
		path = path[:0]
	}
	return depths
}

func ratio(part, whole int) string {
	if whole == 0 {
		return "–"
	}
	return fmt.Sprintf("%.3f", float64(part)/float64(whole))
}
