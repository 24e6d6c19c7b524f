package deadline_test

import (
	"context"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/hopbound/hopbound/deadline"
)

const (
	ms  = time.Millisecond
	sec = time.Second
)

var wall0 = time.Unix(1_800_000_000, 0)

// ids returns a source of clock ids 1, 2, 3, …
func ids() func() uint64 {
	var (
		mu sync.Mutex
		n  uint64
	)
	return func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		n++
		return n
	}
}

func TestClockNeverStepsAndIsDrawnAnewWhenTheMachineWasSuspended(t *testing.T) {
	t.Parallel()
	clock := deadline.NewClock(ids())
	start := wall0.UnixMicro()
	for _, step := range []struct {
		name       string
		wall, mono time.Duration // since the first reading
		want       time.Duration
		id         uint64
	}{
		{"first", 0, 0, 0, 1},
		{"a second later", sec, sec, sec, 1},
		{"wall time was set back a little", 2*sec - 40*ms, 2 * sec, 2 * sec, 1},
		{"and forward again", 3*sec + ms, 3 * sec, 3 * sec, 1},
		{"suspended for a moment", 4*sec + 50*ms, 4 * sec, 4*sec + 50*ms, 1},
		{"and set back a little once more", 5 * sec, 5 * sec, 5*sec + 50*ms, 1},
		{"suspended for an hour", 3*sec + time.Hour, 3 * sec, 3*sec + time.Hour, 2},
		{"and on from there", 4*sec + time.Hour, 4 * sec, 4*sec + time.Hour, 2},
		{"wall time was set back by a day", 5*sec - 24*time.Hour, 5 * sec, 5*sec - 24*time.Hour, 3},
	} {
		// The monotonic clock begins anywhere.
		micros, id := clock.Read(wall0.Add(step.wall), 77*time.Hour+step.mono)
		if got := time.Duration(micros-start) * time.Microsecond; got != step.want || id != step.id {
			t.Errorf("%s: reads %v on clock %d, want %v on %d", step.name, got, id, step.want, step.id)
		}
	}
}

func TestClockReadConcurrentlyIsDrawnOnce(t *testing.T) {
	t.Parallel()
	clock := deadline.NewClock(ids())
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		seen = map[uint64]bool{}
	)
	for range 50 {
		wg.Go(func() {
			_, id := clock.Read(wall0, 0)
			mu.Lock()
			defer mu.Unlock()
			seen[id] = true
		})
	}
	wg.Wait()
	if len(seen) != 1 {
		t.Errorf("%d clocks were drawn", len(seen))
	}
}

// A stamp is when a message was sent, on a sender's clock that shows any time.
func stamp(sent time.Duration) int64 { return 1_800_000_000_000_000 + sent.Microseconds() }

func TestExcessIsWhatADelayHasBeyondTheBase(t *testing.T) {
	t.Parallel()
	d := deadline.NewDelays(8)
	for _, m := range []struct {
		name           string
		sent, received time.Duration
		want           time.Duration
	}{
		{"the first message has none", 0, 30 * ms, 0},
		{"as fast", 100 * ms, 130 * ms, 0},
		{"held back by 350 ms", 200 * ms, 580 * ms, 350 * ms},
		{"faster than ever is the new base", 600 * ms, 610 * ms, 0},
		{"which the next exceeds", 700 * ms, 730 * ms, 20 * ms},
	} {
		got := d.Excess(deadline.Sender{Clock: 1}, stamp(m.sent), m.received)
		if got > m.want || got < m.want-2*ms { // drift is allowed for
			t.Errorf("%s: %v, want %v", m.name, got, m.want)
		}
	}
	if got := d.Excess(deadline.Sender{Clock: 2}, stamp(0), 5*sec); got != 0 {
		t.Errorf("another clock's first message has an excess of %v", got)
	}
}

func TestBaseDelayIsForgottenWithinAMinute(t *testing.T) {
	t.Parallel()
	d := deadline.NewDelays(8)
	d.Excess(deadline.Sender{Clock: 1}, stamp(0), 10*ms)
	// The route has changed: everything takes a second longer now.
	if got := d.Excess(deadline.Sender{Clock: 1}, stamp(20*sec), 21*sec); got < 900*ms {
		t.Errorf("excess after 20 s is %v, want about a second", got)
	}
	if got := d.Excess(deadline.Sender{Clock: 1}, stamp(90*sec), 91*sec); got != 0 {
		t.Errorf("excess after 90 s is %v, want none", got)
	}
}

func TestExcessIsHeldAndSurvivesAbsurdStamps(t *testing.T) {
	t.Parallel()
	d := deadline.NewDelays(8)
	d.Excess(deadline.Sender{Clock: 1}, stamp(0), 0)
	if got := d.Excess(deadline.Sender{Clock: 1}, stamp(0), 10*time.Minute); got != 0 {
		t.Errorf("against a base that has been forgotten: %v, want 0", got)
	}
	d.Excess(deadline.Sender{Clock: 2}, math.MaxInt64, 0)
	if got := d.Excess(deadline.Sender{Clock: 2}, 0, sec); got != time.Minute {
		t.Errorf("from the end of time to its beginning: %v, want the most, a minute", got)
	}
	d.Excess(deadline.Sender{Clock: 3}, 0, sec)
	if got := d.Excess(deadline.Sender{Clock: 3}, math.MaxInt64, sec); got != 0 {
		t.Errorf("from the beginning of time to its end: %v, want 0", got)
	}
}

func TestDelaysForgetTheSenderHeardOfLeastRecently(t *testing.T) {
	t.Parallel()
	d := deadline.NewDelays(2)
	d.Excess(deadline.Sender{Clock: 1}, stamp(0), 0)
	d.Excess(deadline.Sender{Clock: 2}, stamp(0), 0)
	d.Excess(deadline.Sender{Clock: 1}, stamp(0), 0)
	d.Excess(deadline.Sender{Clock: 3}, stamp(0), 0) // 2 goes
	if got := d.Excess(deadline.Sender{Clock: 1}, stamp(0), sec); got < 990*ms {
		t.Errorf("clock 1 was forgotten: excess %v", got)
	}
	if got := d.Excess(deadline.Sender{Clock: 2}, stamp(0), sec); got != 0 {
		t.Errorf("clock 2 was remembered: excess %v", got)
	}
}

func TestOnArrivalIsTheLesserOfTheTwo(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		deadline, sent int64
		excess, grpc   time.Duration
		want           time.Duration
	}{
		"in time":                         {1_000_000, 0, 0, 2 * sec, sec},
		"held back":                       {1_000_000, 0, 350 * ms, sec, 650 * ms},
		"gRPC's is the upper bound":       {5_000_000, 0, 0, sec, sec},
		"expired on the way":              {100_000, 0, 350 * ms, sec, -250 * ms},
		"expired when sent":               {0, 100_000, 0, sec, -100 * ms},
		"the farthest deadline there is":  {math.MaxInt64, 0, time.Minute, sec, sec},
		"the earliest deadline there is":  {0, math.MaxInt64, time.Minute, sec, math.MinInt64},
		"gRPC has no time left by itself": {1_000_000, 0, 0, -ms, -ms},
	} {
		if got := deadline.OnArrival(tc.deadline, tc.sent, tc.excess, tc.grpc); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestReserveIsTheSmallestTransitOfTheLastMinute(t *testing.T) {
	t.Parallel()
	var r deadline.Reserve
	if got := r.Get(0); got != 0 {
		t.Errorf("before any reply: %v", got)
	}
	r.Learn(0, 50*ms, 30*ms)
	if got := r.Get(0); got != 0 {
		t.Errorf("after one reply: %v", got)
	}
	r.Learn(sec, 48*ms, 40*ms)
	r.Learn(2*sec, 500*ms, 100*ms)
	r.Learn(2*sec, -1, 0)  // a clock that went backwards teaches nothing
	r.Learn(2*sec, 0, -ms) // nor does a server that was faster than nothing
	if got := r.Get(2 * sec); got != 8*ms {
		t.Errorf("learned %v, want 8ms", got)
	}
	r.Learn(3*sec, ms, 2*ms) // the server's account is of another clock, and rounded
	if got := r.Get(3 * sec); got != 0 {
		t.Errorf("learned %v, want 0", got)
	}
	r.Learn(70*sec, 9*ms, 0)
	r.Learn(70*sec, 10*ms, 0)
	if got := r.Get(70 * sec); got != 9*ms {
		t.Errorf("after more than a minute %v, want 9ms", got)
	}
}

// What was seen late in one half of a minute counts until the next half is over.
func TestReserveRemembersTheHalfMinuteBefore(t *testing.T) {
	t.Parallel()
	var r deadline.Reserve
	for _, at := range []time.Duration{29 * sec, 29 * sec, 31 * sec, 31 * sec} {
		transit := 8 * ms
		if at > 30*sec {
			transit = 20 * ms
		}
		r.Learn(at, transit, 0)
	}
	for at, want := range map[time.Duration]time.Duration{31 * sec: 8 * ms, 59 * sec: 8 * ms} {
		if got := r.Get(at); got != want {
			t.Errorf("after %v: %v, want %v", at, got, want)
		}
	}
	if got := r.Get(61 * sec); got != 20*ms {
		t.Errorf("when that half is over: %v, want 20ms", got)
	}
}

func TestReserveIsAtMostAFifth(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ reserve, remaining, want time.Duration }{
		{10 * ms, sec, 10 * ms},
		{300 * ms, sec, 200 * ms},
		{10 * ms, 0, 0},
		{10 * ms, -sec, 0},
		{-ms, sec, 0},
	} {
		if got := deadline.ClampReserve(tc.reserve, tc.remaining); got != tc.want {
			t.Errorf("ClampReserve(%v, %v) = %v, want %v", tc.reserve, tc.remaining, got, tc.want)
		}
	}
}

func TestFloorRefusesWhatCannotFinishButAFifthAtMost(t *testing.T) {
	t.Parallel()
	var f deadline.Floor
	if f.Refuse(0, 0) {
		t.Error("refused before anything was learned")
	}
	f.Learn(0, 80*ms)
	f.Learn(0, 50*ms)
	f.Learn(0, -1)
	for range 8 {
		if f.Refuse(0, 50*ms) {
			t.Error("refused what can finish")
		}
	}
	refused := 0
	for range 991 {
		if f.Refuse(sec, 49*ms) {
			refused++
		}
	}
	if refused != 200 {
		t.Errorf("refused %d of 1000, want 200", refused)
	}
	if f.Refuse(2*time.Minute, ms) {
		t.Error("refused on what was learned minutes ago")
	}
}

func TestDetachedWorkOutlivesItsCallWithADeadlineOfItsOwn(t *testing.T) {
	t.Parallel()
	type key struct{}
	parent, cancel := context.WithTimeout(context.WithValue(context.Background(), key{}, "trace"), time.Hour)
	cancel()
	ctx, stop := deadline.Detach(parent, time.Minute)
	defer stop()
	if ctx.Err() != nil || ctx.Value(key{}) != "trace" {
		t.Errorf("err %v, value %v", ctx.Err(), ctx.Value(key{}))
	}
	if left, ok := deadline.Remaining(ctx); !ok || left > time.Minute || left <= 0 {
		t.Errorf("remaining %v, %v; want up to a minute", left, ok)
	}
	gone, stop := deadline.Detach(parent, 0)
	defer stop()
	if gone.Err() == nil {
		t.Error("a detached context without time has not expired")
	}
}

func TestReserveOfAContext(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	if _, ok := deadline.ReserveFromContext(ctx); ok {
		t.Error("a reserve where none was set")
	}
	if d, ok := deadline.ReserveFromContext(deadline.WithReserve(ctx, -ms)); !ok || d != 0 {
		t.Errorf("got %v, %v; want 0, true", d, ok)
	}
	if _, ok := deadline.Remaining(ctx); ok {
		t.Error("a deadline where none was set")
	}
}
