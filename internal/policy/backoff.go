package policy

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Defaults of [Backoff].
const (
	defaultBase       = 50 * time.Millisecond
	defaultMax        = time.Second
	defaultMultiplier = 2
)

// Backoff is the pause before an attempt: exponential, with jitter. The fields are those of
// interceptors.Backoff, which documents them.
type Backoff struct {
	Base       time.Duration // 0 is 50 ms
	Max        time.Duration // 0 is a second, or Base if that is longer
	Multiplier float64       // 0 is 2
	Jitter     Jitter
}

// Jitter says how a pause is drawn below its bound.
type Jitter int

// The kinds of jitter, after "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
const (
	FullJitter         Jitter = iota // between 0 and the bound
	EqualJitter                      // between half of the bound and the bound
	DecorrelatedJitter               // between Base and three times the pause before
	NoJitter                         // the bound
)

func (b *Backoff) validate() error {
	var errs []error
	if b.Base < 0 || b.Max < 0 {
		errs = append(errs, fmt.Errorf("fields Retry.Backoff.Base %v and Retry.Backoff.Max %v must not be negative", b.Base, b.Max))
	}
	if b.Max > 0 && b.Max < b.Base {
		errs = append(errs, fmt.Errorf("field Retry.Backoff.Max is %v, less than the base of %v", b.Max, b.Base))
	}
	if b.Multiplier != 0 && !(b.Multiplier >= 1 && !math.IsInf(b.Multiplier, 1)) {
		errs = append(errs, fmt.Errorf("field Retry.Backoff.Multiplier is %v, must be a finite number of at least 1", b.Multiplier))
	}
	if b.Jitter < FullJitter || b.Jitter > NoJitter {
		errs = append(errs, fmt.Errorf("field Retry.Backoff.Jitter is %d, which is not a kind of jitter", b.Jitter))
	}
	return errors.Join(errs...)
}

func (b *Backoff) defaults() (base, maxPause time.Duration, multiplier float64) {
	base, maxPause, multiplier = b.Base, b.Max, b.Multiplier
	if base <= 0 {
		base = defaultBase
	}
	if maxPause <= 0 {
		maxPause = defaultMax
	}
	if !(multiplier > 0) { // also if it is NaN; gRFC A6 allows less than 1
		multiplier = defaultMultiplier
	}
	return base, max(base, maxPause), multiplier
}

// Bound returns the bound of the nth pause in a row, counted from 1.
func (b *Backoff) Bound(n int) time.Duration {
	base, maxPause, multiplier := b.defaults()
	bound := float64(base) * math.Pow(multiplier, float64(n-1))
	if bound >= float64(maxPause) { // also if it is infinite
		return maxPause
	}
	return time.Duration(bound)
}

// Pause returns the nth pause in a row, counted from 1. The argument previous is the pause
// before it, and random is within [0, 1).
func (b *Backoff) Pause(n int, previous time.Duration, random float64) time.Duration {
	bound := b.Bound(n)
	share := func(d time.Duration) time.Duration { return time.Duration(random * float64(d)) }
	switch b.Jitter {
	case EqualJitter:
		return bound - bound/2 + share(bound/2)
	case DecorrelatedJitter:
		base, maxPause, _ := b.defaults()
		return min(maxPause, base+share(max(0, 3*max(base, previous)-base)))
	case NoJitter:
		return bound
	default:
		return share(bound)
	}
}
