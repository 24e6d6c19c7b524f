package deadline_test

import (
	"testing"
	"time"

	"github.com/hopbound/hopbound/deadline"
)

// reading is one look at a machine's clocks.
type reading struct {
	wall time.Time
	mono time.Duration
	id   uint64 // of the clock that is expected
}

// The years of wall clocks that are wrong.
var (
	year1970 = time.Unix(0, 0)
	year2157 = time.Date(2157, 1, 1, 0, 0, 0, 0, time.UTC)
	year2400 = time.Date(2400, 1, 1, 0, 0, 0, 0, time.UTC)
)

// However wrong a sender's wall clock is, and whatever happens to it, its readings do not step
// under one id, and its calls get all of their time.
func TestSendersWithWrongClocksLoseNoTime(t *testing.T) {
	t.Parallel()
	at := func(wall time.Time, past, mono time.Duration, id uint64) reading {
		return reading{wall.Add(past), mono, id}
	}
	for name, readings := range map[string][]reading{
		"beyond the year 2157 and back": {
			at(wall0, 0, 0, 1), at(wall0, sec, sec, 1), at(year2157, 0, 2*sec, 2), at(year2157, sec, 3*sec, 2),
			at(year2400, 0, 4*sec, 3), at(year2400, sec, 5*sec, 3), at(wall0, 6*sec, 6*sec, 4), at(wall0, 7*sec, 7*sec, 4),
		},
		"a wall clock that starts at 0 and is set later": {
			at(year1970, 0, 0, 1), at(year1970, sec, sec, 1), at(year1970, 2*sec, 2*sec, 1), at(wall0, 0, 3*sec, 2), at(wall0, sec, 4*sec, 2),
		},
		"a machine that is suspended, once for a moment, once for a day": {
			at(wall0, 0, 0, 1), at(wall0, sec+40*ms, sec, 1), at(wall0, 2*sec+40*ms, 2*sec, 1),
			at(wall0, 24*time.Hour, 3*sec, 2), at(wall0, 24*time.Hour+sec, 4*sec, 2),
		},
		"steps forward around the bound": {
			at(wall0, 0, 0, 1), at(wall0, sec+49*ms, sec, 1), // it catches up
			at(wall0, 2*sec+99*ms, 2*sec, 1), // by exactly 50 ms more
			at(wall0, 3*sec+150*ms, 3*sec, 2),
		},
		"steps back around the bound": {
			at(wall0, 0, 0, 1), at(wall0, sec-49*ms, sec, 1), at(wall0, 2*sec-50*ms, 2*sec, 1), at(wall0, 3*sec-51*ms, 3*sec, 2),
			at(wall0, 4*sec-51*ms, 4*sec, 2),
		},
		"steps of a microsecond more than the bound": {
			at(wall0, 0, 0, 1), at(wall0, sec+50*ms+time.Microsecond, sec, 2), at(wall0, 2*sec, 2*sec, 3),
		},
	} {
		clock, delays := deadline.NewClock(ids()), deadline.NewDelays(64)
		var last int64
		var lastID uint64
		for i, r := range readings {
			sent, id := clock.Read(r.wall, r.mono)
			if id != r.id {
				t.Errorf("%s: reading %d is of clock %d, want %d", name, i, id, r.id)
			}
			if id == lastID && sent < last {
				t.Errorf("%s: reading %d goes back by %d µs", name, i, last-sent)
			}
			last, lastID = sent, id
			if sent < 0 {
				continue // it does not go on the wire
			}
			// The receiver's clock runs as true time does. The sender's stands still while it is
			// suspended, and no message takes longer than another.
			trueTime := r.wall.Sub(readings[0].wall)
			if trueTime < r.mono || trueTime > 48*time.Hour {
				trueTime = r.mono // the wall clock was set
			}
			excess := delays.Excess(deadline.Sender{Clock: id}, sent, trueTime+7*ms)
			const whole = 10 * sec
			if left := deadline.OnArrival(sent+whole.Microseconds(), sent, excess, whole); left != whole {
				t.Errorf("%s: message %d has %v of %v left", name, i, left, whole)
			}
		}
	}
}

// A receiver whose own wall clock is wrong takes nothing off: it measures by its monotonic
// clock alone.
func TestReceiverUsesItsMonotonicClockAlone(t *testing.T) {
	t.Parallel()
	clock, delays := deadline.NewClock(ids()), deadline.NewDelays(4)
	for i := range 100 {
		mono := time.Duration(i) * sec
		sent, id := clock.Read(year2157.Add(mono), mono)
		if excess := delays.Excess(deadline.Sender{Clock: id}, sent, mono+5*ms); excess != 0 {
			t.Fatalf("message %d exceeds by %v", i, excess)
		}
	}
}
