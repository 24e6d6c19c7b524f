package budget

import (
	"fmt"
	"sync"
	"time"

	"github.com/hopbound/hopbound/internal/cache"
)

// maxTargets is the number of targets that a [Budget] keeps a bucket for. When there are more, it drops
// the bucket that was used least recently. A target whose bucket was dropped starts again with Burst
// tokens.
const maxTargets = 4096

// Budget holds the settings of the retry budget and one token bucket per target. The package
// documentation defines what they bound.
//
// A Budget can outlive configurations and connections. The clients of a process can share one, and then
// all their connections to one target use one bucket. A Budget is safe for concurrent use. The zero value
// allows no extra attempts.
type Budget struct {
	settings settings

	mu      sync.Mutex
	targets *cache.LRU[string, *bucket] // nil in the zero value
}

// New returns a budget with the given options. It replaces a value that is out of range by the nearest
// valid one, and ignores a nil option; [Budget.Err] reports both mistakes.
func New(opts ...Option) *Budget {
	b := &Budget{
		settings: settings{
			name:         defaultName,
			ratio:        defaultRatio,
			minPerSecond: defaultMinPerSecond,
			perRequest:   defaultPerRequest,
			burst:        defaultBurst,
		},
		targets: cache.NewLRU[string, *bucket](maxTargets),
	}
	for i, opt := range opts {
		if opt == nil {
			b.settings.errs = append(b.settings.errs, fmt.Errorf("option %d is nil", i+1))
			continue
		}
		opt(&b.settings)
	}
	return b
}

// Empty reports whether the settings never allow an extra attempt.
//
// For transports: a client reports an empty budget as a mistake in its configuration.
func (b *Budget) Empty() bool {
	s := &b.settings
	return s.ratio == 0 && (s.perRequest == 0 || s.burst == 0 && s.minPerSecond == 0)
}

// Name returns the name that metrics show for the budget.
//
// For transports: a client labels its metrics with the name.
func (b *Budget) Name() string { return b.settings.name }

// Err returns the errors of the options of [New], joined, or nil. A client that is given the budget
// reports them too.
func (b *Budget) Err() error { return b.settings.err() }

// Clone returns a new budget with the same settings and full buckets.
//
// For transports: a client in Observe mode counts what it would spend on a clone.
func (b *Budget) Clone() *Budget {
	return &Budget{settings: b.settings, targets: cache.NewLRU[string, *bucket](maxTargets)}
}

// Balance returns the number of tokens that a target's bucket holds now, with fractions. Name the target
// as it was dialled, or in full, such as "dns:///orders:443". A target that was never called has Burst
// tokens. The balance of the zero Budget is 0.
func (b *Budget) Balance(target string) float64 { return b.balance(time.Now(), target) }

// balance is Balance at a given time. A time before the latest one that the bucket has seen counts as
// the latest one.
func (b *Budget) balance(now time.Time, target string) float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.targets == nil {
		return 0
	}
	t, ok := b.targets.Peek(target)
	if !ok {
		t, ok = b.targets.Peek("dns:///" + target) // gRPC's default
	}
	if !ok {
		return float64(b.settings.burst)
	}
	t.advance(now, &b.settings)
	return float64(t.level) / float64(token)
}

// Take takes the tokens for an extra attempt from a target's bucket. It returns false, and takes none,
// if the bucket holds too few.
//
// For transports: a client calls it before a retry or a hedge.
func (b *Budget) Take(now time.Time, target string, cause Cause) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.bucket(now, target)
	return t != nil && t.take(cause)
}

// Affords returns how many extra attempts of one cause the tokens in a target's bucket could pay for now.
//
// For transports: a client uses it to share the remaining time between the attempts that may follow.
func (b *Budget) Affords(now time.Time, target string, cause Cause) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.bucket(now, target); t != nil {
		return t.affords(cause)
	}
	return 0
}

// IsNew reports whether a target's bucket is less than a second old and has counted fewer than 200
// successes. A new bucket may be empty although the target is healthy.
//
// For transports: a client does not mark a failure non-retryable because a new bucket is empty.
func (b *Budget) IsNew(now time.Time, target string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.bucket(now, target)
	const minSuccesses = 200
	return t != nil && now.Sub(t.made) < time.Second && t.recent.sum < minSuccesses
}

// Put returns the tokens that [Budget.Take] took for an attempt that was not made, or that reached no
// server.
//
// For transports: a client calls it when such an attempt ends.
func (b *Budget) Put(now time.Time, target string, cause Cause) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.bucket(now, target); t != nil {
		t.put(cause, &b.settings)
	}
}

// Success counts a successful reply of a target. The target's bucket earns ratio tokens for it.
//
// For transports: a client calls it for each successful attempt.
func (b *Budget) Success(now time.Time, target string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.bucket(now, target); t != nil {
		t.success(&b.settings)
	}
}

// bucket returns a target's bucket after advancing it to now, or nil for the zero Budget.
func (b *Budget) bucket(now time.Time, target string) *bucket {
	if b.targets == nil {
		return nil
	}
	t := b.targets.Get(target, func() *bucket { return newBucket(now, &b.settings) })
	t.advance(now, &b.settings)
	return t
}
