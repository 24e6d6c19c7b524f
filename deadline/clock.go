package deadline

import (
	"sync/atomic"
	"time"
)

const (
	// maxDivergence is how far wall time and monotonic time may diverge before a Clock starts a new
	// epoch. A larger divergence means that wall time was stepped or that the machine was suspended,
	// which stops the monotonic clock.
	maxDivergence = 50 * time.Millisecond
	// maxLag is how far a Clock may fall behind wall time before it catches up. A reading is never
	// further behind.
	maxLag = time.Millisecond
)

// Clock returns the timestamps that a sender puts into messages. A timestamp is the wall time at the
// start of the clock's epoch plus the monotonic time since then, so within an epoch time never goes back.
// Each epoch has a random clock id. Receivers compare only timestamps with the same clock id. A Clock is
// safe for concurrent use.
//
// If wall time is ahead of the clock by 1 to 50 ms, the clock catches up, because the machine may have
// been suspended for a moment. Without that, a receiver would take the suspended time for a delay of the
// message. If wall time was stepped forward instead, later timestamps are ahead by that step. A receiver
// then sees a shorter delay, and deducts nothing from the call's deadline.
//
// For transports: a client has one clock and reads it for each attempt.
type Clock struct {
	newID   func() uint64
	current atomic.Pointer[epoch]
}

type epoch struct {
	id     uint64
	offset int64 // the clock's reading minus monotonic time, in microseconds
}

// NewClock returns a clock that takes its clock ids from newID. The function must be safe for concurrent
// use. Its numbers must be unique among all machines, as random numbers are.
func NewClock(newID func() uint64) *Clock { return &Clock{newID: newID} }

// Read returns the current timestamp, in microseconds since the Unix epoch, and the clock id. Pass the
// wall time and the time on the monotonic clock since any fixed moment. The first call starts an epoch.
// If wall time and monotonic time have diverged by more than 50 ms since then, Read starts a new epoch
// with a new clock id. A timestamp before 1970 is negative and cannot be sent.
func (c *Clock) Read(wall time.Time, mono time.Duration) (reading int64, id uint64) {
	for {
		e := c.current.Load()
		offset := wall.UnixMicro() - mono.Microseconds()
		next := e
		switch {
		case e == nil || micros(offset-e.offset).Abs() > maxDivergence:
			next = &epoch{id: c.newID(), offset: offset}
		case micros(offset-e.offset) > maxLag:
			next = &epoch{id: e.id, offset: offset}
		}
		if next == e || c.current.CompareAndSwap(e, next) {
			return next.offset + mono.Microseconds(), next.id
		}
	}
}
