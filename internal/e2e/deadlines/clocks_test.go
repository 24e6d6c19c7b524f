package deadlines_test

import (
	"testing"
	"time"

	"github.com/hopbound/hopbound/deadline"
	"pgregory.net/rapid"
)

const (
	ms  = time.Millisecond
	sec = time.Second
)

var wall0 = time.Unix(1_800_000_000, 0)

// ids returns a source of clock ids 1, 2, 3, …
func ids() func() uint64 {
	var n uint64
	return func() uint64 {
		n++
		return n
	}
}

// A host has clocks of its own: wall time that is wrong by days and may step,
// and a monotonic clock that runs a little fast or slow and stands still while
// the machine is suspended.
type host struct {
	ppm     int64         // how much faster its clocks run than true time
	wallOff time.Duration // wall time less true time, drift apart
	asleep  time.Duration // how long it has been suspended in all
	begun   time.Duration // where its monotonic clock began
	mishaps []string
}

// No clock can tell a suspension from a step back that hides it. So a host has
// either small steps, or suspensions beside steps that are no small step back.
var (
	stepped   = []string{"", "", "", "step forward", "step back", "small step"}
	suspended = []string{"", "", "", "step forward", "step back", "suspend"}
)

func drawHost(t *rapid.T, name string) *host {
	const days = 24 * time.Hour
	return &host{
		ppm:     rapid.Int64Range(-200, 200).Draw(t, name+" ppm"),
		wallOff: time.Duration(rapid.Int64Range(int64(-9*days), int64(9*days)).Draw(t, name+" offset")),
		begun:   time.Duration(rapid.Int64Range(0, int64(400*days)).Draw(t, name+" uptime")),
		mishaps: rapid.SampledFrom([][]string{stepped, suspended}).Draw(t, name+" mishaps"),
	}
}

func (h *host) mono(now time.Duration) time.Duration {
	awake := now - h.asleep
	return h.begun + awake + time.Duration(int64(awake)/1_000_000*h.ppm)
}

func (h *host) wall(now time.Duration) time.Time {
	return wall0.Add(now + h.wallOff + time.Duration(int64(now)/1_000_000*h.ppm))
}

// TestNoClockMakesAHopRejectWhatWouldBeServedInTime drives calls between two
// hosts whose clocks are off by days, drift by up to 200 ppm each, step, and
// are suspended, over a network with random queues. Whatever they do, the
// receiver gives a call no less time than its caller will really wait, and no
// more than gRPC would (invariant 5).
func TestNoClockMakesAHopRejectWhatWouldBeServedInTime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		from, to := drawHost(t, "sender"), drawHost(t, "receiver")
		clock := deadline.NewClock(ids())
		delays := deadline.NewDelays(4)
		transit := time.Duration(rapid.Int64Range(0, int64(200*ms)).Draw(t, "transit"))
		var now, arrived time.Duration
		for range rapid.IntRange(1, 60).Draw(t, "calls") {
			now = max(now, arrived) + time.Duration(rapid.Int64Range(0, int64(45*sec)).Draw(t, "pause"))
			for _, h := range []*host{from, to} {
				switch rapid.SampledFrom(h.mishaps).Draw(t, "mishap") {
				case "step forward":
					h.wallOff += time.Duration(rapid.Int64Range(0, int64(48*time.Hour)).Draw(t, "by"))
				case "step back":
					h.wallOff -= time.Duration(rapid.Int64Range(int64(51*ms), int64(48*time.Hour)).Draw(t, "by"))
				case "small step":
					h.wallOff += time.Duration(rapid.Int64Range(int64(-60*ms), int64(60*ms)).Draw(t, "by"))
				case "suspend":
					d := time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "for"))
					h.asleep += d
					now += d
				}
			}
			if rapid.IntRange(0, 9).Draw(t, "reroute") == 0 {
				transit = time.Duration(rapid.Int64Range(0, int64(200*ms)).Draw(t, "new transit"))
			}
			timeout := time.Duration(rapid.Int64Range(int64(ms), int64(30*sec)).Draw(t, "timeout"))
			queued := time.Duration(rapid.SampledFrom([]int64{0, 0, 1, 50, 1000, 10000}).Draw(t, "queued")) * ms

			sent, id := clock.Read(from.wall(now), from.mono(now))
			arrived = now + transit + queued
			excess := delays.Excess(deadline.Sender{Clock: id}, sent, to.mono(arrived))
			got := deadline.OnArrival(sent+timeout.Microseconds(), sent, excess, timeout)

			// What passes on the sender's clock until its deadline. A microsecond
			// is lost to rounding at either end, and a clock that drifts measures
			// its own timeout by it.
			really := timeout - (arrived - now)
			slack := 2*time.Microsecond + (arrived-now)/1_000_000*200
			if got < really-slack {
				t.Fatalf("the caller waits another %v, but the receiver was given %v (excess %v)", really, got, excess)
			}
			if got > timeout {
				t.Fatalf("given %v, more than gRPC's %v", got, timeout)
			}
		}
	})
}

// Between hosts whose clocks are merely off, what a call lost in a queue is
// taken off to within what drift is allowed for.
func TestTimeLostInQueuesIsTakenOffWhateverTheOffset(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		from, to := drawHost(t, "sender"), drawHost(t, "receiver")
		clock := deadline.NewClock(ids())
		delays := deadline.NewDelays(4)
		transit := time.Duration(rapid.Int64Range(0, int64(50*ms)).Draw(t, "transit"))
		call := func(now, queued time.Duration) time.Duration {
			sent, id := clock.Read(from.wall(now), from.mono(now))
			return delays.Excess(deadline.Sender{Clock: id}, sent, to.mono(now+transit+queued))
		}
		call(0, 0)
		queued := time.Duration(rapid.Int64Range(0, int64(20*sec)).Draw(t, "queued"))
		pause := time.Duration(rapid.Int64Range(0, int64(9*sec)).Draw(t, "pause"))
		got := call(pause, queued)
		most := (pause + queued + transit) / 1_000_000 * 1000 // 500 ppm allowed for, 400 ppm drifted
		if got < queued-most-ms-2*time.Microsecond || got > queued+2*time.Microsecond {
			t.Fatalf("excess %v, want %v less at most %v", got, queued, most)
		}
	})
}
