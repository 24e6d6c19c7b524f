package tree

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"google.golang.org/genproto/googleapis/rpc/code"
)

// Span is a span of any source.
type Span struct {
	Trace, ID, Parent string // Parent is empty for a root
	Name, Service     string
	Kind              Kind
	Began, Ended      time.Time
	Failed            bool
	Message           string         // of the status
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

// millis returns the attribute with a name as a duration. The attribute is a number of milliseconds. Some formats
// write whole numbers as integers.
func millis(attributes map[string]any, name string) (time.Duration, bool) {
	switch ms := attributes[name].(type) {
	case float64:
		return time.Duration(ms * float64(time.Millisecond)), true
	case int64:
		return time.Duration(float64(ms) * float64(time.Millisecond)), true
	}
	return 0, false
}

// IsAttempt reports whether the span is an attempt that Hopbound made. A server's span also has the number of
// an attempt, but is none.
func (s *Span) IsAttempt() bool {
	_, ok := s.Int("hopbound.attempt")
	return ok && s.Kind != Server
}

const callPrefix = "hopbound.call "

// IsCall reports whether the span is a call, whose children are its attempts.
func (s *Span) IsCall() bool {
	_, ok := s.Int("hopbound.attempts")
	return ok || strings.HasPrefix(s.Name, callPrefix) && s.Kind == Other
}

// IsLost reports whether the span is an attempt that was cancelled because another one answered first.
func (s *Span) IsLost() bool {
	return s.Text("hopbound.decision") == "hedge_lost" || s.Text("hopbound.hedge") == "lost"
}

// Code returns the gRPC code of the span, such as "UNAVAILABLE", or the empty string if it has none.
func (s *Span) Code() string {
	if text := cmp.Or(s.Text("rpc.response.status_code"), s.Text("rpc.grpc.status_code")); text != "" {
		return text
	}
	n, ok := s.Int("rpc.grpc.status_code") // older conventions have the number
	if !ok {
		return ""
	}
	return cmp.Or(code.Code_name[int32(min(max(n, -1), 1<<20))], strconv.FormatInt(n, 10))
}

// Status returns the gRPC code of the span or, if it has none, whether it failed.
func (s *Span) Status() string {
	if code := s.Code(); code != "" {
		return code
	}
	if s.Failed {
		return "failed"
	}
	return "ended"
}

// Method returns the name of the span without a prefix and without the package of a gRPC service, such as Cart/Pay.
func (s *Span) Method() string {
	name := strings.TrimPrefix(s.Name, callPrefix)
	for _, prefix := range [...]string{"Sent.", "Attempt.", "Recv."} { // grpc-go's own tracing writes Recv.shop.v1.Cart.Pay
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			parts := strings.Split(rest, ".")
			return strings.Join(parts[max(0, len(parts)-2):], "/")
		}
	}
	service, method, ok := strings.Cut(name, "/")
	if !ok || strings.ContainsAny(name, " :") {
		return name
	}
	return service[strings.LastIndexByte(service, '.')+1:] + "/" + method
}

// Order sorts spans by their start time. It sorts attempts with the same start time by their number.
func Order(spans []*Span) {
	slices.SortStableFunc(spans, func(a, b *Span) int {
		n, _ := a.Int("hopbound.attempt")
		m, _ := b.Int("hopbound.attempt")
		return cmp.Or(a.Began.Compare(b.Began), cmp.Compare(n, m), cmp.Compare(a.ID, b.ID), cmp.Compare(b.Kind, a.Kind))
	})
}

// Printable replaces the characters of a text that could control a terminal, because spans may contain anything.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}

// Round rounds a duration to what is worth reading.
func Round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// Plural returns a number with its noun, which gets an s unless the number is 1.
func Plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
