package deadline

import (
	"sync"
	"time"
)

// Reserve learns how long the request and the reply of a call to one target are on their way: the shortest
// round trip of the last minute, minus the time spent in the server. A client subtracts the reserve from
// the deadline that it sends to the callee, but not from its own. Reserve is safe for concurrent use. The
// zero value has learned nothing.
//
// For transports: a client has one per target.
type Reserve struct {
	mu      sync.Mutex
	transit windowedMin
}

// Learn records a reply: the duration of the attempt, and the part of it that the server spent on the
// call, as the server reports it. now is the time on a monotonic clock. Negative durations are ignored.
func (r *Reserve) Learn(now, roundTrip, server time.Duration) {
	if roundTrip < 0 || server < 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.transit.add(now, max(0, roundTrip-server), noDrift)
}

// Get returns the reserve, or zero if fewer than two replies were recorded in the last minute. One reply
// is not enough, because its attempt may have waited for the connection.
func (r *Reserve) Get(now time.Duration) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	d, samples := r.transit.get(now)
	if samples < 2 {
		return 0
	}
	return d
}

// ClampReserve limits a reserve to a fifth of the remaining time. It returns 0 if the reserve or the
// remaining time is negative.
//
// For transports: a client subtracts the result from the deadline that it sends.
func ClampReserve(reserve, remaining time.Duration) time.Duration {
	return max(0, min(reserve, remaining/5))
}
