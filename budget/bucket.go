package budget

import (
	"math"
	"time"
)

// token is one token in the unit in which buckets count. Buckets count in whole numbers because sums of
// floating-point ratios drift, and then the bound would not be exact.
const token int64 = 1e9

// Cause is the reason for an extra attempt. The zero value is [AfterFailure].
//
// For transports: a client passes it to [Budget.Take] and [Budget.Put].
type Cause uint8

const (
	// AfterFailure is a retry after a failure. The server, or the connection to it, has reported that
	// the attempt has ended.
	AfterFailure Cause = iota

	// AfterTimeout is a retry after an attempt that took too long. The server may still be working on
	// that attempt, so the retry adds to the server's load.
	AfterTimeout

	// Speculative is an extra attempt while an earlier one could still succeed: a hedge, or a retry
	// that replaces an attempt whose share of the call's time has run out.
	Speculative
)

// speculativeCost is the number of tokens that a speculative attempt takes from the slow level. With the
// default ratio, one call in ten can be hedged in the long run. If three hops of a chain hedge, the last
// hop then gets a third more calls, instead of three quarters more with a cost of one token.
const speculativeCost = 2

// slowShare is the ratio of the two levels' capacities.
const slowShare = 10

// bucket is the target budget of one target. It is a token bucket whose capacity follows the successes of
// the target.
//
// A bucket has two levels. Every extra attempt takes a token from level. An attempt that is made because
// the target is slow, AfterTimeout or Speculative, takes tokens from slow too. Both levels earn the same,
// but slow holds only what the target's successes earn in a tenth of a second. When a server is killed,
// its clients may add a second's worth of retries. When a busy target slows down, they must not add as
// many to its queues.
type bucket struct {
	level, slow int64

	made time.Time
	last time.Time // the latest time that advance was given
	paid float64   // earned by MinPerSecond since the bucket was made

	recent recent
}

func newBucket(now time.Time, s *settings) *bucket {
	full := int64(s.burst) * token
	return &bucket{level: full, slow: full, made: now, last: now}
}

// take takes the tokens for one attempt. It returns false, and takes none, if there are too few.
func (b *bucket) take(cause Cause) bool {
	if b.affords(cause) == 0 {
		return false
	}
	b.level -= token
	b.slow -= slowCost(cause)
	return true
}

// affords returns how many attempts of one cause the tokens could pay for.
func (b *bucket) affords(cause Cause) int {
	n := b.level / token
	if cost := slowCost(cause); cost > 0 {
		n = min(n, b.slow/cost)
	}
	return int(n)
}

// put returns the tokens that take took.
func (b *bucket) put(cause Cause, s *settings) { b.add(token, slowCost(cause), s) }

// slowCost returns what an attempt takes from the slow level.
func slowCost(cause Cause) int64 {
	switch cause {
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

// add adds to both levels, up to their capacities.
func (b *bucket) add(level, slow int64, s *settings) {
	minCapacity := int64(s.burst) * token
	capacity := max(minCapacity, int64(min(float64(b.recent.sum)*s.ratio, maxTokens)*float64(token)))
	b.level = min(b.level+level, capacity)
	b.slow = min(b.slow+slow, max(minCapacity, capacity/slowShare))
}

// advance moves the bucket's time forward to now: it adds what MinPerSecond has earned, removes
// successes that are more than a second old, and drops tokens above the capacity.
func (b *bucket) advance(now time.Time, s *settings) {
	if now.Before(b.last) {
		return
	}
	b.last = now
	b.recent.advance(now.Sub(b.made))
	// Subtracting two totals keeps a small rate exact: rounding down at each of many frequent calls
	// would earn nothing. One token per second is one unit per nanosecond.
	total := math.Floor(float64(now.Sub(b.made)) * s.minPerSecond)
	earned := int64(min(total-b.paid, float64(maxTokens*token)))
	b.paid = total
	b.add(earned, earned, s)
}

// recent counts the successes of the last second, in slots of a tenth of a second. It drops the oldest
// slot as a whole, so it counts no success that is older than a second.
type recent struct {
	slots [10]int64
	slot  int64 // number of the current slot since the bucket was made
	sum   int64
}

func (r *recent) add() {
	r.slots[r.slot%int64(len(r.slots))]++
	r.sum++
}

// advance moves to the slot of now, a time since the bucket was made.
func (r *recent) advance(now time.Duration) {
	size := int64(len(r.slots))
	slot := int64(now / (time.Second / time.Duration(size)))
	for next := max(r.slot, slot-size) + 1; next <= slot; next++ {
		r.sum -= r.slots[next%size]
		r.slots[next%size] = 0
	}
	r.slot = max(r.slot, slot)
}
