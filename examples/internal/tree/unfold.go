package tree

import "maps"

// Unfold gives attempts whose spans are those of another library what is known of their ends: the attributes
// of the event hopbound.attempt of their call. It removes these events.
func Unfold(spans []*Span) {
	type key struct {
		call   string
		number int64
	}
	ends := map[key]map[string]any{}
	for _, s := range spans {
		kept := s.Events[:0:0]
		for _, e := range s.Events {
			number, ok := e.Attributes["hopbound.attempt"].(int64)
			if e.Name != "hopbound.attempt" || !ok {
				kept = append(kept, e)
				continue
			}
			ends[key{s.ID, number}] = e.Attributes
		}
		if len(kept) < len(s.Events) {
			s.Events = kept
		}
	}
	if len(ends) == 0 {
		return
	}
	for _, s := range spans {
		number, ok := s.Int("hopbound.attempt")
		end := ends[key{s.Parent, number}]
		if !ok || s.Kind == Server || end == nil {
			continue
		}
		merged := maps.Clone(end)
		maps.Copy(merged, s.Attributes)
		s.Attributes = merged
	}
}
