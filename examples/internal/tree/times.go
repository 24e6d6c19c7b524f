package tree

import "time"

// measure sets the times of all nodes, and finds the critical path.
func (t *Tree) measure(spans []*Span) {
	root := Root(spans)
	if root == nil {
		return
	}
	began, ended := Extent(spans, root)
	t.took = ended.Sub(began)
	failed := Failed(spans, root)
	t.root = t.roots[0]
	stack := append([]*node(nil), t.roots...)
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = append(stack[:len(stack)-1], n.children...)
		n.place(began)
		if n.event == nil && n.span == root {
			t.root = n
		}
		if n.event == nil && n.span == failed {
			t.failed = n
		}
	}
	t.findPath()
}

// place sets the times of a node whose parent has been placed.
func (n *node) place(began time.Time) {
	if n.parent != nil {
		n.correction = n.parent.correction
	}
	if n.event != nil {
		n.began = n.event.At.Sub(began) + n.correction
		n.ended = n.began
		if pause, ok := millis(n.event.Attributes, "hopbound.backoff_ms"); ok && n.event.Name == "hopbound.backoff" {
			n.ended += max(0, pause)
		}
		return
	}
	n.began = n.span.Began.Sub(began) + n.correction
	n.ended = n.span.Ended.Sub(began) + n.correction
	if more := n.clockError(); more != 0 {
		n.correction += more
		n.began += more
		n.ended += more
	}
}

// clockTolerance is the difference between the clocks of two hosts that is not corrected. Servers may also end their
// spans a little later than the caller has the reply.
const clockTolerance = time.Millisecond

// clockError returns what must be added to the times of a server's span, because the clocks of different hosts
// differ. A server cannot start before the attempt that called it, and it has ended when its reply arrives. A server
// that is out of these bounds is put into the middle of the attempt, as Jaeger does.
func (n *node) clockError() time.Duration {
	p := n.parent
	if n.span.Kind != Server || p == nil || p.span.Service == n.span.Service {
		return 0
	}
	early := n.began < p.began-clockTolerance
	late := n.ended > p.ended+clockTolerance && !p.gaveUp()
	if !early && !late {
		return 0
	}
	room := (p.ended - p.began) - (n.ended - n.began)
	return p.began + max(0, room)/2 - n.began
}

// gaveUp reports whether a span may have ended before the server that it called.
func (n *node) gaveUp() bool {
	code := n.span.Code()
	return code == "DEADLINE_EXCEEDED" || code == "CANCELLED" || n.span.IsLost()
}
