// Package tree prints the spans of a request as a tree of calls and attempts.
package tree

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Span is a span of any source.
type Span struct {
	Trace, ID, Parent string // Parent is empty for a root
	Name, Service     string
	Kind              Kind
	Began, Ended      time.Time
	Failed            bool
	Attributes        map[string]any // strings, int64s, float64s and bools
	Events            []Event        // in the order of their time
}

// Event is an event of a span.
type Event struct {
	Name       string
	At         time.Time
	Attributes map[string]any
}

// Kind is the kind of a span.
type Kind int

// The kinds. Other is any kind that is neither a client's nor a server's.
const (
	Other Kind = iota
	Client
	Server
)

// Text returns the string attribute with a name, or the empty string if there is none.
func (s *Span) Text(name string) string {
	text, _ := s.Attributes[name].(string)
	return text
}

// Int returns the integer attribute with a name, or false if there is none.
func (s *Span) Int(name string) (int64, bool) {
	n, ok := s.Attributes[name].(int64)
	return n, ok
}

// IsAttempt reports whether the span is an attempt that Hopbound made. A server's span also has the number of
// an attempt, but is none.
func (s *Span) IsAttempt() bool {
	_, ok := s.Int("hopbound.attempt")
	return ok && s.Kind != Server
}

// IsCall reports whether the span is a call, whose children are its attempts.
func (s *Span) IsCall() bool {
	_, ok := s.Int("hopbound.attempts")
	return ok
}

// Order sorts spans by their start time. It sorts attempts with the same start time by their number.
func Order(spans []*Span) {
	slices.SortStableFunc(spans, func(a, b *Span) int {
		n, _ := a.Int("hopbound.attempt")
		m, _ := b.Int("hopbound.attempt")
		return cmp.Or(a.Began.Compare(b.Began), cmp.Compare(n, m), cmp.Compare(a.ID, b.ID), cmp.Compare(b.Kind, a.Kind))
	})
}

// MaxDepth is the maximum number of levels of spans that Write prints.
const MaxDepth = 1000

// Write sorts the spans of one trace and prints them as a tree. It prints a span as a root, with a note, if the
// span's parent is missing or if the span is its own ancestor. It returns the number of spans below MaxDepth,
// which it omits. Its cost is that of sorting, even for malformed traces.
func Write(out io.Writer, spans []*Span) (leftOut int, err error) {
	Order(spans)
	t := &tree{out: bufio.NewWriter(out), known: make(map[string]*Span, len(spans)), children: map[string][]*Span{}}
	for _, s := range spans {
		t.known[s.ID] = s
	}
	for _, s := range spans {
		parent := s.Parent
		if t.known[parent] == nil {
			parent = ""
		}
		t.children[parent] = append(t.children[parent], s)
	}
	t.walk("", 0, " (its parent is missing)")
	for _, id := range slices.Sorted(maps.Keys(t.children)) { // spans in circles and below them
		if len(t.children[id]) > 0 {
			first := t.circle(id)
			t.children[first.Parent] = slices.DeleteFunc(t.children[first.Parent], func(s *Span) bool { return s == first })
			t.show(first, 0, " (it is below itself)")
		}
	}
	return t.leftOut, t.out.Flush()
}

type tree struct {
	out      *bufio.Writer // keeps the first error
	known    map[string]*Span
	children map[string][]*Span // sorted; deleted when they are printed
	leftOut  int
}

// circle returns a span of the circle above a span. There is one, because all other spans were printed.
func (t *tree) circle(id string) *Span {
	for seen := map[string]bool{}; !seen[id]; id = t.known[id].Parent {
		seen[id] = true
	}
	return t.known[id]
}

// leaveOut counts all spans below a parent instead of printing them. It does not use recursion, because there
// may be very many levels.
func (t *tree) leaveOut(parent string, depth int) {
	count := 0
	for parents := []string{parent}; len(parents) > 0; {
		last := parents[len(parents)-1]
		parents = parents[:len(parents)-1]
		count += len(t.children[last])
		for _, s := range t.children[last] {
			parents = append(parents, s.ID)
		}
		delete(t.children, last)
	}
	if count > 0 {
		t.printf(depth, "(%s below left out)", Plural(int64(count), "span"))
	}
	t.leftOut += count
}

// maxIndent is the maximum level of indentation.
const maxIndent = 40

// Printable replaces the characters of a text that could control a terminal, because spans may contain anything.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}

// printf prints a line at a depth.
func (t *tree) printf(depth int, format string, args ...any) {
	fmt.Fprintf(t.out, "%s%s\n", strings.Repeat("  ", min(depth, maxIndent)), Printable(fmt.Sprintf(format, args...)))
}

// walk prints the spans below a parent in their order, and a call's events between its attempts. At depth 0, it
// appends orphan to each span that has a parent, which is missing.
func (t *tree) walk(parent string, depth int, orphan string) {
	if depth >= MaxDepth {
		t.leaveOut(parent, depth)
		return
	}
	children := t.children[parent]
	delete(t.children, parent) // so that a circle is printed once
	for _, s := range children {
		note := ""
		if depth == 0 && s.Parent != "" {
			note = orphan
		}
		t.show(s, depth, note)
	}
}

// show prints a span, followed by note, and the spans below it.
func (t *tree) show(s *Span, depth int, note string) {
	t.printf(depth, "%s%s", line(s), note)
	if s.IsCall() {
		t.walkCall(s, depth+1)
		return
	}
	for _, e := range s.Events {
		t.event(s, e, depth+1)
	}
	t.walk(s.ID, depth+1, "")
}

// walkCall prints the attempts and the events of a call in their order.
func (t *tree) walkCall(call *Span, depth int) {
	if depth >= MaxDepth {
		t.leaveOut(call.ID, depth)
	}
	attempts := t.children[call.ID]
	delete(t.children, call.ID)
	events := call.Events
	for _, a := range attempts {
		for len(events) > 0 && before(events[0], a) {
			t.event(call, events[0], depth)
			events = events[1:]
		}
		t.printf(depth, "%s", line(a))
		t.walk(a.ID, depth+1, "")
	}
	for _, e := range events {
		t.event(call, e, depth)
	}
}

// before reports whether an event of a call is printed before an attempt. The event of a hedge is recorded after
// its attempt has started, so it is compared by the attempt's number.
func before(e Event, a *Span) bool {
	if n, ok := e.Attributes["hopbound.attempt"].(int64); ok {
		attempt, _ := a.Int("hopbound.attempt")
		return n <= attempt
	}
	return e.At.Before(a.Began)
}

func (t *tree) event(s *Span, e Event, depth int) {
	text := func(name string) string { v, _ := e.Attributes[name].(string); return v }
	pause, _ := e.Attributes["hopbound.backoff_ms"].(float64)
	switch e.Name {
	case "hopbound.backoff":
		t.printf(depth, "%s of %.2f ms after %s", text("hopbound.reason"), pause, text("rpc.response.status_code"))
	case "hopbound.hedge":
		t.printf(depth, "hedge after %.2f ms", pause)
	case "hopbound.refusal":
		t.printf(depth, "refused: %s", text("hopbound.reason"))
	case "hopbound.malformed":
		t.printf(depth, "ignored a malformed %s", text("hopbound.header"))
	case "hopbound.idempotency.wait":
		t.printf(depth, "waits for another call with its key, after %v", round(e.At.Sub(s.Began)))
	case "hopbound.idempotency.store_error":
		t.printf(depth, "the store failed: %s", text("exception.message"))
	}
}

// line returns the line of a span.
func line(s *Span) string {
	took := round(s.Ended.Sub(s.Began))
	code := cmp.Or(s.Text("rpc.response.status_code"), s.Text("rpc.grpc.status_code"), "?")
	decision := s.Text("hopbound.decision")
	if reason := s.Text("hopbound.reason"); reason != "" {
		decision += " (" + reason + ")"
	}
	left := ""
	if ms, ok := s.Attributes["hopbound.deadline.remaining_ms"].(float64); ok {
		left = fmt.Sprintf("; %v left", time.Duration(ms*float64(time.Millisecond)).Round(time.Millisecond))
	}
	lent, _ := s.Int("hopbound.budget.leased")
	spent, hop := s.Int("hopbound.budget.used")
	used := Plural(spent, "token")
	switch {
	case s.IsAttempt():
		n, _ := s.Int("hopbound.attempt")
		return fmt.Sprintf("attempt %d: %s, %s after %v; lent %s, %s used below%s", n, decision, code, took,
			Plural(lent, "token"), used, left)
	case s.IsCall():
		n, _ := s.Int("hopbound.attempts")
		return fmt.Sprintf("call of %s: %s, %s after %s and %v", s.Service, decision, code, Plural(n, "attempt"), took)
	case s.Kind == Server && hop:
		key := ""
		if outcome := s.Text("hopbound.idempotency.outcome"); outcome != "" {
			key = fmt.Sprintf("; key %s %s", s.Text("hopbound.idempotency.key_hash"), outcome)
		}
		return fmt.Sprintf("%s: %s after %v; %s used here and below%s%s", s.Service, code, took, used, left, key)
	default:
		kind := map[Kind]string{Client: "client ", Server: "server "}[s.Kind]
		if code == "?" {
			code = map[bool]string{true: "failed", false: "ended"}[s.Failed]
		}
		return fmt.Sprintf("%s: %s%s: %s after %v", s.Service, kind, s.Name, code, took)
	}
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// Plural returns a number with its noun, which gets an s unless the number is 1.
func Plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
