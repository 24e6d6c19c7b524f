package tree

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// line returns the line of a node, without its note.
func (n *node) line() string {
	if n.event != nil {
		return n.eventText()
	}
	s := n.span
	var parts []string
	switch {
	case s.IsAttempt():
		number, _ := s.Int("hopbound.attempt")
		parts = append(parts, fmt.Sprintf("attempt %d: %s%s after %v", number, prefixed(s.decision()), s.Status(), n.duration()))
	case s.IsCall():
		attempts := ""
		if number, ok := s.Int("hopbound.attempts"); ok {
			attempts = Plural(number, "attempt") + " and "
		}
		parts = append(parts, fmt.Sprintf("call of %s to %s: %s%s after %s%v", s.Service, s.Method(), prefixed(s.decision()), s.Status(), attempts, n.duration()))
	case s.Kind == Server && n.parent != nil && n.parent.span.IsAttempt() && s.hasHopbound():
		parts = append(parts, fmt.Sprintf("%s: %s after %v", s.Service, s.Status(), n.duration()))
	default:
		kind := map[Kind]string{Client: "client ", Server: "server "}[s.Kind]
		parts = append(parts, fmt.Sprintf("%s: %s%s: %s after %v", s.Service, kind, s.Method(), s.Status(), n.duration()))
	}
	return strings.Join(append(parts, n.details()...), "; ")
}

func (n *node) duration() time.Duration { return Round(n.span.Ended.Sub(n.span.Began)) }

// prefixed returns a decision as the beginning of a list.
func prefixed(decision string) string {
	if decision == "" {
		return ""
	}
	return decision + ", "
}

// decision returns the decision of an attempt or a call, with its reason.
func (s *Span) decision() string {
	decision := s.Text("hopbound.decision")
	if reason := s.Text("hopbound.reason"); reason != "" {
		decision += " (" + reason + ")"
	}
	return decision
}

func (s *Span) hasHopbound() bool {
	for name := range s.Attributes {
		if strings.HasPrefix(name, "hopbound.") {
			return true
		}
	}
	return false
}

// details returns what a line says after the duration. It leaves out what the span has no attribute for.
func (n *node) details() []string {
	s := n.span
	var parts []string
	lent, hasLent := s.Int("hopbound.budget.leased")
	used, hasUsed := s.Int("hopbound.budget.used")
	switch {
	case s.IsAttempt():
		if hasLent {
			parts = append(parts, "lent "+Plural(lent, "token"))
		}
		if hasUsed {
			parts = append(parts, Plural(used, "token")+" used below")
		}
		if len(parts) == 2 { //nolint:mnd // they are one part
			parts = []string{strings.Join(parts, ", ")}
		}
	case s.Kind == Server && hasUsed:
		parts = append(parts, Plural(used, "token")+" used here and below")
	}
	if left, ok := millis(s.Attributes, "hopbound.deadline.remaining_ms"); ok {
		parts = append(parts, left.Round(time.Millisecond).String()+" left")
	}
	if queued, ok := millis(s.Attributes, "hopbound.deadline.excess_ms"); ok && queued >= minQueued {
		parts = append(parts, "queued for "+Round(queued).String())
	}
	if hedge := s.Text("hopbound.hedge"); hedge != "" && s.Text("hopbound.decision") != "hedge_lost" {
		parts = append(parts, "hedge "+hedge)
	}
	if outcome := s.Text("hopbound.idempotency.outcome"); outcome != "" {
		parts = append(parts, strings.Join(strings.Fields("key "+s.Text("hopbound.idempotency.key_hash")+" "+outcome), " "))
	}
	if n.correction != 0 && (n.parent == nil || n.parent.correction != n.correction) {
		parts = append(parts, fmt.Sprintf("its clock differs: %v added to its times", Round(n.correction)))
	}
	if s.Text("hopbound.mode") == "observe" && !n.parentHas("hopbound.mode") {
		parts = append(parts, "mode observe")
	}
	if s.Message != "" && !n.repeated() {
		parts = append(parts, fmt.Sprintf("%q", s.Message))
	}
	return parts
}

// minQueued is the shortest time in queues that is printed.
const minQueued = 10 * time.Microsecond

func (n *node) parentHas(attribute string) bool {
	return n.parent != nil && n.parent.span.Text(attribute) != ""
}

// repeated reports whether a span below has the message of this one. A status passes through many spans unchanged,
// and is of interest where it comes from.
func (n *node) repeated() bool {
	for _, below := range n.children {
		if below.event == nil && below.span.Message == n.span.Message {
			return true
		}
	}
	return false
}

// eventText returns the text of an event, or the empty string for an event that is not printed.
func (n *node) eventText() string {
	e := n.event
	text := func(name string) string { v, _ := e.Attributes[name].(string); return v }
	pause, _ := millis(e.Attributes, "hopbound.backoff_ms")
	ms := fmt.Sprintf("%.2f ms", float64(pause)/float64(time.Millisecond))
	switch e.Name {
	case "hopbound.backoff":
		after := ""
		if code := text("rpc.response.status_code"); code != "" {
			after = " after " + code
		}
		return cmp.Or(text("hopbound.reason"), "backoff") + " of " + ms + after
	case "hopbound.hedge":
		return "hedge after " + ms
	case "hopbound.refusal":
		return "refused: " + text("hopbound.reason")
	case "hopbound.malformed":
		return "ignored a malformed " + text("hopbound.header")
	case "hopbound.idempotency.wait":
		return fmt.Sprintf("waits for another call with its key, after %v", Round(e.At.Sub(n.span.Began)))
	case "hopbound.idempotency.store_error":
		return "the store failed: " + text("exception.message")
	}
	return ""
}
