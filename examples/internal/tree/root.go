package tree

import (
	"cmp"
	"slices"
	"time"
)

// Root returns the span that stands for a request: its first root or, if that is missing, the one of the topmost
// spans that ended last, because the last attempt decides. It returns nil if there are no spans.
func Root(spans []*Span) *Span {
	known := make(map[string]bool, len(spans))
	for _, s := range spans {
		known[s.ID] = true
	}
	var root, last *Span
	for _, s := range spans {
		switch {
		case s.Parent == "":
			if root == nil || cmp.Or(s.Began.Compare(root.Began), cmp.Compare(s.ID, root.ID)) < 0 {
				root = s
			}
		case !known[s.Parent]:
			if last == nil || cmp.Or(last.Ended.Compare(s.Ended), cmp.Compare(s.ID, last.ID)) < 0 {
				last = s
			}
		}
	}
	if root == nil {
		root = last
	}
	if root == nil && len(spans) > 0 { // all are in circles
		root = slices.MinFunc(spans, func(a, b *Span) int { return cmp.Or(a.Began.Compare(b.Began), cmp.Compare(a.ID, b.ID)) })
	}
	return root
}

// Extent returns when a request began and ended: by its root, or by all of its spans if the root is missing.
func Extent(spans []*Span, root *Span) (began, ended time.Time) {
	began, ended = root.Began, root.Ended
	if root.Parent == "" {
		return began, ended
	}
	for _, s := range spans {
		if s.Began.Before(began) {
			began = s.Began
		}
		if s.Ended.After(ended) {
			ended = s.Ended
		}
	}
	return began, ended
}

// Failed returns the span that shows that a request failed, or nil if the request did not fail. It is the root. If
// the root is a span of the application without a status, it is the failed one that ended last of the calls that have
// only such spans above them.
func Failed(spans []*Span, root *Span) *Span {
	if root.Failed {
		return root
	}
	if !root.isPlain() {
		return nil
	}
	children := map[string][]*Span{}
	for _, s := range spans {
		children[s.Parent] = append(children[s.Parent], s)
	}
	var last *Span
	for stack := []*Span{root}; len(stack) > 0; {
		above := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		below := children[above.ID]
		delete(children, above.ID) // so that a circle ends
		for _, s := range below {
			switch {
			case s.isPlain() && !s.Failed:
				stack = append(stack, s)
			case s.Failed && (last == nil || s.Ended.After(last.Ended)):
				last = s
			}
		}
	}
	return last
}

// isPlain reports whether a span is neither of a call nor of a server.
func (s *Span) isPlain() bool { return s.Kind == Other && !s.IsCall() && !s.IsAttempt() }
