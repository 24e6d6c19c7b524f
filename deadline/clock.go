package deadline

import (
	"sync/atomic"
	"time"
)

const (
	// maxParting is how far wall time and monotonic time may part before a Clock
	// is drawn anew: farther apart, the machine was suspended, and the monotonic
	// clock stood still while others' went on.
	maxParting = 50 * time.Millisecond
	// maxBehind is how far a Clock may fall behind wall time before it catches
	// up, and by how much a reading may therefore be late.
	maxBehind = time.Millisecond
)

// Clock is the clock whose readings go on the wire: wall time when it was
// drawn plus the monotonic time since, so that it never goes back. It has a
// random id, by which receivers tell readings of different clocks apart. It is
// safe for concurrent use.
//
// When wall time has gone ahead of it, by up to 50 ms, it catches up. The
// machine may have been suspended, so that a reading without this would make a
// message look late at its receiver. If wall time was stepped instead, readings
// come out early from then on: receivers take that for a shorter delay, which
// takes nothing off any call.
type Clock struct {
	newID func() uint64
	drawn atomic.Pointer[epoch]
}

type epoch struct {
	id     uint64
	offset int64 // the clock's reading less monotonic time, in microseconds
}

// NewClock returns a clock that takes its ids from newID, which must be safe
// for concurrent use and return a different number each time, for all practical
// purposes, on any machine.
func NewClock(newID func() uint64) *Clock { return &Clock{newID: newID} }

// Read returns the clock's reading, in microseconds since the Unix epoch, and
// its id. A reading before the epoch is negative, and cannot go on the wire. It takes the wall time and the time passed on the monotonic clock
// since any fixed moment. When the two have parted by more than 50 ms since the
// clock was drawn, it is drawn anew, with a new id. The first reading draws it.
func (c *Clock) Read(wall time.Time, mono time.Duration) (reading int64, id uint64) {
	for {
		e := c.drawn.Load()
		offset := wall.UnixMicro() - mono.Microseconds()
		next := e
		switch {
		case e == nil || micros(offset-e.offset).Abs() > maxParting:
			next = &epoch{id: c.newID(), offset: offset}
		case micros(offset-e.offset) > maxBehind:
			next = &epoch{id: e.id, offset: offset}
		}
		if next == e || c.drawn.CompareAndSwap(e, next) {
			return next.offset + mono.Microseconds(), next.id
		}
	}
}
