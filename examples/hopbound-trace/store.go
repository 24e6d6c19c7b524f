package main

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// store keeps the spans that may be shown.
type store struct {
	prefix  string // of the ids of the traces to keep
	room    int    // bytes of further spans
	read    int    // spans of all traces
	leftOut int    // spans that had no room
	traces  map[string]*request
	known   map[spanKey]*tree.Span
}

// request is a trace.
type request struct {
	spans   []*tree.Span
	leftOut int // spans that had no room
}

// spanKey is what a span is known by. In some systems a call has one id at its
// client and its server.
type spanKey struct {
	trace, id string
	kind      tree.Kind
}

func newStore(prefix string, room int) *store {
	return &store{prefix: strings.ToLower(prefix), room: room, traces: map[string]*request{}, known: map[spanKey]*tree.Span{}}
}

var (
	errNoRoom  = errors.New("this span and those after it: there is no room for more (-trace keeps only the spans of one request)")
	errOtherID = errors.New("span: another one has its id")
)

// add reports whether it keeps a span. It keeps none of other traces, nor one that
// is known, as some backends write spans twice. Once there is no room, it keeps no
// span at all, so that what is kept is the beginning of the input.
func (s *store) add(span *tree.Span) (bool, error) {
	s.read++
	if !strings.HasPrefix(span.Trace, s.prefix) {
		return false, nil
	}
	key := spanKey{span.Trace, span.ID, span.Kind}
	if known := s.known[key]; known != nil {
		again := *span
		again.Service = known.Service // which may be read later
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

// choose returns the id of the only trace with the prefix or, without a prefix, of
// the trace with the most calls.
func (s *store) choose() (string, error) {
	if s.prefix != "" && len(s.traces) > 1 {
		return "", fmt.Errorf("%d traces have an id that begins with %q", len(s.traces), s.prefix)
	}
	best, most := "", 0
	for id, req := range s.traces {
		if n := served(req.spans); n > most || n == most && id < best {
			best, most = id, n
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

// served returns how many calls servers got, or how many spans there are of a
// trace that has none of a server.
func served(spans []*tree.Span) int {
	n := 0
	for _, s := range spans {
		if s.Kind == tree.Server {
			n++
		}
	}
	return cmp.Or(n, len(spans))
}

// sizeOf returns about how many bytes of memory a span takes, with its places in
// maps and slices.
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
