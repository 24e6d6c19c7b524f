package deadline

import (
	"sync"
	"time"

	"github.com/hopbound/hopbound/internal/cache"
)

// maxExcess bounds what may be taken off one call, whatever the stamps say.
const maxExcess = time.Minute

// maxMicros is the largest number of microseconds that a Duration can hold.
const maxMicros = int64(1<<63-1) / int64(time.Microsecond)

// noise is how late a stamp may be by itself, see [Clock]. Less than that is no
// delay worth taking off.
const noise = maxBehind

// drift is how far two clocks may have moved apart in some time: 500 ppm, the
// most by which NTP slews a clock, and more than two crystals differ.
func drift(age time.Duration) time.Duration { return age / 2000 }

// Sender identifies the clock that stamped a message. Clock is the clock's id, and Peer is the
// sender of the message, such as a connection: any comparable value, or nil. What one peer sends
// has no effect on the delays of another, even under the same clock id.
type Sender struct {
	Peer  any
	Clock uint64
}

// Delays keeps the base delay of each sender, and returns by how much the delay of a message
// exceeds it. It is bounded: the sender that sent least recently is forgotten first, and its
// next message has no excess. It is safe for concurrent use.
type Delays struct {
	mu    sync.Mutex
	bases *cache.LRU[Sender, *smallest]
}

// NewDelays returns a Delays for at most limit senders, and at least one.
func NewDelays(limit int) *Delays {
	return &Delays{bases: cache.NewLRU[Sender, *smallest](limit)}
}

// Forgotten returns how many senders were forgotten because of the limit.
func (d *Delays) Forgotten() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bases.Dropped()
}

// Excess takes in that a message stamped sent, in microseconds on the sender's
// clock, was received at a time on this host's monotonic clock, and returns by
// how much its delay exceeds the base delay: at least nothing, at most a
// minute. The first message of a sender exceeds nothing.
//
// The result is never more than the time which the message really took: every
// earlier message took some time too, and clocks do not drift apart by more
// than is allowed for. It is short of the time lost by a millisecond, and by
// 500 ppm of the age of what is compared with.
func (d *Delays) Excess(sender Sender, sent int64, received time.Duration) time.Duration {
	delay := micros(received.Microseconds() - min(sent, 1<<62))
	d.mu.Lock()
	defer d.mu.Unlock()
	base := d.bases.Get(sender, func() *smallest { return &smallest{} })
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

// OnArrival returns how long a call may still run at its receiver: what is left
// of the sender's deadline, deadline − sent in microseconds of the sender's
// clock, less the excess of its delay, but never more than gRPC's own remaining
// time. It may be negative.
func OnArrival(deadline, sent int64, excess, grpc time.Duration) time.Duration {
	return min(grpc, sub(micros(deadline-sent), excess))
}

// micros converts a number of microseconds, holding it within what a Duration
// can say.
func micros(n int64) time.Duration {
	return time.Duration(max(-maxMicros, min(n, maxMicros))) * time.Microsecond
}

// sub returns a − b, held within what a Duration can say.
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
