package main

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// store keeps spans.
type store struct {
	prefix  string // of the ids of the traces to keep
	room    int    // bytes left for further spans
	read    int    // spans of all traces
	leftOut int    // spans for which there was no room
	traces  map[string]*request
	known   map[spanKey]*tree.Span
}

// request is the trace of a request.
type request struct {
	spans   []*tree.Span
	leftOut int // spans for which there was no room
}

// spanKey identifies a span. It contains the kind, because some systems use one id for a call at its client and
// at its server.
type spanKey struct {
	trace, id string
	kind      tree.Kind
}

func newStore(prefix string, room int) *store {
	return &store{prefix: strings.ToLower(prefix), room: room, traces: map[string]*request{}, known: map[spanKey]*tree.Span{}}
}

var (
	errNoRoom  = errors.New("this span and the following ones: the limit for all spans is reached (-trace keeps only the spans of one request)")
	errOtherID = errors.New("span: another span has the same id")
)

// add adds a span, and reports whether it has kept it. It ignores spans of other traces, and a span that it
// already has, because some backends write spans twice. Once there was no room for a span, add keeps no further
// one, so that the store has the beginning of the input.
func (s *store) add(span *tree.Span) (bool, error) {
	s.read++
	if !strings.HasPrefix(span.Trace, s.prefix) {
		return false, nil
	}
	key := spanKey{span.Trace, span.ID, span.Kind}
	if known := s.known[key]; known != nil {
		again := *span
		again.Service = known.Service // a service may be read after the span
		if !reflect.DeepEqual(known, &again) {
			return false, errOtherID
		}
		return false, nil
	}
	req := s.traces[span.Trace]
	size := sizeOf(span)
	if s.leftOut > 0 || size > s.room {
		s.leftOut++
		if req != nil {
			req.leftOut++
		}
		return false, errNoRoom
	}
	s.room -= size
	if req == nil {
		req = &request{}
		s.traces[span.Trace] = req
	}
	req.spans = append(req.spans, span)
	s.known[key] = span
	return true, nil
}

// choose returns the id of the trace with the prefix, which must be the only one, or of the trace with the most
// calls if there is no prefix.
func (s *store) choose() (string, error) {
	if s.prefix != "" && len(s.traces) > 1 {
		return "", fmt.Errorf("%d traces have an id that begins with %q", len(s.traces), s.prefix)
	}
	best, maxServed := "", 0
	for id, req := range s.traces {
		if n := served(req.spans); n > maxServed || n == maxServed && id < best {
			best, maxServed = id, n
		}
	}
	switch {
	case s.read == 0:
		return "", errors.New("there are no spans")
	case best == "":
		return "", fmt.Errorf("no trace has an id that begins with %q", s.prefix)
	}
	return best, nil
}

// served returns the number of server spans, or of all spans if there are no server spans.
func served(spans []*tree.Span) int {
	n := 0
	for _, s := range spans {
		if s.Kind == tree.Server {
			n++
		}
	}
	return cmp.Or(n, len(spans))
}

// sizeOf estimates the bytes of memory that a span needs, including its entries in maps and slices.
func sizeOf(s *tree.Span) int {
	size := 600 + len(s.Name) + attributesSize(s.Attributes)
	for _, e := range s.Events {
		size += 100 + len(e.Name) + attributesSize(e.Attributes)
	}
	return size
}

func attributesSize(attributes map[string]any) int {
	if len(attributes) == 0 {
		return 0
	}
	size := 350
	for key, value := range attributes {
		text, _ := value.(string)
		size += 100 + len(key) + len(text)
	}
	return size
}
