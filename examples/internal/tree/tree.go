package tree

import (
	"strings"
	"time"
)

// Tree is the tree of the spans of one request.
type Tree struct {
	roots  []*node
	root   *node         // the root that stands for the request; nil if there are no spans
	failed *node         // what shows that the request failed; nil if it did not
	took   time.Duration // from the start of the request to its end
	path   []*node       // the critical path, from the request's end back to its start
}

// node is a span, or an event of the span above it.
type node struct {
	span     *Span
	event    *Event // nil for a span
	note     string // why a span is a root
	parent   *node
	children []*node // in the order in which they are printed
	seen     state

	began, ended time.Duration // since the start of the request, by the corrected clock
	correction   time.Duration // of the clock of the span's service
	self         time.Duration // time on the critical path in which nothing below the node was on it
	onPath       bool
}

type state int

const (
	unseen state = iota
	active
	done
)

// New returns the tree of the spans of one request, which it sorts. A span whose parent is missing is a root. So is
// one span of each circle of parents. New folds the spans that another library has created for an attempt into
// the attempt. Its cost is that of sorting, even for malformed traces.
func New(spans []*Span) *Tree {
	Unfold(spans)
	Order(spans)
	t := &Tree{}
	nodes := make([]node, len(spans))
	known := make(map[string]*node, len(spans))
	for i, s := range spans {
		nodes[i].span = s
		if known[s.ID] == nil || s.Kind == Server { // what is below a client's and a server's span of one id is the server's
			known[s.ID] = &nodes[i]
		}
	}
	for i, s := range spans {
		nodes[i].parent = known[s.Parent]
	}
	var circles []*node
	for i := range nodes {
		if first := nodes[i].cutCircle(); first != nil {
			circles = append(circles, first)
		}
	}
	for i := range nodes {
		n := &nodes[i]
		switch {
		case n.parent != nil:
			n.parent.children = append(n.parent.children, n)
		case n.note == "":
			if n.span.Parent != "" {
				n.note = " (its parent is missing)"
			}
			t.roots = append(t.roots, n)
		}
	}
	t.roots = append(t.roots, circles...)
	for i := range nodes {
		nodes[i].fold()
	}
	for i := range nodes {
		nodes[i].addEvents()
	}
	t.measure(spans)
	return t
}

// cutCircle removes the parent of a node if the node is its own ancestor, and returns that node. It visits each node
// once for all calls.
func (n *node) cutCircle() (first *node) {
	last := n
	for ; last != nil && last.seen == unseen; last = last.parent {
		last.seen = active
	}
	if last != nil && last.seen == active {
		first = last
	}
	for above := n; above != nil && above.seen == active; above = above.parent {
		above.seen = done
	}
	if first != nil {
		first.parent, first.note = nil, " (it is below itself)"
	}
	return first
}

// fold replaces the only span below an attempt by what is below that span, if otelgrpc or grpc-go has created it for
// the attempt.
func (n *node) fold() {
	for n.span.IsAttempt() && len(n.children) == 1 {
		inner := n.children[0]
		if s := inner.span; !s.isOfLibrary() || s.Failed && !n.span.Failed && !n.span.IsLost() {
			return
		}
		n.children = inner.children
		for _, below := range n.children {
			below.parent = n
		}
	}
}

// isOfLibrary reports whether a span is the CLIENT span of another library, or the span below it for the one attempt
// that grpc-go makes.
func (s *Span) isOfLibrary() bool {
	if s.IsAttempt() || s.IsCall() {
		return false
	}
	return s.Kind == Client || s.Kind == Other && strings.HasPrefix(s.Name, "Attempt.")
}

// addEvents puts the events of a span among its children.
func (n *node) addEvents() {
	var all []*node
	rest := n.children
	for i := range n.span.Events {
		e := &node{span: n.span, event: &n.span.Events[i], parent: n}
		if e.eventText() == "" {
			continue
		}
		for len(rest) > 0 && !before(e.event, rest[0].span) {
			all, rest = append(all, rest[0]), rest[1:]
		}
		all = append(all, e)
	}
	if len(all) > 0 {
		all = append(all, rest...)
		n.children = all
	}
}

// before reports whether an event of a call is printed before an attempt. The event of a hedge is recorded after
// its attempt has started, so it is compared by the attempt's number.
func before(e *Event, a *Span) bool {
	if n, ok := e.Attributes["hopbound.attempt"].(int64); ok {
		attempt, _ := a.Int("hopbound.attempt")
		return n <= attempt
	}
	return e.At.Before(a.Began)
}
