package tree_test

import (
	"testing"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

func failed(s *tree.Span, code, message string) *tree.Span {
	s.Failed, s.Message = true, message
	s.Attributes["rpc.response.status_code"] = code
	return s
}

func TestCauseIsTheDeepestFailure(t *testing.T) {
	t.Parallel()
	call := func() *tree.Span {
		return failed(span("call", "", tree.Other, 0, 100, "hopbound.attempts", int64(2), "hopbound.decision", "exhausted"), "UNAVAILABLE", "full")
	}
	first := failed(span("1", "call", tree.Client, 0, 10, "hopbound.attempt", int64(1)), "ABORTED", "other")
	second := failed(span("2", "call", tree.Client, 50, 100, "hopbound.attempt", int64(2)), "UNAVAILABLE", "full")
	refused := failed(span("call", "", tree.Other, 0, 1, "hopbound.attempts", int64(0)), "DEADLINE_EXCEEDED", "")
	refused.Events = []tree.Event{{
		Name: "hopbound.refusal", At: at(0), Attributes: map[string]any{"hopbound.reason": "DEADLINE_UNREACHABLE"},
	}}
	for name, tc := range map[string]struct {
		spans []*tree.Span
		want  string
	}{
		"a server": {
			[]*tree.Span{call(), first, second, failed(span("3", "2", tree.Server, 60, 90), "UNAVAILABLE", "full")},
			`service 3 answered Cart/Pay with UNAVAILABLE "full". service call made 2 attempts: exhausted.`,
		},
		"a server that does not count the code as a failure": {
			[]*tree.Span{call(), second, span("3", "2", tree.Server, 60, 90, "rpc.response.status_code", "UNAVAILABLE")},
			`service 3 answered Cart/Pay with UNAVAILABLE "full". service call made 2 attempts: exhausted.`,
		},
		"a server that was not reached": {
			[]*tree.Span{call(), first, second},
			`attempt 2 of service 2 to Cart/Pay ended with UNAVAILABLE "full"; the server it called has no span. service call made 2 attempts: exhausted.`,
		},
		"a call that was not made": {
			[]*tree.Span{refused}, "the call of service call to Cart/Pay ended with DEADLINE_EXCEEDED, refused: DEADLINE_UNREACHABLE.",
		},
		"a request that succeeded": {[]*tree.Span{span("call", "", tree.Other, 0, 100, "hopbound.attempts", int64(1)), first}, ""},
		"no spans":                 {nil, ""},
	} {
		got := tree.New(tc.spans).Cause()
		if got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}
