package deadline

import "time"

// halfWindow is half of the window of a windowedMin. A value counts for one to two half-windows, as base
// delays do in LEDBAT.
const halfWindow = 30 * time.Second

// windowedMin keeps the minimum of the values that were added within the window, and the time when each
// half-window's minimum was added. It is not safe for concurrent use.
type windowedMin struct {
	index    time.Duration // of the current half-window, counted from time zero
	current  sample
	previous sample
}

// sample is the minimum of one half-window.
type sample struct {
	value time.Duration
	at    time.Duration
	seen  int // values in the half-window
}

// rotate starts a new half-window if the current one has ended. Half-windows start at multiples of their
// length, so no value counts for longer than two of them.
func (s *windowedMin) rotate(now time.Duration) {
	index := now / halfWindow
	if index <= s.index {
		return
	}
	s.previous = sample{}
	if index == s.index+1 {
		s.previous = s.current
	}
	s.current = sample{}
	s.index = index
}

// add adds a value. The value replaces the minimum of the current half-window if it is not larger than
// the minimum plus the possible drift since that was added.
func (s *windowedMin) add(now, value time.Duration, drift func(age time.Duration) time.Duration) {
	s.rotate(now)
	if s.current.seen == 0 || value <= s.current.value+drift(now-s.current.at) {
		s.current.value, s.current.at = value, now
	}
	s.current.seen++
}

// get returns the minimum, and how many values were added within the window. If there are none, the
// minimum is 0.
func (s *windowedMin) get(now time.Duration) (value time.Duration, samples int) {
	s.rotate(now)
	value = s.current.value
	if s.current.seen == 0 || s.previous.seen > 0 && s.previous.value < value {
		value = s.previous.value
	}
	return value, s.current.seen + s.previous.seen
}

// noDrift is the drift of values that are measured on one clock.
func noDrift(time.Duration) time.Duration { return 0 }
