package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// store keeps spans, packed. Its memory is bounded by its room.
type store struct {
	prefix  string // of the ids of the traces to keep
	room    int    // bytes left for further spans
	read    int    // spans of all traces
	leftOut int    // spans for which there was no room

	requests []request // in the order of their first span
	numbers  map[requestID]uint32
	known    map[spanKey]place
	arena    arena
	packer   packer
	services texts // the first one is no name
	packed   []byte
}

type requestID [16]byte

// request is the trace of a request.
type request struct {
	id          requestID
	first, last place
	leftOut     uint32 // spans for which there was no room
}

func (r *request) name() string { return hex.EncodeToString(r.id[:]) }

// spanKey identifies a span. It contains the kind, because some systems use one id for a call at its client and
// at its server.
type spanKey struct {
	id      uint64
	request uint32
	kind    uint8
}

// The estimated bytes of a request and of a span, besides the packed span, with their entries in maps.
const (
	requestSize = 160
	spanSize    = headerSize + 56
)

func newStore(prefix string, room int) *store {
	s := &store{prefix: strings.ToLower(prefix), room: room, numbers: map[requestID]uint32{}, known: map[spanKey]place{}}
	s.services.number("")
	return s
}

var (
	errNoRoom  = errors.New("this span and the following ones: the limit for all spans is reached (-trace keeps only the spans of one request)")
	errOtherID = errors.New("span: another span has the same id")
)

// add adds a span. It ignores spans of other traces, and a span that it already has, because some backends write
// spans twice. Once there was no room for a span, add keeps no further one, so that the store has the beginning of
// the input.
func (s *store) add(span *tree.Span) error {
	s.read++
	if !strings.HasPrefix(span.Trace, s.prefix) {
		return nil
	}
	var id requestID
	_, _ = hex.Decode(id[:], []byte(span.Trace))
	number, seen := s.numbers[id]
	if !seen {
		number = uint32(len(s.requests)) //nolint:gosec // there is less room
	}
	before := s.packer.size
	s.packed = s.packer.pack(s.packed[:0], span)
	s.room -= s.packer.size - before
	key := spanKey{idNumber(span.ID), number, uint8(span.Kind)} //nolint:gosec // there are three kinds
	if known := s.known[key]; known != 0 {
		if !bytes.Equal(s.arena.packed(known), s.packed) {
			return errOtherID
		}
		return nil
	}
	size := len(s.packed) + spanSize
	if !seen {
		size += requestSize
	}
	if s.leftOut > 0 || size > s.room {
		return s.leaveOut(number, seen)
	}
	at, ok := s.arena.add(header{service: s.service(span.Service)}, s.packed)
	if !ok {
		return s.leaveOut(number, seen)
	}
	s.room -= size
	s.known[key] = at
	s.link(id, number, at)
	return nil
}

func (s *store) leaveOut(number uint32, seen bool) error {
	s.leftOut++
	if seen {
		s.requests[number].leftOut++
	}
	return errNoRoom
}

// link appends a span to those of its request.
func (s *store) link(id requestID, number uint32, at place) {
	if int(number) == len(s.requests) {
		s.numbers[id] = number
		s.requests = append(s.requests, request{id: id, first: at, last: at})
		return
	}
	req := &s.requests[number]
	h := s.arena.header(req.last)
	h.next = at
	s.arena.setHeader(req.last, h)
	req.last = at
}

// service returns the number of a service.
func (s *store) service(name string) uint32 {
	before := len(s.services.list)
	n := s.services.number(name)
	if len(s.services.list) > before {
		s.room -= textSize + len(name)
	}
	return n
}

// mark returns a mark of the spans that are added from now on.
func (s *store) mark() place { return s.arena.end() }

// rename gives other services to the spans that were added since a mark.
func (s *store) rename(since place, name func(service string) string) {
	s.arena.each(since, func(p place) {
		h := s.arena.header(p)
		h.service = s.service(name(s.services.list[h.service]))
		s.arena.setHeader(p, h)
	})
}

// spans returns the first spans of a request whose estimated size is at most limit, and how many more there are.
func (s *store) spans(req *request, limit int) (spans []*tree.Span, more int) {
	u := unpacker{list: s.packer.texts.list}
	id := req.name()
	for p := req.first; p != 0; {
		h := s.arena.header(p)
		if limit <= 0 {
			more++
		} else {
			span := u.unpack(s.arena.packed(p))
			span.Trace, span.Service = id, s.services.list[h.service]
			spans = append(spans, span)
			limit -= sizeOf(span)
		}
		p = h.next
	}
	tree.Unfold(spans)
	return spans, more
}

// sizeOf estimates the bytes of memory that a span and its place in a tree need.
func sizeOf(s *tree.Span) int {
	size := 700 + len(s.Name) + attributesSize(s.Attributes)
	for _, e := range s.Events {
		size += 300 + len(e.Name) + attributesSize(e.Attributes)
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
