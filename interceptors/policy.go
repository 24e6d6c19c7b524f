package interceptors

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
)

// Policies tells how the calls of each method are made. ForMethod takes a full
// method name, such as "/shop.v1.Orders/Get", and must be safe for concurrent
// use. It is asked once for each call; what it returns must not be changed
// afterwards.
type Policies interface {
	ForMethod(fullMethod string) Policy
}

// MethodPolicies are the policies of methods by name: of one method
// ("/shop.v1.Orders/Get"), of all other methods of a service
// ("/shop.v1.Orders/"), or of all others (""). A method that none of the three
// names has the zero [Policy].
type MethodPolicies map[string]Policy

// ForMethod returns the policy under the most specific name.
func (m MethodPolicies) ForMethod(fullMethod string) Policy {
	if p, ok := m[fullMethod]; ok {
		return p
	}
	if i := strings.LastIndexByte(fullMethod, '/'); i >= 0 {
		if p, ok := m[fullMethod[:i+1]]; ok {
			return p
		}
	}
	return m[""]
}

func (m MethodPolicies) validate() error {
	var errs []error
	for name, p := range m {
		if name != "" && (len(name) < 3 || name[0] != '/' || strings.Count(name, "/") != 2) {
			errs = append(errs, fmt.Errorf("policy %q: the name must be /service/method, /service/ or empty", name))
		}
		if err := p.validate(); err != nil {
			errs = append(errs, fmt.Errorf("policy %q: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// Policy tells how the calls of a method are made. The zero value makes up to
// three attempts if the server is unavailable, of calls that are safe to
// repeat, within the deadline of the context.
type Policy struct {
	// Timeout bounds the whole call, all attempts and pauses included, if the
	// context's own deadline is later or missing. Zero is no bound.
	Timeout time.Duration

	// AttemptTimeout bounds each attempt. An attempt that it ends may be
	// repeated. Zero is no bound but the call's, and AttemptTimeoutShared
	// divides what remains.
	AttemptTimeout time.Duration

	// Retry tells which failures are repeated, and how. If it is nil, up to
	// three attempts are made if the server is unavailable. A policy that is
	// written out also declares the method safe to repeat, as it does in gRPC's
	// service config, unless the client is made WithStrictSafety.
	Retry *RetryPolicy

	// Idempotency says whether the method is safe to repeat, over what its
	// descriptor says.
	Idempotency IdempotencyLevel
}

// AttemptTimeoutShared is an AttemptTimeout of a [Policy] that gives each attempt an
// equal share of what remains of the call's deadline, less the pauses between
// the attempts that may still be made. A call without a deadline gets none.
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
	return errors.Join(errs...)
}

func (r *RetryPolicy) validate() error {
	var errs []error
	if r.MaxAttempts < 0 || r.MaxAttempts > mostAttempts {
		errs = append(errs, fmt.Errorf("field Retry.MaxAttempts is %d, not within 0 and %d", r.MaxAttempts, mostAttempts))
	}
	for _, c := range r.Codes {
		if c == codes.OK || c > codes.Unauthenticated {
			errs = append(errs, fmt.Errorf("field Retry.Codes has %v, which is no failure of gRPC's", c))
		}
	}
	errs = append(errs, r.Backoff.validate())
	return errors.Join(errs...)
}

// attempts returns the most attempts of a call.
func (p *Policy) attempts() int {
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
		if p.Retry != nil && !strict {
			return true
		}
		level = declared
	}
	return level == Idempotent || level == NoSideEffects
}
