package main

import (
	"cmp"
	"slices"
	"time"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// summary is a request in the list of requests.
type summary struct {
	number   int // of the request in the store
	began    time.Time
	took     time.Duration
	failed   bool
	service  string
	method   string
	status   string
	attempts int
	complete bool // whether its root is there
}

// summarize returns the summary of a request with at least one span.
func summarize(number int, spans []*tree.Span) summary {
	root := tree.Root(spans)
	began, ended := tree.Extent(spans, root)
	s := summary{
		number: number, began: began, took: ended.Sub(began), complete: root.Parent == "",
		service: root.Service, method: root.Method(), status: root.Status(),
	}
	if failed := tree.Failed(spans, root); failed != nil {
		s.failed, s.status = true, failed.Status()
	} else if root.Code() == "" {
		s.status = "no error"
	}
	clients := 0
	for _, span := range spans {
		if span.IsAttempt() {
			s.attempts++
		} else if span.Kind == tree.Client {
			clients++
		}
	}
	s.attempts = cmp.Or(s.attempts, clients) // without Hopbound, an attempt is a CLIENT span
	return s
}

// matches reports whether the options select a request.
func (o *options) matches(s *summary, spans []*tree.Span) bool {
	if o.failed && !s.failed || s.took <= o.slower && o.slower > 0 {
		return false
	}
	return o.service == "" || slices.ContainsFunc(spans, func(span *tree.Span) bool { return span.Service == o.service })
}

// selection keeps the requests that are listed: failed ones first, and then slow ones first.
type selection struct {
	limit   int
	best    []summary // at most twice the limit
	matched int
	failed  int // of these
}

func (l *selection) add(s summary) {
	l.matched++
	if s.failed {
		l.failed++
	}
	l.best = append(l.best, s)
	if len(l.best) >= 2*l.limit {
		l.cut()
	}
}

// cut keeps the first ones only.
func (l *selection) cut() {
	slices.SortFunc(l.best, func(a, b summary) int {
		switch {
		case a.failed != b.failed && a.failed:
			return -1
		case a.failed != b.failed:
			return 1
		}
		return cmp.Or(cmp.Compare(b.took, a.took), a.began.Compare(b.began), cmp.Compare(a.number, b.number))
	})
	l.best = l.best[:min(len(l.best), l.limit)]
}
