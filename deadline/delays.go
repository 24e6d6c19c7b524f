package deadline

import (
	"sync"
	"time"

	"github.com/hopbound/hopbound/internal/cache"
)

// maxExcess limits the time that is deducted from one call's deadline, regardless of its timestamps.
const maxExcess = time.Minute

// maxMicros is the largest number of microseconds in a time.Duration.
const maxMicros = int64(1<<63-1) / int64(time.Microsecond)

// noise is the error of a timestamp; see [Clock]. A shorter delay is not deducted.
const noise = maxLag

// drift is how far two clocks may drift apart within some time: 500 ppm, which is the maximum rate at
// which NTP slews a clock, and more than the difference of two quartz clocks.
func drift(age time.Duration) time.Duration { return age / 2000 }

// Sender identifies the clock of a message's timestamps. Clock is the clock id. Peer identifies the sender
// of the message, for example by its connection; it is any comparable value, or nil. Messages of one peer
// do not affect the delays of another, even if both send the same clock id.
//
// For transports: a server passes it to [Delays.Excess].
type Sender struct {
	Peer  any
	Clock uint64
}

// Delays keeps the base delay of each sender, and computes by how much the delay of a message exceeds it.
// The number of senders is limited: when there are more, the sender of the oldest message is dropped. The
// next message of a dropped sender has no excess. Delays is safe for concurrent use. Make one with
// [NewDelays].
//
// For transports: a server has one, and calls [Delays.Excess] for each request.
type Delays struct {
	mu    sync.Mutex
	bases *cache.LRU[Sender, *windowedMin]
}

// NewDelays returns a Delays for at most limit senders. A limit below 1 counts as 1.
func NewDelays(limit int) *Delays {
	return &Delays{bases: cache.NewLRU[Sender, *windowedMin](limit)}
}

// Forgotten returns how many senders were dropped because of the limit.
func (d *Delays) Forgotten() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bases.Dropped()
}

// Excess records a message and returns by how much its delay exceeds the sender's base delay: a duration
// from 0 to one minute. sent is the message's timestamp in microseconds on the sender's clock. received is
// the time of its arrival on this host's monotonic clock. The first message of a sender has no excess.
//
// The excess is never longer than the message really took, because each earlier message took some time
// too, and because Excess allows for the error of timestamps and the drift of the two clocks: it subtracts
// a millisecond, and 500 ppm of the age of the message with the smallest delay.
func (d *Delays) Excess(sender Sender, sent int64, received time.Duration) time.Duration {
	delay := micros(received.Microseconds() - min(sent, 1<<62))
	d.mu.Lock()
	defer d.mu.Unlock()
	base := d.bases.Get(sender, func() *windowedMin { return &windowedMin{} })
	base.rotate(received)
	var excess time.Duration
	for _, s := range [...]sample{base.previous, base.current} {
		if s.seen > 0 {
			excess = max(excess, sub(sub(delay, s.value), drift(received-s.at)+noise))
		}
	}
	base.add(received, delay, drift)
	return min(excess, maxExcess)
}

// OnArrival returns the remaining time of a call at its receiver: deadline − sent, which are timestamps in
// microseconds on the sender's clock, minus the excess of the message's delay. It is never more than grpc,
// the remaining time by gRPC's own timeout. It may be negative.
//
// For transports: a server calls it for each request. A transport with a timeout of its own passes what
// remains of that as grpc.
func OnArrival(deadline, sent int64, excess, grpc time.Duration) time.Duration {
	return min(grpc, sub(micros(deadline-sent), excess))
}

// micros converts a number of microseconds to a duration. It returns the longest duration, of either
// sign, if the number is too large for one.
func micros(n int64) time.Duration {
	return time.Duration(max(-maxMicros, min(n, maxMicros))) * time.Microsecond
}

// sub returns a − b, or the longest duration, of either sign, if the difference overflows.
func sub(a, b time.Duration) time.Duration {
	d := a - b
	switch {
	case b < 0 && d < a:
		return 1<<63 - 1
	case b > 0 && d > a:
		return -1 << 63
	}
	return d
}
