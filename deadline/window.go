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
	seen  int // values in this half, of which this is the smallest
}

// rotate begins a new half when the current one is over.
func (s *smallest) rotate(now time.Duration) {
	const half = span / 2
	age := now - s.begun
	switch {
	case age < half:
		return
	case age < span && s.current.seen > 0:
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
	if s.current.seen == 0 || value <= s.current.value+drift(now-s.current.at) {
		s.current.value, s.current.at = value, now
	}
	s.current.seen++
}

// get returns the smallest value and of how many it is, none if none has been
// seen lately.
func (s *smallest) get(now time.Duration) (value time.Duration, of int) {
	s.rotate(now)
	value = s.current.value
	if s.current.seen == 0 || s.previous.seen > 0 && s.previous.value < value {
		value = s.previous.value
	}
	return value, s.current.seen + s.previous.seen
}

// steady is the drift of values that are measured on one clock.
func steady(time.Duration) time.Duration { return 0 }
