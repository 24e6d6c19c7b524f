package main

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// The limits of a traceStore.
const (
	maxTraces   = 600              // complete and incomplete
	maxSpans    = 2000             // per trace
	maxListed   = 12               // in the page's list, requests with a retry
	maxSimple   = 5                // in the page's list, requests of each other sort
	unlisted    = 30 * time.Second // how long a trace is kept that is not in the list, because a page may still show it
	rootTimeout = 30 * time.Second // how long an incomplete trace is kept
	lateSpans   = time.Second      // how long spans may arrive after the root
)

// traceStore is an exporter that keeps the spans of some requests for the page: the latest requests that
// succeeded at once, the latest with a retry, and the latest that failed without one. Its size is limited.
type traceStore struct {
	depth int // of the chain

	mu     sync.Mutex
	traces map[trace.TraceID]*keptTrace
}

type keptTrace struct {
	spans   []keptSpan
	dropped int // spans beyond maxSpans
	seen    time.Time
	root    int // index of the root in spans, or -1
	calls   int // server spans

	maxAttempts int64 // of any call
}

// keptSpan is a span as the page receives it. Times are in microseconds.
type keptSpan struct {
	ID         string         `json:"id"`
	Parent     string         `json:"parent,omitempty"`
	Name       string         `json:"name"`
	Service    string         `json:"service"`
	Kind       string         `json:"kind"`
	Began      int64          `json:"began"`
	Took       int64          `json:"took"`
	Failed     bool           `json:"failed,omitempty"`
	Message    string         `json:"message,omitempty"`
	Attributes map[string]any `json:"attributes"`
	Events     []keptEvent    `json:"events,omitempty"`
}

type keptEvent struct {
	Name       string         `json:"name"`
	At         int64          `json:"at"`
	Attributes map[string]any `json:"attributes"`
}

func newTraceStore(depth int) *traceStore {
	return &traceStore{depth: depth, traces: map[trace.TraceID]*keptTrace{}}
}

// ExportSpans stores spans that have ended.
func (s *traceStore) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, span := range spans {
		id := span.SpanContext().TraceID()
		t := s.traces[id]
		if t == nil {
			if len(s.traces) >= maxTraces {
				continue
			}
			t = &keptTrace{root: -1}
			s.traces[id] = t
		}
		t.add(span)
	}
	return nil
}

// Shutdown does nothing, because the page still shows the spans.
func (s *traceStore) Shutdown(context.Context) error { return nil }

func (t *keptTrace) add(s sdktrace.ReadOnlySpan) {
	t.seen = s.EndTime()
	if s.SpanKind() == trace.SpanKindServer {
		t.calls++
	}
	root := !s.Parent().SpanID().IsValid()
	if len(t.spans) >= maxSpans && !root {
		t.dropped++
		return
	}
	if root {
		t.root = len(t.spans)
	}
	kept := keep(s)
	n, _ := kept.Attributes["hopbound.attempts"].(int64)
	t.maxAttempts = max(t.maxAttempts, n)
	t.spans = append(t.spans, kept)
}

func keep(s sdktrace.ReadOnlySpan) keptSpan {
	k := keptSpan{
		ID: s.SpanContext().SpanID().String(), Name: s.Name(), Service: service(s), Kind: s.SpanKind().String(),
		Began: s.StartTime().UnixMicro(), Took: s.EndTime().Sub(s.StartTime()).Microseconds(),
		Attributes: values(s.Attributes()), Message: s.Status().Description,
	}
	if s.Parent().SpanID().IsValid() {
		k.Parent = s.Parent().SpanID().String()
	}
	k.Failed = s.Status().Code == codes.Error
	for _, e := range s.Events() {
		k.Events = append(k.Events, keptEvent{Name: e.Name, At: e.Time.UnixMicro(), Attributes: values(e.Attributes)})
	}
	return k
}

// summary is a line in the page's list of requests.
type summary struct {
	ID       string `json:"id"`
	Began    int64  `json:"began"`
	Took     int64  `json:"took"`
	Failed   bool   `json:"failed"`
	Calls    int    `json:"calls"`
	Attempts int64  `json:"attempts"` // maximum of any call; 0 if unknown
	Sort     string `json:"sort"`
}

// The sorts of requests.
const (
	sortPlain    = "plain"
	sortRepeated = "repeated"
	sortFailed   = "failed" // without a retry
)

// summaries returns the requests in the page's list, latest first. It deletes old traces of other requests.
func (s *traceStore) summaries(now time.Time) []summary {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []summary
	for id, t := range s.traces {
		switch {
		case t.root >= 0 && t.spans[t.root].Name != requestSpan: // an order; the page does not show it
			if now.Sub(t.seen) > lateSpans {
				delete(s.traces, id)
			}
		case t.root < 0:
			if now.Sub(t.seen) > rootTimeout {
				delete(s.traces, id)
			}
		case now.Sub(t.seen) > lateSpans:
			all = append(all, t.summary(id, s.depth))
		}
	}
	slices.SortFunc(all, func(a, b summary) int { return cmp.Or(cmp.Compare(b.Began, a.Began), cmp.Compare(a.ID, b.ID)) })
	kept := map[string]int{}
	return slices.DeleteFunc(all, func(m summary) bool {
		kept[m.Sort]++
		if kept[m.Sort] <= maxSimple || m.Sort == sortRepeated && kept[m.Sort] <= maxListed {
			return false
		}
		id, _ := trace.TraceIDFromHex(m.ID) // cannot fail
		if now.Sub(s.traces[id].seen) > unlisted {
			delete(s.traces, id)
		}
		return true
	})
}

func (t *keptTrace) summary(id trace.TraceID, depth int) summary {
	root := t.spans[t.root]
	m := summary{ID: id.String(), Began: root.Began, Took: root.Took, Failed: root.Failed, Calls: t.calls, Attempts: t.maxAttempts, Sort: sortPlain}
	switch {
	case t.calls > depth:
		m.Sort = sortRepeated
	case root.Failed:
		m.Sort = sortFailed
	}
	return m
}

// spans returns the spans of a trace and the number of those that were dropped.
func (s *traceStore) spans(id trace.TraceID) (spans []keptSpan, dropped int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.traces[id]
	if t == nil {
		return nil, 0, false
	}
	return slices.Clone(t.spans), t.dropped, true
}
