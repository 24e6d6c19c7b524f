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

// Bounds of what is kept of traces.
const (
	mostTraces     = 400              // under way and done
	mostSpans      = 2000             // of one trace
	keptOfEach     = 12               // traces that are done, of each sort
	tracePatience  = 30 * time.Second // for the root of a trace to end
	spansComeAfter = time.Second      // its root has ended
)

// traceStore is an exporter that keeps the spans of some requests for the page:
// the last of those that went well, of those in which something was repeated, and
// of those that failed all the same. What it keeps is bounded.
type traceStore struct {
	depth int // of the chain

	mu     sync.Mutex
	traces map[trace.TraceID]*keptTrace
}

type keptTrace struct {
	spans   []keptSpan
	dropped int // spans beyond the bound
	seen    time.Time
	root    int   // its index among the spans, or -1
	calls   int   // that servers got
	most    int64 // attempts that a call had
}

// keptSpan is a span as the page has it. Times are in microseconds.
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

// ExportSpans takes in spans that have ended.
func (s *traceStore) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, span := range spans {
		id := span.SpanContext().TraceID()
		t := s.traces[id]
		if t == nil {
			if len(s.traces) >= mostTraces {
				continue
			}
			t = &keptTrace{root: -1}
			s.traces[id] = t
		}
		t.add(span)
	}
	return nil
}

// Shutdown does nothing: what was kept may still be looked at.
func (s *traceStore) Shutdown(context.Context) error { return nil }

func (t *keptTrace) add(s sdktrace.ReadOnlySpan) {
	t.seen = s.EndTime()
	if s.SpanKind() == trace.SpanKindServer {
		t.calls++
	}
	root := !s.Parent().SpanID().IsValid()
	if len(t.spans) >= mostSpans && !root {
		t.dropped++
		return
	}
	if root {
		t.root = len(t.spans)
	}
	kept := keep(s)
	n, _ := kept.Attributes["hopbound.attempts"].(int64)
	t.most = max(t.most, n)
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

// summary is a line of the page's list of requests.
type summary struct {
	ID       string `json:"id"`
	Began    int64  `json:"began"`
	Took     int64  `json:"took"`
	Failed   bool   `json:"failed"`
	Calls    int    `json:"calls"`
	Attempts int64  `json:"attempts"` // the most of any call; 0 if nobody tells
	Sort     string `json:"sort"`     // plain, repeated or failed
}

// summaries returns the requests to choose from, the last first, and forgets all
// others.
func (s *traceStore) summaries(now time.Time) []summary {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []summary
	for id, t := range s.traces {
		switch {
		case t.root >= 0 && t.spans[t.root].Name != requestSpan: // an order, which is not shown
			if now.Sub(t.seen) > spansComeAfter {
				delete(s.traces, id)
			}
		case t.root < 0:
			if now.Sub(t.seen) > tracePatience {
				delete(s.traces, id)
			}
		case now.Sub(t.seen) > spansComeAfter:
			all = append(all, t.summary(id, s.depth))
		}
	}
	slices.SortFunc(all, func(a, b summary) int { return cmp.Or(cmp.Compare(b.Began, a.Began), cmp.Compare(a.ID, b.ID)) })
	kept := map[string]int{}
	return slices.DeleteFunc(all, func(m summary) bool {
		kept[m.Sort]++
		if kept[m.Sort] <= keptOfEach {
			return false
		}
		id, _ := trace.TraceIDFromHex(m.ID) // it was made of one
		delete(s.traces, id)
		return true
	})
}

func (t *keptTrace) summary(id trace.TraceID, depth int) summary {
	root := t.spans[t.root]
	m := summary{ID: id.String(), Began: root.Began, Took: root.Took, Failed: root.Failed, Calls: t.calls, Attempts: t.most, Sort: "plain"}
	switch {
	case t.calls > depth:
		m.Sort = "repeated"
	case root.Failed:
		m.Sort = "failed"
	}
	return m
}

// spans returns the spans of a trace, and how many more there were.
func (s *traceStore) spans(id trace.TraceID) (spans []keptSpan, dropped int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.traces[id]
	if t == nil {
		return nil, 0, false
	}
	return slices.Clone(t.spans), t.dropped, true
}
