package policy

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
)

// Policy says how the calls of a method are made, according to one source or to all sources
// together. The fields are those of interceptors.Policy, which documents them. A field that is
// zero is not set.
type Policy struct {
	Timeout        time.Duration
	AttemptTimeout time.Duration // may be Shared
	Retry          *Retry        // at most one of Retry and Hedge is set
	Hedge          *Hedge
	WaitForReady   bool
	Idempotency    Level
	KeyRequired    bool
	KeyField       string
}

// Retry says which failures are retried, and how.
type Retry struct {
	MaxAttempts int // including the first attempt; 0 is 3
	Codes       []codes.Code
	Backoff     Backoff
}

// Hedge says when further attempts start while earlier ones are under way.
type Hedge struct {
	MaxAttempts int           // including the first attempt; 0 is 2
	Delay       time.Duration // may be AtP95
	NonFatal    []codes.Code  // nil is UNAVAILABLE alone
}

const (
	// Shared is an attempt timeout that divides the remaining time among attempts.
	Shared time.Duration = -1
	// AtP95 is a hedging delay: the 95th percentile of the method's recent latency.
	AtP95 time.Duration = -1

	// MaxAttempts is the largest number of attempts that a policy may allow.
	MaxAttempts = 100

	defaultAttempts       = 3
	defaultHedgedAttempts = 2
)

// Level says whether a method is safe to repeat, as protobuf's idempotency_level does.
type Level int

// The levels. Unspecified leaves it to the next source.
const (
	Unspecified Level = iota
	NotIdempotent
	Idempotent
	NoSideEffects
)

// Validate returns the errors of the policy, joined.
func (p *Policy) Validate() error {
	var errs []error
	if p.Timeout < 0 {
		errs = append(errs, fmt.Errorf("field Timeout is %v, must not be negative", p.Timeout))
	}
	if p.AttemptTimeout < 0 && p.AttemptTimeout != Shared {
		errs = append(errs, fmt.Errorf("field AttemptTimeout is %v, must not be negative", p.AttemptTimeout))
	}
	if p.Idempotency < Unspecified || p.Idempotency > NoSideEffects {
		errs = append(errs, fmt.Errorf("field Idempotency is %d, which is not a level", p.Idempotency))
	}
	if p.Retry != nil {
		errs = append(errs, p.Retry.validate())
	}
	if p.Hedge != nil {
		errs = append(errs, p.Hedge.validate())
	}
	if p.Retry != nil && p.Hedge != nil {
		errs = append(errs, errors.New("fields Retry and Hedge are both set, only one may be"))
	}
	return errors.Join(errs...)
}

func (r *Retry) validate() error {
	return errors.Join(
		validateAttempts("Retry.MaxAttempts", r.MaxAttempts),
		validateCodes("Retry.Codes", r.Codes),
		r.Backoff.validate(),
	)
}

func (h *Hedge) validate() error {
	var err error
	if h.Delay < 0 && h.Delay != AtP95 {
		err = fmt.Errorf("field Hedge.Delay is %v, must not be negative", h.Delay)
	}
	return errors.Join(
		validateAttempts("Hedge.MaxAttempts", h.MaxAttempts),
		err,
		validateCodes("Hedge.NonFatal", h.NonFatal),
	)
}

func validateAttempts(field string, n int) error {
	switch {
	case n < 0:
		return fmt.Errorf("field %s is %d, must not be negative", field, n)
	case n > MaxAttempts:
		return fmt.Errorf("field %s is %d, must be at most %d", field, n, MaxAttempts)
	default:
		return nil
	}
}

func validateCodes(field string, list []codes.Code) error {
	var errs []error
	for _, c := range list {
		if c == codes.OK || c > codes.Unauthenticated {
			errs = append(errs, fmt.Errorf("field %s contains %v, which is not a gRPC error code", field, c))
		}
	}
	return errors.Join(errs...)
}

// Merge returns the policy of a call. Each field has the value of the first source that sets
// it; Retry and Hedge count as one field. A nil source sets nothing.
func Merge(sources ...*Policy) Policy {
	var p Policy
	for _, s := range sources {
		if s == nil {
			continue
		}
		if p.Timeout == 0 {
			p.Timeout = s.Timeout
		}
		if p.AttemptTimeout == 0 {
			p.AttemptTimeout = s.AttemptTimeout
		}
		if p.Retry == nil && p.Hedge == nil {
			p.Retry, p.Hedge = s.Retry, s.Hedge
		}
		if p.Idempotency == Unspecified {
			p.Idempotency = s.Idempotency
		}
		if p.KeyField == "" {
			p.KeyField = s.KeyField
		}
		p.WaitForReady = p.WaitForReady || s.WaitForReady
		p.KeyRequired = p.KeyRequired || s.KeyRequired
	}
	return p
}

// Attempts returns the largest number of attempts of a call.
func (p *Policy) Attempts() int {
	if p.Hedge != nil {
		if p.Hedge.MaxAttempts <= 0 {
			return defaultHedgedAttempts
		}
		return min(p.Hedge.MaxAttempts, MaxAttempts)
	}
	if p.Retry == nil || p.Retry.MaxAttempts <= 0 {
		return defaultAttempts
	}
	return min(p.Retry.MaxAttempts, MaxAttempts)
}

// Retries reports whether failures with the code are retried.
func (p *Policy) Retries(code codes.Code) bool {
	if p.Retry == nil || len(p.Retry.Codes) == 0 {
		return code == codes.Unavailable
	}
	return slices.Contains(p.Retry.Codes, code)
}

// Continues reports whether the other attempts of a hedged call go on when one has failed
// with the code.
func (h *Hedge) Continues(code codes.Code) bool {
	if h.NonFatal == nil {
		return code == codes.Unavailable
	}
	return slices.Contains(h.NonFatal, code)
}

// Backoff returns the pauses between attempts.
func (p *Policy) Backoff() Backoff {
	if p.Retry == nil {
		return Backoff{}
	}
	return p.Retry.Backoff
}

// SingleAttempt changes p to a policy of one attempt. The same codes as before count as
// retryable, because the retries of others are recognised by these codes.
func (p *Policy) SingleAttempt() {
	once := &Retry{MaxAttempts: 1}
	switch {
	case p.Hedge != nil:
		once.Codes = p.Hedge.NonFatal
	case p.Retry != nil:
		once.Codes = p.Retry.Codes
	}
	p.Retry, p.Hedge = once, nil
}

// Safe reports whether the method is declared safe to repeat: by the policy or, if the policy
// does not say, by the level in its descriptor. Unless strict is set, a retry or hedging policy
// counts as a declaration, as in gRPC's service config.
func (p *Policy) Safe(declared Level, strict bool) bool {
	level := p.Idempotency
	if level == Unspecified {
		if (p.Retry != nil || p.Hedge != nil) && !strict {
			return true
		}
		level = declared
	}
	return level == Idempotent || level == NoSideEffects
}

// MayHaveEffect reports whether a call of the method may change something that its callee would
// recognize by a key.
func (p *Policy) MayHaveEffect(declared Level) bool {
	level := p.Idempotency
	if level == Unspecified {
		level = declared
	}
	return level != NoSideEffects && level != NotIdempotent
}
