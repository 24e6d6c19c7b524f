package budget

import (
	"math"
	"time"
)

// token is one token in the unit of buckets. Whole numbers keep the bound exact,
// where sums of floating-point ratios would drift.
const token int64 = 1e9

// Cause is why an extra attempt is made.
type Cause uint8

const (
	// AfterFailure is a retry after a failure: the server, or the connection to
	// it, has said that the attempt is over.
	AfterFailure Cause = iota

	// AfterTimeout is a retry after an attempt that took too long. The server may
	// still be working on it, so that the retry adds to what it has to do.
	AfterTimeout

	// Speculative is an attempt that is made although an earlier one could still
	// succeed: a hedge, or a retry in place of an attempt that was cut short.
	Speculative
)

// speculativeCost is how many tokens a speculative attempt takes out of the share
// for slow targets. At the default ratio, one call in ten can be hedged in the
// long run, so that hedging at three hops of a chain adds a third to the calls of
// the last one and not three quarters.
const speculativeCost = 2

// slowShare is the part of what a bucket may hold that is for slow targets.
const slowShare = 10

// bucket is the target budget of one target: a token bucket that follows the
// successes of the target.
//
// It has two levels. level pays for every extra attempt. slow pays in addition for
// those that are made because the target is slow, AfterTimeout and Speculative. It earns
// as much, but holds what a tenth of a second has earned: when a busy target slows
// down, its clients must not add a second's worth of retries to its queues, as they
// may when a server is killed.
type bucket struct {
	level, slow int64

	made time.Time
	last time.Time // the latest time seen
	paid float64   // what MinPerSecond has earned since the bucket was made

	recent recent
}

func newBucket(now time.Time, s *settings) *bucket {
	full := int64(s.burst) * token
	return &bucket{level: full, slow: full, made: now, last: now}
}

// take takes what an attempt costs, if it is there.
func (b *bucket) take(why Cause) bool {
	if b.affords(why) == 0 {
		return false
	}
	b.level -= token
	b.slow -= slowCost(why)
	return true
}

// affords returns how many attempts of one cause could be paid for.
func (b *bucket) affords(why Cause) int {
	n := b.level / token
	if cost := slowCost(why); cost > 0 {
		n = min(n, b.slow/cost)
	}
	return int(n)
}

func (b *bucket) put(why Cause, s *settings) { b.add(token, slowCost(why), s) }

func slowCost(why Cause) int64 {
	switch why {
	case AfterTimeout:
		return token
	case Speculative:
		return speculativeCost * token
	default:
		return 0
	}
}

func (b *bucket) success(s *settings) {
	b.recent.add()
	earned := int64(s.ratio * float64(token))
	b.add(earned, earned, s)
}

// add adds to both levels, up to what each may hold.
func (b *bucket) add(level, slow int64, s *settings) {
	least := int64(s.burst) * token
	most := max(least, int64(min(float64(b.recent.sum)*s.ratio, maxTokens)*float64(token)))
	b.level = min(b.level+level, most)
	b.slow = min(b.slow+slow, max(least, most/slowShare))
}

// advance brings the bucket up to a time: it earns MinPerSecond, forgets
// successes that are more than a second old, and drops what it may not hold any
// more.
func (b *bucket) advance(now time.Time, s *settings) {
	if now.Before(b.last) {
		return
	}
	b.last = now
	b.recent.advance(now.Sub(b.made))
	// The difference of two totals: frequent calls do not round a small rate down
	// to nothing. A token per second is a unit per nanosecond.
	total := math.Floor(float64(now.Sub(b.made)) * s.minPerSecond)
	earned := int64(min(total-b.paid, float64(maxTokens*token)))
	b.paid = total
	b.add(earned, earned, s)
}

// recent counts the successes of the last second, in slots of a tenth of it. The
// oldest slot is dropped whole, so that it never counts one that is older.
type recent struct {
	slots [10]int64
	slot  int64 // the current one, counted from when the bucket was made
	sum   int64
}

func (r *recent) add() {
	r.slots[r.slot%int64(len(r.slots))]++
	r.sum++
}

// advance moves on to the slot of a time since the bucket was made.
func (r *recent) advance(now time.Duration) {
	size := int64(len(r.slots))
	slot := int64(now / (time.Second / time.Duration(size)))
	for next := max(r.slot, slot-size) + 1; next <= slot; next++ {
		r.sum -= r.slots[next%size]
		r.slots[next%size] = 0
	}
	r.slot = max(r.slot, slot)
}
