package budget

import (
	"fmt"
	"sync"
	"time"

	"github.com/hopbound/hopbound/internal/cache"
)

// targetLimit is how many targets a [Budget] keeps a bucket for. Beyond it, the
// target used least recently is forgotten, and starts anew with Burst tokens.
const targetLimit = 4096

// Budget holds the settings of the retry budget, and one token bucket for each
// target. The package documentation says what they bound.
//
// A Budget survives changes of configuration and of connections. The clients of
// a process may share one, or have one each: sharing lets all connections to one
// target draw on one bucket. It is safe for concurrent use. The zero value grants
// nothing.
type Budget struct {
	settings settings

	mu      sync.Mutex
	targets *cache.LRU[string, *bucket] // nil in the zero value
}

// New returns a budget. An option out of its range is replaced by the nearest
// valid value, and [Budget.Err] reports it.
func New(opts ...Option) *Budget {
	b := &Budget{
		settings: settings{
			name:         DefaultName,
			ratio:        DefaultRatio,
			minPerSecond: DefaultMinPerSecond,
			perRequest:   DefaultPerRequest,
			burst:        DefaultBurst,
		},
		targets: cache.NewLRU[string, *bucket](targetLimit),
	}
	for i, opt := range opts {
		if opt == nil {
			b.settings.errs = append(b.settings.errs, fmt.Errorf("budget: option %d is nil", i+1))
			continue
		}
		opt(&b.settings)
	}
	return b
}

// Empty reports whether the settings allow no extra attempt, ever.
func (b *Budget) Empty() bool {
	s := &b.settings
	return s.ratio == 0 && (s.perRequest == 0 || s.burst == 0 && s.minPerSecond == 0)
}

// Name returns the name by which metrics know the budget.
func (b *Budget) Name() string { return b.settings.name }

// Err returns what was wrong with the options of [New], or nil. Code that is
// handed a Budget as a part of its configuration should check it.
func (b *Budget) Err() error { return b.settings.err() }

// Clone returns a new budget with the same settings, whose buckets are as new.
func (b *Budget) Clone() *Budget {
	return &Budget{settings: b.settings, targets: cache.NewLRU[string, *bucket](targetLimit)}
}

// Balance returns how many tokens a target's bucket holds now, with fractions. The
// target is named as it was dialled, or in full, such as "dns:///orders:443". A target
// that was never called has Burst. It is [Budget.BalanceAt] of the current time.
func (b *Budget) Balance(target string) float64 { return b.BalanceAt(time.Now(), target) }

// BalanceAt returns how many tokens a target's bucket holds at a time. Times
// before the latest one seen count as that one.
func (b *Budget) BalanceAt(now time.Time, target string) float64 {
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

// Take takes what an extra attempt costs out of a target's bucket, and reports
// whether it was there. If not, nothing is taken.
func (b *Budget) Take(now time.Time, target string, why Cause) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.bucket(now, target)
	return t != nil && t.take(why)
}

// Affords returns how many extra attempts of one cause a target's bucket could
// pay for now.
func (b *Budget) Affords(now time.Time, target string, why Cause) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.bucket(now, target); t != nil {
		return t.affords(why)
	}
	return 0
}

// IsNew reports whether a target's bucket is less than a second old and has earned by
// fewer than 200 successes. If it is empty then, that says little about the target.
func (b *Budget) IsNew(now time.Time, target string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.bucket(now, target)
	const few = 200
	return t != nil && now.Sub(t.made) < time.Second && t.recent.sum < few
}

// Put puts back what [Budget.Take] took for an attempt that was not made, or
// reached no server.
func (b *Budget) Put(now time.Time, target string, why Cause) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.bucket(now, target); t != nil {
		t.put(why, &b.settings)
	}
}

// Success earns what a successful reply of a target earns.
func (b *Budget) Success(now time.Time, target string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.bucket(now, target); t != nil {
		t.success(&b.settings)
	}
}

// bucket returns a target's bucket, brought up to now, or nil in the zero value.
func (b *Budget) bucket(now time.Time, target string) *bucket {
	if b.targets == nil {
		return nil
	}
	t := b.targets.Get(target, func() *bucket { return newBucket(now, &b.settings) })
	t.advance(now, &b.settings)
	return t
}
