package budget

import (
	"math"
	"sync"
	"time"
)

// token is one token in the purse's unit. Whole numbers keep the bound exact
// where sums of floating-point ratios would drift.
const token int64 = 1e9

// Budget is the purse that pays for the extra attempts of all root requests
// that share it. It is a token bucket: it earns Ratio tokens for each
// successful request and MinPerSecond tokens each second, and it holds at most
// Burst. In an outage nothing succeeds, so next to nothing is earned, and
// amplification goes to 1.
//
// Over any time since it was made, the extra attempts charged to it are at
// most
//
//	Ratio × successes + MinPerSecond × seconds + Burst + debt
//
// where debt, the balance below zero, is what credit attempts have cost and
// later earnings pay for. While there is debt, nothing is granted.
//
// A Budget outlives changes of configuration and of connections: make one for
// a process, and share it. It is safe for concurrent use. The zero value earns
// nothing and grants nothing.
type Budget struct {
	name       string
	ratio      int64   // units earned by a success
	perNano    float64 // units earned in a nanosecond: tokens per second, as it happens
	perRequest int
	burst      int64
	err        error

	mu    sync.Mutex
	level int64
	last  time.Time // up to when time has been paid for; zero before the first use
}

// New returns a full purse. An option out of its range is held to the nearest
// value within, and [Budget.Err] tells.
func New(opts ...Option) *Budget {
	s := settings{
		name:         DefaultName,
		ratio:        DefaultRatio,
		minPerSecond: DefaultMinPerSecond,
		perRequest:   DefaultPerRequest,
		burst:        DefaultBurst,
	}
	for _, opt := range opts {
		if opt != nil {
			opt(&s)
		}
	}
	burst := int64(s.burst) * token
	return &Budget{
		name:       s.name,
		ratio:      int64(s.ratio * float64(token)),
		perNano:    s.minPerSecond,
		perRequest: s.perRequest,
		burst:      burst,
		err:        s.err(),
		level:      burst,
	}
}

// Name returns the name by which metrics know the purse.
func (b *Budget) Name() string { return b.name }

// Err returns what was wrong with the options of [New], or nil. Whoever is
// handed a Budget as part of a configuration checks it.
func (b *Budget) Err() error { return b.err }

// Twin returns another purse with the same settings, full.
func (b *Budget) Twin() *Budget {
	return &Budget{
		name: b.name, ratio: b.ratio, perNano: b.perNano, perRequest: b.perRequest, burst: b.burst,
		err: b.err, level: b.burst,
	}
}

// Balance returns how many tokens are in the purse now: fractions while they
// are being earned, and less than zero while credit attempts are being paid
// for. It is [Budget.BalanceAt] of the current time.
func (b *Budget) Balance() float64 { return b.BalanceAt(time.Now()) }

// BalanceAt returns how many tokens are in the purse at a time. Times before
// the latest one seen count as that one.
func (b *Budget) BalanceAt(now time.Time) float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance(now)
	return float64(b.level) / float64(token)
}

// Take takes up to n whole tokens out of the purse and returns how many it
// took: none from an empty purse or one in debt.
//
// It serves a purse that is not granted from but asked for each attempt, such
// as the meter that guards one target.
func (b *Budget) Take(now time.Time, n int) int { return b.take(now, n, 0) }

// Put puts back n tokens that were taken and not used. A negative n charges
// what was used beyond what had been taken, into debt if need be. More than a
// thousand million either way counts as that.
func (b *Budget) Put(now time.Time, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance(now)
	b.add(int64(max(-1e9, min(n, 1e9))) * token)
}

// Success earns what a success earns.
func (b *Budget) Success(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance(now)
	b.add(b.ratio)
}

// take takes up to n whole tokens but leaves keep of them.
func (b *Budget) take(now time.Time, n, keep int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance(now)
	there := b.level/token - int64(keep)
	took := max(0, min(int64(n), there))
	b.level -= took * token
	return int(took)
}

// grant takes what a request starts out with. It leaves half of the burst to
// requests that come back failed and find nothing free: a token in the purse
// serves whoever fails, one that is out serves one request only, and most
// requests do not fail.
func (b *Budget) grant(now time.Time) int {
	return b.take(now, b.perRequest, int(b.burst/token/2))
}

// add adds n units, which may be negative, up to the burst.
func (b *Budget) add(n int64) { b.level = min(b.level+n, b.burst) }

// advance earns what the time since the last call is worth. It moves on by no
// more time than it has paid for in whole units, lest frequent calls round a
// small rate down to nothing.
func (b *Budget) advance(now time.Time) {
	if b.last.IsZero() {
		b.last = now
		return
	}
	elapsed := now.Sub(b.last)
	if elapsed <= 0 || b.perNano == 0 {
		return
	}
	if missing := b.burst - b.level; float64(elapsed)*b.perNano >= float64(missing) {
		b.add(missing)
		b.last = now
		return
	}
	earned := math.Floor(float64(elapsed) * b.perNano)
	b.add(int64(earned))
	b.last = b.last.Add(time.Duration(math.Ceil(earned / b.perNano)))
}
