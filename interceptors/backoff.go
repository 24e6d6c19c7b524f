package interceptors

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

// Backoff is the pause before an attempt: exponential, with jitter. The zero
// value pauses for up to 50 ms, then 100 ms, and so on up to a second.
type Backoff struct {
	// Base is the bound of the first pause. Zero is 50 ms.
	Base time.Duration

	// Max is the bound of all pauses. Zero is a second, or Base if that is more.
	Max time.Duration

	// Multiplier is how much the bound grows from one pause to the next. Zero is
	// 2, and it may not be less than 1.
	Multiplier float64

	// Jitter is how a pause is drawn below its bound.
	Jitter Jitter
}

// Jitter is how a pause is drawn. The names are those of "Exponential Backoff
// And Jitter" (AWS Architecture Blog, 2015).
type Jitter int

const (
	// FullJitter draws a pause between nothing and its bound. It is the zero
	// value, and spreads best.
	FullJitter Jitter = iota
	// EqualJitter draws a pause between half of its bound and the bound.
	EqualJitter
	// DecorrelatedJitter draws a pause between Base and three times the pause
	// before, up to Max. Multiplier does not matter.
	DecorrelatedJitter
	// NoJitter pauses for the bound.
	NoJitter
)

func (b *Backoff) validate() error {
	var errs []error
	if b.Base < 0 || b.Max < 0 {
		errs = append(errs, fmt.Errorf("field Backoff.Base %v and Max %v must not be less than nothing", b.Base, b.Max))
	}
	if b.Max > 0 && b.Max < b.Base {
		errs = append(errs, fmt.Errorf("field Backoff.Max %v is less than Base %v", b.Max, b.Base))
	}
	if b.Multiplier != 0 && !(b.Multiplier >= 1 && !math.IsInf(b.Multiplier, 1)) {
		errs = append(errs, fmt.Errorf("field Backoff.Multiplier is %v, less than 1 or no number", b.Multiplier))
	}
	if b.Jitter < FullJitter || b.Jitter > NoJitter {
		errs = append(errs, fmt.Errorf("field Backoff.Jitter is %d, none of the known", b.Jitter))
	}
	return errors.Join(errs...)
}

func (b *Backoff) defaults() (base, most time.Duration, multiplier float64) {
	base, most, multiplier = b.Base, b.Max, b.Multiplier
	if base <= 0 {
		base = defaultBase
	}
	if most <= 0 {
		most = defaultMax
	}
	if !(multiplier > 0) { // also if it is no number; gRFC A6 allows less than 1
		multiplier = defaultMultiplier
	}
	return base, max(base, most), multiplier
}

// bound returns the bound of the nth pause in a row, from 1.
func (b *Backoff) bound(n int) time.Duration {
	base, most, multiplier := b.defaults()
	bound := float64(base) * math.Pow(multiplier, float64(n-1))
	if bound >= float64(most) { // also if it is infinite
		return most
	}
	return time.Duration(bound)
}

// pause returns the nth pause in a row, from 1, where previous is the one
// before it and random is within [0, 1).
func (b *Backoff) pause(n int, previous time.Duration, random float64) time.Duration {
	bound := b.bound(n)
	share := func(d time.Duration) time.Duration { return time.Duration(random * float64(d)) }
	switch b.Jitter {
	case EqualJitter:
		return bound - bound/2 + share(bound/2)
	case DecorrelatedJitter:
		base, most, _ := b.defaults()
		return min(most, base+share(max(0, 3*max(base, previous)-base)))
	case NoJitter:
		return bound
	default:
		return share(bound)
	}
}
