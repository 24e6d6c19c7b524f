package tree

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// pathTolerance is by how much a span may overlap the next one on the path. Some formats cut times to microseconds.
const pathTolerance = 5 * time.Microsecond

// findPath finds the chain of spans that determined the end of the request. It goes back from the end: at each time,
// the span that was on the path is the one that ended last before that time, and below it in turn. What no span below
// covers is the span's own time. An attempt that was cancelled because another one answered is not on the path.
func (t *Tree) findPath() {
	type step struct {
		n            *node
		began, ended time.Duration // the part of the node that is on the path
	}
	stack := []step{{t.root, max(0, t.root.began), min(t.took, t.root.ended)}}
	for len(stack) > 0 {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		at.n.onPath = true
		t.path = append(t.path, at.n)
		end := at.ended
		for _, below := range at.n.byEnd() {
			began, ended := max(below.began, at.began), min(below.ended, at.ended)
			if ended > end+pathTolerance || began >= min(ended, end) {
				continue // another one was on the path at that time, or it took no time
			}
			ended = min(ended, end)
			at.n.self += end - ended
			end = began
			stack = append(stack, step{below, began, ended})
		}
		at.n.self += max(0, end-at.began)
	}
}

// byEnd returns the nodes below a node that may be on the path, the last one first.
func (n *node) byEnd() []*node {
	var all []*node
	for _, below := range n.children {
		if below.ended > below.began && (below.event != nil || !below.span.IsLost()) {
			all = append(all, below)
		}
	}
	slices.SortStableFunc(all, func(a, b *node) int { return cmp.Compare(min(b.ended, n.ended), min(a.ended, n.ended)) })
	return all
}

// Share is a part of a request's time.
type Share struct {
	Of   string // what took it
	Took time.Duration
}

// Shares returns what took the request's time on its critical path, the largest part first.
func (t *Tree) Shares() []Share {
	parts := map[string]time.Duration{}
	for _, n := range t.path {
		if n.self > 0 {
			parts[n.share()] += n.self
		}
	}
	shares := make([]Share, 0, len(parts))
	for _, of := range slices.Sorted(maps.Keys(parts)) {
		shares = append(shares, Share{of, parts[of]})
	}
	slices.SortStableFunc(shares, func(a, b Share) int { return cmp.Compare(b.Took, a.Took) })
	return shares
}

// share says of what the own time of a node is.
func (n *node) share() string {
	s := n.span
	switch {
	case n.event != nil:
		return "backoff in " + s.service()
	case s.IsCall() && n.below(Other) == nil && n.below(Client) == nil:
		return s.service() + " in a call without attempts"
	case s.IsCall():
		return s.service() + " between its attempts"
	case s.IsAttempt() || s.Kind == Client:
		if server := n.below(Server); server != nil {
			return "between " + s.service() + " and " + server.span.service() + " (network and queues)"
		}
		return s.service() + " waiting for " + s.Method() + ", which has no span of a server"
	case s.Kind == Server:
		return s.service() + " itself in " + s.Method()
	default:
		return s.service() + ": " + s.Method()
	}
}

// below returns the first span of a kind directly below a node, or nil.
func (n *node) below(kind Kind) *node {
	for _, below := range n.children {
		if below.event == nil && below.span.Kind == kind {
			return below
		}
	}
	return nil
}

// service returns the name of the span's service.
func (s *Span) service() string { return cmp.Or(s.Service, "(no service.name)") }
