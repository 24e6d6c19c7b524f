package deadline

import (
	"sync"
	"time"
)

// Reserve learns how long a reply from one target needs to come back: the
// smallest round trip of the last minute, less the time spent in the server.
// The sender takes it off the deadline that it tells the callee, but not off
// its own. It is safe for concurrent use, and the zero value has learned
// nothing.
type Reserve struct {
	mu      sync.Mutex
	transit smallest
}

// Learn takes in a reply: how long the attempt took, and how much of that was
// spent in the server by its own account.
func (r *Reserve) Learn(now, roundTrip, server time.Duration) {
	if roundTrip < 0 || server < 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.transit.add(now, max(0, roundTrip-server), steady)
}

// Get returns what has been learned in the last minute, or zero. One reply
// teaches nothing yet: it may have had to wait for the connection.
func (r *Reserve) Get(now time.Duration) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	d, of := r.transit.get(now)
	if of < 2 {
		return 0
	}
	return d
}

// ClampReserve returns the part of a reserve that may be taken off a call with the
// given time remaining: at most a fifth, and never less than nothing.
func ClampReserve(reserve, remaining time.Duration) time.Duration {
	return max(0, min(reserve, remaining/5))
}
