// Package tree prints the spans of a request as a tree of its calls and attempts.
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

// Span is a span, wherever it comes from.
type Span struct {
	Trace, ID, Parent string // Parent is empty of a root
	Name, Service     string
	Kind              Kind
	Began, Ended      time.Time
	Failed            bool
	Attributes        map[string]any // strings, int64s, float64s and bools
	Events            []Event        // in the order of their times
}

// Event is an event of a span.
type Event struct {
	Name       string
	At         time.Time
	Attributes map[string]any
}

// Kind is the kind of a span.
type Kind int

// The kinds that matter here.
const (
	Other Kind = iota
	Client
	Server
)

// Text returns an attribute that is a string, or nothing.
func (s *Span) Text(name string) string {
	text, _ := s.Attributes[name].(string)
	return text
}

// Int returns an attribute that is a whole number, and whether there is one.
func (s *Span) Int(name string) (int64, bool) {
	n, ok := s.Attributes[name].(int64)
	return n, ok
}

// IsAttempt reports whether the span is an attempt of Hopbound's. A server's span
// tells the number of its attempt too.
func (s *Span) IsAttempt() bool {
	_, ok := s.Int("hopbound.attempt")
	return ok && s.Kind != Server
}

// IsCall reports whether the span is a call with all its attempts.
func (s *Span) IsCall() bool {
	_, ok := s.Int("hopbound.attempts")
	return ok
}

// Order sorts spans by the time at which they began, and those of the same time by
// their number as attempts.
func Order(spans []*Span) {
	slices.SortStableFunc(spans, func(a, b *Span) int {
		n, _ := a.Int("hopbound.attempt")
		m, _ := b.Int("hopbound.attempt")
		return cmp.Or(a.Began.Compare(b.Began), cmp.Compare(n, m), cmp.Compare(a.ID, b.ID), cmp.Compare(b.Kind, a.Kind))
	})
}

// MaxDepth is how many levels of spans Write prints.
const MaxDepth = 1000

// Write sorts the spans of one trace, and prints them as a tree. Spans whose parent
// is not among them, or that are below themselves, are printed as roots, and marked.
// It returns how many spans, deeper than MaxDepth, it leaves out. Its cost is that of
// sorting, however the spans refer to each other.
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
	for _, id := range slices.Sorted(maps.Keys(t.children)) { // circles, and what is below them
		if len(t.children[id]) > 0 {
			first := t.circle(id)
			t.children[first.Parent] = slices.DeleteFunc(t.children[first.Parent], func(s *Span) bool { return s == first })
			t.show(first, 0, " (it is below itself)")
		}
	}
	return t.leftOut, t.out.Flush()
}

type tree struct {
	out      *bufio.Writer // which keeps the first error
	known    map[string]*Span
	children map[string][]*Span // in their order, until they are printed
	leftOut  int
}

// circle returns a span of the circle that is above a span. There is one, as all
// other spans have been printed.
func (t *tree) circle(id string) *Span {
	for seen := map[string]bool{}; !seen[id]; id = t.known[id].Parent {
		seen[id] = true
	}
	return t.known[id]
}

// leaveOut counts all spans below a parent instead of printing them. There may be
// more levels of them than a stack has room for.
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

// mostIndented is how deep a tree is drawn; below, lines are not indented further.
const mostIndented = 40

// Printable returns a text without what would control a terminal: what comes from
// spans may be anything.
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
	fmt.Fprintf(t.out, "%s%s\n", strings.Repeat("  ", min(depth, mostIndented)), Printable(fmt.Sprintf(format, args...)))
}

// walk prints the spans below a parent, in the order in which they began, and the
// events of a call between its attempts. At depth 0, orphan is said of those that
// have another parent.
func (t *tree) walk(parent string, depth int, orphan string) {
	if depth >= MaxDepth {
		t.leaveOut(parent, depth)
		return
	}
	children := t.children[parent]
	delete(t.children, parent) // so that a circle ends
	for _, s := range children {
		said := ""
		if depth == 0 && s.Parent != "" {
			said = orphan
		}
		t.show(s, depth, said)
	}
}

// show prints a span, with said after it, and the spans below it.
func (t *tree) show(s *Span, depth int, said string) {
	t.printf(depth, "%s%s", line(s), said)
	if s.IsCall() {
		t.walkCall(s, depth+1)
		return
	}
	for _, e := range s.Events {
		t.event(s, e, depth+1)
	}
	t.walk(s.ID, depth+1, "")
}

// walkCall prints the attempts of a call with the events where they were.
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

// before reports whether an event of a call is told of before an attempt. That of
// a hedge comes when its attempt has begun already.
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
		t.printf(depth, "another attempt beside it, after %.2f ms", pause)
	case "hopbound.refusal":
		t.printf(depth, "refused: %s", text("hopbound.reason"))
	case "hopbound.malformed":
		t.printf(depth, "ignored: a malformed %s", text("hopbound.header"))
	case "hopbound.idempotency.wait":
		t.printf(depth, "waits for another call with its key, after %v", round(e.At.Sub(s.Began)))
	case "hopbound.idempotency.store_error":
		t.printf(depth, "the store failed: %s", text("exception.message"))
	}
}

// line is what there is to say of a span.
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
	leased, _ := s.Int("hopbound.budget.leased")
	spent, hop := s.Int("hopbound.budget.used")
	used := Plural(spent, "token")
	switch {
	case s.IsAttempt():
		n, _ := s.Int("hopbound.attempt")
		return fmt.Sprintf("attempt %d: %s, %s after %v; leased %s, %s used below%s", n, decision, code, took,
			Plural(leased, "token"), used, left)
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

// Plural returns how many there are of a noun.
func Plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
