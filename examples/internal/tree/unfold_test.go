package tree

import "testing"

// The decision of an attempt whose span is another library's comes from the event of its call.
func TestFoldedAttemptsGetTheirEnds(t *testing.T) {
	t.Parallel()
	call := &Span{ID: "1", Name: "hopbound.call m", Events: []Event{
		{Name: "hopbound.backoff"},
		{Name: "hopbound.attempt", Attributes: map[string]any{"hopbound.attempt": int64(1), "hopbound.decision": "retried"}},
		{Name: "hopbound.attempt", Attributes: map[string]any{"hopbound.attempt": int64(2), "hopbound.decision": "done"}},
	}}
	first := &Span{ID: "2", Parent: "1", Kind: Client, Attributes: map[string]any{"hopbound.attempt": int64(1), "hopbound.budget.leased": int64(5)}}
	second := &Span{ID: "3", Parent: "1", Kind: Client, Attributes: map[string]any{"hopbound.attempt": int64(2)}}
	server := &Span{ID: "4", Parent: "3", Kind: Server, Attributes: map[string]any{"hopbound.attempt": int64(2)}}
	for range 2 { // the second time changes nothing
		Unfold([]*Span{server, first, second, call})
		if first.Text("hopbound.decision") != "retried" || second.Text("hopbound.decision") != "done" || server.Text("hopbound.decision") != "" {
			t.Errorf("%v, %v, %v", first.Attributes, second.Attributes, server.Attributes)
		}
		if n, _ := first.Int("hopbound.budget.leased"); n != 5 || len(call.Events) != 1 {
			t.Errorf("%v, %d events", first.Attributes, len(call.Events))
		}
	}
}
