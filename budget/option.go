package budget

import (
	"errors"
	"fmt"
	"math"
)

// The defaults of [New].
const (
	defaultName         = "default"
	defaultRatio        = 0.2
	defaultMinPerSecond = 0.02
	defaultPerRequest   = 10
	defaultBurst        = 3
)

// The largest valid values of the options.
const (
	maxRate   = 1e6
	maxTokens = 1_000_000
	maxCount  = 65535 // the largest number that a request header can carry
)

// An Option configures a [Budget] that [New] returns.
type Option func(*settings)

type settings struct {
	name         string
	ratio        float64
	minPerSecond float64
	perRequest   int
	burst        int
	errs         []error
}

// Name sets the name that metrics show for the budget. Give each budget of a process its own name. The
// default is "default".
func Name(name string) Option {
	return func(s *settings) { s.name = name }
}

// Ratio sets the number of tokens that a target's bucket earns for each successful reply, and that a
// request earns for each call it makes. It must be between 0 and 1e6. The default is 0.2: five successes
// pay for one extra attempt.
func Ratio(tokens float64) Option {
	return func(s *settings) { s.ratio = s.rate("Ratio", tokens) }
}

// MinPerSecond sets the number of tokens that a target's bucket earns per second regardless of successes,
// so that a client with little traffic can retry too. It must be between 0 and 1e6. The default is 0.02,
// which is one token in 50 seconds.
func MinPerSecond(tokens float64) Option {
	return func(s *settings) { s.minPerSecond = s.rate("MinPerSecond", tokens) }
}

// PerRequest sets the number of tokens that a root request starts with. It must be between 0 and 65535.
// The default is 10. With 0, a request has only the tokens that its own calls earn.
func PerRequest(tokens int) Option {
	return func(s *settings) { s.perRequest = s.count("PerRequest", tokens, maxCount) }
}

// Burst sets the number of tokens that a target's bucket starts with, and that it can always hold. It
// must be between 0 and 1e6. The default is 3. The bucket of a busy target can hold more: Ratio tokens
// for each success of the last second.
func Burst(tokens int) Option {
	return func(s *settings) { s.burst = s.count("Burst", tokens, maxTokens) }
}

// share returns the whole tokens that a number of calls earns.
func (s *settings) share(calls int32) int32 {
	return int32(min(s.ratio*float64(max(0, calls)), maxTokens))
}

func (s *settings) rate(name string, v float64) float64 {
	valid := max(0, min(v, maxRate))
	if math.IsNaN(v) {
		valid = 0
	}
	if valid != v {
		s.errs = append(s.errs, fmt.Errorf("%s(%v): must be between 0 and %v", name, v, float64(maxRate)))
	}
	return valid
}

func (s *settings) count(name string, v, limit int) int {
	valid := max(0, min(v, limit))
	if valid != v {
		s.errs = append(s.errs, fmt.Errorf("%s(%d): must be between 0 and %d", name, v, limit))
	}
	return valid
}

func (s *settings) err() error { return errors.Join(s.errs...) }
