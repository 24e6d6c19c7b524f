package deadline

import (
	"sync"
	"time"
)

const (
	// judged is how long a window is over which refusals are counted.
	judged = 10 * time.Second
	// mostRefused is the share of a window's requests that may be refused on
	// what was observed, one in so many. Finagle's DeadlineFilter has the same
	// cap: a safety device that is wrong must not become the outage.
	mostRefused = 5
)

// Floor learns how much time something needs at least: the smallest time of the
// last minute in which it succeeded. A request with less remaining cannot
// finish. One success teaches nothing yet: it may have been slow for being the
// first. At most a fifth of the requests in a window of ten seconds are
// refused for that, so that a method which has become faster is found out. It
// is safe for concurrent use, and the zero value has learned nothing.
type Floor struct {
	mu      sync.Mutex
	fastest smallest
	begun   time.Duration // of the window
	judged  int
	refused int
}

// Learn takes in how long a success took.
func (f *Floor) Learn(now, took time.Duration) {
	if took < 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fastest.add(now, took, steady)
}

// Refuse judges a request with the given time remaining, and reports whether it
// should be refused.
func (f *Floor) Refuse(now, remaining time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now-f.begun >= judged {
		f.begun, f.judged, f.refused = now, 0, 0
	}
	f.judged++
	needed, of := f.fastest.get(now)
	if of < 2 || remaining >= needed || (f.refused+1)*mostRefused > f.judged {
		return false
	}
	f.refused++
	return true
}
