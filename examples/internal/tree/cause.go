package tree

import "fmt"

// Cause says in a sentence where a failed request failed first: at the deepest failed span that can be reached from
// the root by failed spans, each the last one below the one before. It returns the empty string if the request did
// not fail.
func (t *Tree) Cause() string {
	if t.failed == nil {
		return ""
	}
	var n, call *node
	for next := t.failed; next != nil; next = n.failedBelow() {
		n = next
		if n.span.IsCall() && len(n.children) > 0 {
			call = n
		}
	}
	return n.failure() + call.givenUp()
}

// failedBelow returns the node below a failed node whose failure was probably the reason: the one that ended last.
// Servers do not count some codes as failures; such a server is the reason if its caller has the same code.
func (n *node) failedBelow() *node {
	var last *node
	for _, below := range n.children {
		if below.event != nil || below.span.IsLost() {
			continue
		}
		code := below.span.Code()
		if !below.span.Failed && (code == "" || code == "OK" || code != n.span.Code()) {
			continue
		}
		if last == nil || below.ended >= last.ended {
			last = below
		}
	}
	return last
}

// failure describes the failure of a node.
func (n *node) failure() string {
	s := n.span
	message := ""
	if text := n.message(); text != "" {
		message = fmt.Sprintf(" %q", text)
	}
	switch {
	case s.Kind == Server:
		return fmt.Sprintf("%s answered %s with %s%s.", s.service(), s.Method(), s.Status(), message)
	case s.IsCall():
		return fmt.Sprintf("the call of %s to %s ended with %s%s%s.", s.service(), s.Method(), s.Status(), message, n.refusal())
	case s.IsAttempt() || s.Kind == Client:
		which := "the call"
		if number, ok := s.Int("hopbound.attempt"); ok {
			which = fmt.Sprintf("attempt %d", number)
		}
		missing := ""
		if n.below(Server) == nil {
			missing = "; the server it called has no span"
		}
		return fmt.Sprintf("%s of %s to %s ended with %s%s%s.", which, s.service(), s.Method(), s.Status(), message, missing)
	default:
		return fmt.Sprintf("%s: %s ended with %s%s.", s.service(), s.Name, s.Status(), message)
	}
}

// message returns the message of a node's status. A server that does not count the code as a failure has none, but
// its caller has.
func (n *node) message() string {
	if s := n.span; s.Message != "" || s.Kind != Server || n.parent == nil || n.parent.span.Code() != s.Code() {
		return s.Message
	}
	return n.parent.span.Message
}

// refusal says why a call was not made, if it was not.
func (n *node) refusal() string {
	for _, below := range n.children {
		if below.event != nil && below.event.Name == "hopbound.refusal" {
			return ", " + below.eventText()
		}
	}
	return ""
}

// givenUp says how a call ended whose attempts failed.
func (n *node) givenUp() string {
	if n == nil {
		return ""
	}
	attempts, ok := n.span.Int("hopbound.attempts")
	if !ok || attempts == 0 {
		return ""
	}
	text := fmt.Sprintf(" %s made %s", n.span.service(), Plural(attempts, "attempt"))
	if decision := n.span.decision(); decision != "" {
		text += ": " + decision
	}
	return text + "."
}
