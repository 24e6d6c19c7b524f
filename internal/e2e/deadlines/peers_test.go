package deadlines_test

import (
	"testing"
	"time"

	"github.com/hopbound/hopbound/deadline"
	"pgregory.net/rapid"
)

// Whatever other peers send, under whatever clock id and with whatever stamps, a sender's
// delays are what they are without them.
func TestWhatOnePeerSendsChangesNoDelayOfAnother(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		alone, among := deadline.NewDelays(64), deadline.NewDelays(64)
		victim := deadline.Sender{Peer: "victim", Clock: 7}
		now := time.Duration(0)
		for range rapid.IntRange(1, 60).Draw(t, "messages") {
			now += time.Duration(rapid.Int64Range(0, int64(20*time.Second)).Draw(t, "pause"))
			if rapid.Bool().Draw(t, "other") {
				other := deadline.Sender{Peer: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "peer"), Clock: rapid.SampledFrom([]uint64{7, 8}).Draw(t, "clock")}
				among.Excess(other, rapid.Int64().Draw(t, "stamp"), now)
				continue
			}
			sent := now.Microseconds() - rapid.Int64Range(0, 5_000_000).Draw(t, "delay")
			if a, b := alone.Excess(victim, sent, now), among.Excess(victim, sent, now); a != b {
				t.Fatalf("an excess of %v alone, and of %v among others", a, b)
			}
		}
	})
}
