package interceptors

import (
	"time"

	"github.com/hopbound/hopbound/internal/outbound"
	"github.com/hopbound/hopbound/internal/policy"
	"google.golang.org/grpc/codes"
)

// Policies says how the calls of each method are made. ForMethod takes a full method name, such as
// "/shop.v1.Orders/Get", and must be safe for concurrent use. It is called once for each call. The policy
// that it returns must not be changed afterwards.
//
// A source of policies may also have a method MethodPolicies() [MethodPolicies], which returns all policies that it has
// now. Then [Client.Check] checks these policies, and metrics have the names of their methods as attributes.
type Policies interface {
	ForMethod(fullMethod string) Policy
}

// MethodPolicies maps names to policies. A name is a method ("/shop.v1.Orders/Get"), a service
// ("/shop.v1.Orders/") for those of its methods that have no entry, or empty for all other methods. A
// method without any entry has the zero [Policy].
type MethodPolicies map[string]Policy

// ForMethod returns the policy under the most specific name.
func (m MethodPolicies) ForMethod(fullMethod string) Policy {
	if p, ok := policy.Lookup(m, fullMethod); ok {
		return p
	}
	return m[""]
}

// Validate returns the errors of the names and policies, joined, each with its name. [NewClient] returns
// the same errors for policies of this type that are passed to [WithPolicy]. Implementations of [Policies]
// that read policies from elsewhere can validate them with it.
func (m MethodPolicies) Validate() error { return m.byName().Validate() }

// byName returns the policies for package policy.
func (m MethodPolicies) byName() policy.ByName {
	all := policy.ByName{}
	for name, p := range m {
		all[name] = p.resolve()
	}
	return all
}

// methodPolicies returns what is known of all policies of a source.
func methodPolicies(p Policies) MethodPolicies {
	switch p := p.(type) {
	case MethodPolicies:
		return p
	case interface{ MethodPolicies() MethodPolicies }:
		return p.MethodPolicies()
	default:
		return nil
	}
}

// source returns policies as a source for package outbound.
func source(p Policies) outbound.Source {
	if m, ok := p.(MethodPolicies); ok {
		return m.byName()
	}
	return dynamicPolicies{p}
}

// dynamicPolicies are policies that may change between calls.
type dynamicPolicies struct{ Policies }

func (p dynamicPolicies) Has(fullMethod string) bool {
	_, ok := methodPolicies(p.Policies)[fullMethod]
	return ok
}

func (p dynamicPolicies) ForMethod(fullMethod string) policy.Policy {
	own := p.Policies.ForMethod(fullMethod)
	return own.resolve()
}

// Policy says how the calls of a method are made. The zero value makes up to three attempts if the server
// is unavailable and the call is safe to repeat, within the deadline of the context. A field that is zero
// has the value of the next source of policies; [WithPolicy] lists the sources.
type Policy struct {
	// Timeout limits the whole call, including all attempts and pauses, unless the context has an
	// earlier deadline. Zero is no limit.
	Timeout time.Duration

	// AttemptTimeout limits each attempt. An attempt that reaches this limit may be retried. Zero is
	// no limit other than the call's, and [AttemptTimeoutShared] divides the remaining time. For a
	// stream, AttemptTimeout limits the time until the first response arrives.
	AttemptTimeout time.Duration

	// Retry says which failures are retried, and how. If it is nil, up to three attempts are made if
	// the server is unavailable. A retry policy that is set also declares the method safe to
	// repeat, as in gRPC's service config, unless the client is made with [WithStrictSafety].
	Retry *RetryPolicy

	// Hedge starts further attempts before the first has ended. At most one of Retry and Hedge may
	// be set. Hedge declares the method safe to repeat, as Retry does.
	Hedge *HedgePolicy

	// WaitForReady makes calls wait for a connection instead of failing, as gRPC's call option does.
	// If it is false, the call option decides.
	WaitForReady bool

	// Idempotency says whether the method is safe to repeat. It takes precedence over the method's
	// descriptor and over Retry and Hedge. Calls of a method that is [NotIdempotent] also get no
	// child key.
	Idempotency IdempotencyLevel

	// KeyRequired gives each call that has no idempotency key a new one, which all its attempts
	// carry. It has no effect on streams.
	KeyRequired bool

	// KeyField is a string field of the request into which the call's key is written, such as
	// request_id (AIP-155). A value that the request already has in this field is left unchanged. If
	// the call has no other key, that value is the call's key; an invalid value fails the call.
	// Empty is no field.
	KeyField string
}

// AttemptTimeoutShared is an AttemptTimeout of a [Policy]. It divides the time until the call's deadline,
// minus the pauses, between an attempt and the further attempts that the policy and both budgets allow
// when it starts. An attempt gets at least twice the recent 95th percentile of the method's latency, so
// that healthy attempts are not cut short. If the call has no deadline, or no further attempt is allowed,
// the attempt has no timeout of its own.
const AttemptTimeoutShared time.Duration = -1

// IdempotencyLevel says whether a method is safe to repeat, in the terms of protobuf's method option
// idempotency_level.
type IdempotencyLevel int

// The levels. Unspecified, the zero value, means the level in the method's descriptor. A method without
// a descriptor, or without the option in it, is not safe to repeat.
const (
	Unspecified IdempotencyLevel = iota
	NotIdempotent
	Idempotent
	NoSideEffects
)

// RetryPolicy says which failures are retried, and how. It follows gRFC A6.
type RetryPolicy struct {
	// MaxAttempts includes the first attempt, so 1 disables retries. Zero is 3, and the maximum is
	// 100.
	MaxAttempts int

	// Codes are the status codes that are retried. If Codes is empty, only UNAVAILABLE is retried.
	Codes []codes.Code

	// Backoff is the pause before each attempt after the first.
	Backoff Backoff
}

// HedgePolicy starts the next attempt of a call while earlier ones are still under way: after a delay, or
// at once when one has failed. The first successful reply wins, and the other attempts are cancelled.
// HedgePolicy follows gRFC A6 and "The Tail at Scale" (Dean and Barroso, 2013).
//
// Each hedge takes tokens from both budgets, as a retry does, so that only one attempt is made if a
// budget is empty. Three kinds of calls are not hedged: calls that are not safe to repeat, calls that
// stream requests, and unary calls whose response is not a protobuf message.
type HedgePolicy struct {
	// MaxAttempts includes the first attempt. Zero is 2, and the maximum is 100.
	MaxAttempts int

	// Delay is the time from the start of an attempt to the start of the next. Zero starts all
	// attempts at once, and [HedgeAtP95] waits for the 95th percentile of the method's latency.
	Delay time.Duration

	// NonFatal are the status codes of failures that do not end the call: the attempts under way go
	// on, and the next attempt starts at once or, if the server sent a pushback, after that time.
	// Two more failures do not end the call: an attempt has run out of its own timeout, or another
	// call with the same idempotency key is still running. All other failures end the call. Nil is
	// UNAVAILABLE alone; an empty slice that is not nil is no code at all.
	NonFatal []codes.Code
}

// HedgeAtP95 is a Delay of a [HedgePolicy]. The next attempt starts when the last has taken longer than
// the recent 95th percentile of the attempts of the same method to the same target. Until 40 attempts
// have been measured, only a failure starts another attempt.
const HedgeAtP95 time.Duration = -1

// Backoff is the pause before an attempt: exponential, with jitter. The zero value pauses for up to 50 ms
// before the second attempt, for up to 100 ms before the third, and so on, but never for more than a
// second.
type Backoff struct {
	// Base is the bound of the first pause. Zero is 50 ms.
	Base time.Duration

	// Max is the bound of all pauses. Zero is a second, or Base if that is longer.
	Max time.Duration

	// Multiplier is the factor by which the bound grows from one pause to the next. Zero is 2, and
	// it must not be less than 1.
	Multiplier float64

	// Jitter says how a pause is drawn below its bound.
	Jitter Jitter
}

// Jitter says how a pause is drawn below its bound. The names are those of "Exponential Backoff And
// Jitter" (AWS Architecture Blog, 2015).
type Jitter int

const (
	// FullJitter draws a pause between 0 and its bound. It is the zero value, and spreads retries
	// best.
	FullJitter Jitter = iota
	// EqualJitter draws a pause between half of its bound and the bound.
	EqualJitter
	// DecorrelatedJitter draws a pause between Base and three times the pause before, up to Max. It
	// ignores Multiplier.
	DecorrelatedJitter
	// NoJitter pauses for exactly the bound.
	NoJitter
)

// resolve returns the policy for package policy.
func (p *Policy) resolve() policy.Policy {
	r := policy.Policy{
		Timeout: p.Timeout, AttemptTimeout: p.AttemptTimeout, WaitForReady: p.WaitForReady,
		Idempotency: policy.Level(p.Idempotency), KeyRequired: p.KeyRequired, KeyField: p.KeyField,
	}
	if p.Retry != nil {
		b := p.Retry.Backoff
		r.Retry = &policy.Retry{
			MaxAttempts: p.Retry.MaxAttempts, Codes: p.Retry.Codes,
			Backoff: policy.Backoff{Base: b.Base, Max: b.Max, Multiplier: b.Multiplier, Jitter: policy.Jitter(b.Jitter)},
		}
	}
	if p.Hedge != nil {
		r.Hedge = &policy.Hedge{MaxAttempts: p.Hedge.MaxAttempts, Delay: p.Hedge.Delay, NonFatal: p.Hedge.NonFatal}
	}
	return r
}
