package deadline

import "time"

// half is half of the minute for which a smallest value is remembered: at least
// one half and at most two, as LEDBAT keeps its base delays.
const half = 30 * time.Second

// smallest remembers the smallest of the values seen lately, with the times
// they were seen at. It is not safe for concurrent use.
type smallest struct {
	half     time.Duration // the current one, counted from time zero
	current  sample
	previous sample
}

type sample struct {
	value time.Duration
	at    time.Duration
	seen  int // values in this half, of which this is the smallest
}

// rotate begins a new half when the current one is over. Halves begin at whole
// multiples of their length, so that no value is kept for longer than two.
func (s *smallest) rotate(now time.Duration) {
	n := now / half
	if n <= s.half {
		return
	}
	s.previous = sample{}
	if n == s.half+1 {
		s.previous = s.current
	}
	s.current = sample{}
	s.half = n
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
