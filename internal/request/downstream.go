package request

import (
	"sync"

	"google.golang.org/grpc/codes"
)

// Downstream records the outgoing calls of a request that failed and were not retried. From these
// records, the hop decides whether its own failure is a consequence of a failed call, and marks its
// failure non-retryable if so. Downstream is safe for concurrent use.
type Downstream struct {
	mu sync.Mutex
	failures
}

// failures are what a Downstream has recorded.
type failures struct {
	codes    Codes // of failures that no retry policy names
	gaveUp   bool  // a retryable failure was not retried, and must not be retried above
	noTokens bool  // a retryable failure was not retried because the request had no tokens

	hasPushback bool // the handler has said when to retry
	pushback    int64
}

// Cause is why a failed call was not retried.
type Cause int

// The causes.
const (
	// GaveUp is any cause not listed below: no hop above may retry the failure.
	GaveUp Cause = iota
	// NotRetryable means that the policy does not retry such a failure.
	NotRetryable
	// NoTokens means that only the request budget was empty.
	NoTokens
	// RequestEnded means that the request's deadline had passed. The caller decides
	// whether there is time for another request.
	RequestEnded
)

// Failed records a call that failed.
func (d *Downstream) Failed(code codes.Code, cause Cause) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch cause {
	case NotRetryable:
		d.codes |= CodeSet(code)
	case RequestEnded:
	case NoTokens:
		d.noTokens = true
	case GaveUp:
		d.gaveUp = true
	}
}

// Mark returns how the request's own failure is marked: not at all (false, false), as one that must
// not be retried (true, false), or as one that a hop with tokens may retry (true, true).
//
// After a retryable failure below that was not retried, any failure counts as its consequence,
// whatever code the handler made of it. After a failure that no policy retries, only a failure with
// the same code does.
func (d *Downstream) Mark(code codes.Code) (marked, noTokens bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	same := d.codes&CodeSet(code) != 0
	return d.gaveUp || d.noTokens || same, d.noTokens && !d.gaveUp && !same
}

// Push records after how many milliseconds the handler wants its caller to retry. A negative number
// means that the caller must not retry; a later Push does not change that.
func (d *Downstream) Push(ms int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.hasPushback || d.pushback >= 0 {
		d.hasPushback, d.pushback = true, ms
	}
	d.gaveUp = d.gaveUp || ms < 0
}

// Overrule replaces everything recorded before by the pushback ms, because the failure that the
// caller receives is not a consequence of the recorded failures.
func (d *Downstream) Overrule(ms int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failures = failures{hasPushback: true, pushback: ms, gaveUp: ms < 0}
}

// Pushback returns the pushback for the caller, or false if there is none.
func (d *Downstream) Pushback(marked bool) (ms int64, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if marked {
		return -1, true
	}
	return d.pushback, d.hasPushback
}

// CopyFrom replaces the records of d by those of other, because the request returns the failure of
// other's request.
func (d *Downstream) CopyFrom(other *Downstream) {
	other.mu.Lock()
	known := other.failures
	other.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failures = known
}

// Codes is a set of status codes. All codes that gRPC does not define share one bit.
type Codes uint32

// CodeSet returns the set of one code.
func CodeSet(code codes.Code) Codes { return 1 << min(code, 31) }
