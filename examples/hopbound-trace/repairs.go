package main

import (
	"fmt"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// repairs counts the calls that succeeded because a failed attempt was retried.
type repairs struct {
	calls    int
	attempts int   // failed attempts of these calls
	codes    tally // of these attempts
}

// add counts the spans of one request.
func (r *repairs) add(spans []*tree.Span) {
	repaired := map[string]bool{} // calls by id; true if a failed attempt has been counted
	for _, s := range spans {
		if n, _ := s.Int("hopbound.attempts"); n > 1 && s.IsCall() && !s.Failed {
			repaired[s.ID] = false
		}
	}
	if len(repaired) == 0 {
		return
	}
	for _, s := range spans {
		counted, ok := repaired[s.Parent]
		if !ok || !s.IsAttempt() || !s.Failed || s.IsLost() {
			continue
		}
		if !counted {
			repaired[s.Parent] = true
			r.calls++
		}
		r.attempts++
		r.codes.add(s.Status())
	}
}

// String returns a sentence, or the empty string if nothing was repaired.
func (r *repairs) String() string {
	if r.calls == 0 {
		return ""
	}
	return fmt.Sprintf("%s succeeded after %s (%s)", tree.Plural(int64(r.calls), "call"), tree.Plural(int64(r.attempts), "failed attempt"), r.codes.String())
}
