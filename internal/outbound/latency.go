package outbound

import (
	"math"
	"sync"
	"time"
)

// latency is the recent latency of a method at a target. It
// counts them in buckets that grow by a tenth each, so that a quantile is at most
// a tenth too long, in two windows, of which the older is dropped when the newer
// is full. It is safe for concurrent use.
type latency struct {
	mu       sync.Mutex
	started  time.Time // when the current window began
	current  window
	previous window
}

type window struct {
	counts [latencyBuckets]uint32
	total  int
}

const (
	// latencyBuckets reach from a microsecond to more than an hour.
	latencyBuckets = 240
	bucketGrowth   = 1.1

	// A window is full when it has fullWindow calls and is shortWindow old, or
	// when it is longWindow old.
	fullWindow  = 1000
	shortWindow = 10 * time.Second
	longWindow  = 5 * time.Minute

	// fewCalls are too few to tell what 95 % of them take.
	fewCalls = 40
)

func bucketOf(d time.Duration) int {
	micros := max(1, float64(d)/float64(time.Microsecond))
	return min(latencyBuckets-1, int(math.Log(micros)/math.Log(bucketGrowth)))
}

// above returns the shortest duration beyond a bucket.
func above(bucket int) time.Duration {
	return time.Duration(math.Ceil(math.Pow(bucketGrowth, float64(bucket+1)) * float64(time.Microsecond)))
}

func (l *latency) add(now time.Time, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if age := now.Sub(l.started); age >= longWindow || l.current.total >= fullWindow && age >= shortWindow {
		l.previous, l.current = l.current, window{}
		l.started = now
	}
	l.current.counts[bucketOf(took)]++
	l.current.total++
}

// p95 returns how long 95 % of the calls have taken at the most, or false if
// there have been too few to tell.
func (l *latency) p95(now time.Time) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	total := l.current.total + l.previous.total
	if total < fewCalls || now.Sub(l.started) >= 2*longWindow {
		return 0, false
	}
	slower := 0
	for i := latencyBuckets - 1; i >= 0; i-- {
		slower += int(l.current.counts[i] + l.previous.counts[i])
		if slower*20 > total {
			return above(i), true
		}
	}
	return 0, false
}
