package interceptors

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
)

// Policy tells how the calls of a method are made. The zero value makes up to
// three attempts if the server is unavailable, of calls that are safe to
// repeat, within the deadline of the context. A field that is zero is left to
// the next source of policies, as [WithPolicy] lists them.
type Policy struct {
	// Timeout bounds the whole call, all attempts and pauses included, if the
	// context's own deadline is later or missing. Zero is no bound.
	Timeout time.Duration

	// AttemptTimeout bounds each attempt. An attempt that it ends may be
	// repeated. Zero is no bound but the call's, and AttemptTimeoutShared
	// divides what remains. For a stream it bounds the time until the first
	// response reaches the application.
	AttemptTimeout time.Duration

	// Retry tells which failures are repeated, and how. If it is nil, up to
	// three attempts are made if the server is unavailable. A policy that is
	// written out also declares the method safe to repeat, as it does in gRPC's
	// service config, unless the client is made WithStrictSafety.
	Retry *RetryPolicy

	// Hedge makes further attempts before the first has ended, in place of
	// Retry: a policy has one of the two. It declares the method safe to repeat
	// as Retry does.
	Hedge *HedgePolicy

	// WaitForReady keeps calls until there is a connection, rather than to let
	// them fail, as the call option of gRPC does. False leaves it to that.
	WaitForReady bool

	// Idempotency says whether the method is safe to repeat, over what its
	// descriptor says. Calls of a method that is [NotIdempotent] get no key from the
	// handler that makes them, either.
	Idempotency IdempotencyLevel

	// KeyRequired gives each call that has no idempotency key a new one, which all
	// its attempts carry. Not for streams.
	KeyRequired bool

	// KeyField is the field of the request, a string, that gets the call's key too,
	// such as request_id (AIP-155). A request that has something in it already
	// keeps it, and if it is valid it is the call's key, where the call has no
	// other. Empty is none.
	KeyField string
}

// AttemptTimeoutShared is an AttemptTimeout of a [Policy] that divides what remains of
// the call's deadline, less the pauses, among this attempt and those that both budgets
// could pay for now. It leaves an attempt at least twice the time within which 95 % of
// the method's attempts have ended lately, so that it does not cut healthy attempts
// short. A call without a deadline, and one that could not be retried, has no attempt
// timeout.
const AttemptTimeoutShared time.Duration = -1

// IdempotencyLevel says whether a method is safe to repeat, in the terms of the
// option idempotency_level of protobuf's methods.
type IdempotencyLevel int

// The levels. Unspecified, the zero value, is what the method's descriptor
// says; a method without a descriptor, or without the option in it, is not safe
// to repeat.
const (
	Unspecified IdempotencyLevel = iota
	NotIdempotent
	Idempotent
	NoSideEffects
)

// RetryPolicy tells which failures are repeated, and how. It is that of gRFC A6.
type RetryPolicy struct {
	// MaxAttempts counts the first attempt too, so that 1 turns retries off. Zero
	// is 3, and 100 the most.
	MaxAttempts int

	// Codes are the status codes that are repeated. None is UNAVAILABLE alone.
	Codes []codes.Code

	// Backoff is the pause before each attempt after the first.
	Backoff Backoff
}

const (
	defaultAttempts = 3
	mostAttempts    = 100
)

// HedgePolicy makes the next attempt of a call while the last is still under
// way: after a delay, or at once when one has failed. The first good reply wins,
// and the rest are cancelled. It is that of gRFC A6, after "The Tail at Scale"
// (Dean and Barroso, 2013).
//
// Each hedge is paid for like a retry, so that an empty budget leaves one plain
// call. Calls that are not safe to repeat, and calls that stream requests, are
// not hedged.
type HedgePolicy struct {
	// MaxAttempts counts the first attempt too. Zero is 2, and 100 the most.
	MaxAttempts int

	// Delay is how long after an attempt the next is made. Zero makes all at
	// once, and HedgeAtP95 waits as long as 95 % of the method's calls take.
	Delay time.Duration

	// NonFatal are the status codes on which the next attempt is made at once,
	// and the others go on. Any other failure ends the call. Nil is UNAVAILABLE
	// alone; for no code at all it must be empty and not nil.
	NonFatal []codes.Code
}

// HedgeAtP95 is a Delay of a [HedgePolicy] that makes the next attempt when the
// last has taken longer than 95 % of the attempts of the same method to the
// same target have lately. Until there have been enough to tell, a call is not
// hedged for its delay.
const HedgeAtP95 time.Duration = -1

const defaultHedgedAttempts = 2

func (p *Policy) validate() error {
	var errs []error
	if p.Timeout < 0 {
		errs = append(errs, fmt.Errorf("field Timeout is %v, less than nothing", p.Timeout))
	}
	if p.AttemptTimeout < 0 && p.AttemptTimeout != AttemptTimeoutShared {
		errs = append(errs, fmt.Errorf("field AttemptTimeout is %v, less than nothing", p.AttemptTimeout))
	}
	if p.Idempotency < Unspecified || p.Idempotency > NoSideEffects {
		errs = append(errs, fmt.Errorf("field Idempotency is %d, no known level", p.Idempotency))
	}
	if p.Retry != nil {
		errs = append(errs, p.Retry.validate())
	}
	if p.Hedge != nil {
		errs = append(errs, p.Hedge.validate())
	}
	if p.Retry != nil && p.Hedge != nil {
		errs = append(errs, errors.New("fields Retry and Hedge are both set, and exclude each other"))
	}
	return errors.Join(errs...)
}

func (r *RetryPolicy) validate() error {
	return errors.Join(
		validateAttempts("Retry.MaxAttempts", r.MaxAttempts),
		validateCodes("Retry.Codes", r.Codes),
		r.Backoff.validate(),
	)
}

func (h *HedgePolicy) validate() error {
	var err error
	if h.Delay < 0 && h.Delay != HedgeAtP95 {
		err = fmt.Errorf("field Hedge.Delay is %v, less than nothing", h.Delay)
	}
	return errors.Join(
		validateAttempts("Hedge.MaxAttempts", h.MaxAttempts),
		err,
		validateCodes("Hedge.NonFatal", h.NonFatal),
	)
}

func validateAttempts(field string, n int) error {
	if n < 0 || n > mostAttempts {
		return fmt.Errorf("field %s is %d, not within 0 and %d", field, n, mostAttempts)
	}
	return nil
}

func validateCodes(field string, list []codes.Code) error {
	var errs []error
	for _, c := range list {
		if c == codes.OK || c > codes.Unauthenticated {
			errs = append(errs, fmt.Errorf("field %s has %v, which is no failure of gRPC's", field, c))
		}
	}
	return errors.Join(errs...)
}

// attempts returns the most attempts of a call.
func (p *Policy) attempts() int {
	if p.Hedge != nil {
		if p.Hedge.MaxAttempts <= 0 {
			return defaultHedgedAttempts
		}
		return min(p.Hedge.MaxAttempts, mostAttempts)
	}
	if p.Retry == nil || p.Retry.MaxAttempts <= 0 {
		return defaultAttempts
	}
	return min(p.Retry.MaxAttempts, mostAttempts)
}

// retries reports whether failures with the code are repeated.
func (p *Policy) retries(code codes.Code) bool {
	if p.Retry == nil || len(p.Retry.Codes) == 0 {
		return code == codes.Unavailable
	}
	return slices.Contains(p.Retry.Codes, code)
}

// nonFatal reports whether a hedged attempt that fails with the code leaves the
// others running.
func (h *HedgePolicy) nonFatal(code codes.Code) bool {
	if h.NonFatal == nil {
		return code == codes.Unavailable
	}
	return slices.Contains(h.NonFatal, code)
}

func (p *Policy) backoff() Backoff {
	if p.Retry == nil {
		return Backoff{}
	}
	return p.Retry.Backoff
}

// safe reports whether a method may be repeated by its policy or, where that
// says nothing, by the level in its descriptor.
func (p *Policy) safe(declared IdempotencyLevel, strict bool) bool {
	level := p.Idempotency
	if level == Unspecified {
		if (p.Retry != nil || p.Hedge != nil) && !strict {
			return true
		}
		level = declared
	}
	return level == Idempotent || level == NoSideEffects
}
