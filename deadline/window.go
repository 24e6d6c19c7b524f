package deadline

import "time"

// span is how long a smallest value is remembered, at least half of it and at
// most all of it, in two halves, as LEDBAT keeps its base delays.
const span = time.Minute

// smallest remembers the smallest of the values seen lately, with the times
// they were seen at. It is not safe for concurrent use.
type smallest struct {
	begun    time.Duration // when the current half began
	current  sample
	previous sample
}

type sample struct {
	value time.Duration
	at    time.Duration
	seen  bool
}

// rotate begins a new half when the current one is over.
func (s *smallest) rotate(now time.Duration) {
	const half = span / 2
	age := now - s.begun
	switch {
	case age < half:
		return
	case age < span && s.current.seen:
		s.previous = s.current
	default:
		s.previous = sample{}
	}
	s.current = sample{}
	s.begun = now
}

// add takes in a value. A value replaces the smallest of the current half if it
// is no larger by more than the half's value may have drifted since.
func (s *smallest) add(now, value time.Duration, drift func(age time.Duration) time.Duration) {
	s.rotate(now)
	if !s.current.seen || value <= s.current.value+drift(now-s.current.at) {
		s.current = sample{value: value, at: now, seen: true}
	}
}

// get returns the smallest value, or false if none has been seen lately.
func (s *smallest) get(now time.Duration) (time.Duration, bool) {
	s.rotate(now)
	switch {
	case !s.previous.seen:
		return s.current.value, s.current.seen
	case !s.current.seen:
		return s.previous.value, true
	default:
		return min(s.previous.value, s.current.value), true
	}
}

// steady is the drift of values that are measured on one clock.
func steady(time.Duration) time.Duration { return 0 }
