package budget

import (
	"errors"
	"fmt"
	"math"
)

// Defaults of [New].
const (
	DefaultName         = "default"
	DefaultRatio        = 0.2
	DefaultMinPerSecond = 0.02
	DefaultPerRequest   = 10
	DefaultBurst        = 3
)

// The most that each option may be set to.
const (
	maxRate   = 1e6
	maxTokens = 1_000_000
	maxCount  = 65535 // the largest number that a request header can carry
)

// An Option configures a [Budget].
type Option func(*settings)

type settings struct {
	name         string
	ratio        float64
	minPerSecond float64
	perRequest   int
	burst        int
	errs         []error
}

// Name sets the name by which metrics know the budget, if a process has several.
// The default is "default".
func Name(name string) Option {
	return func(s *settings) { s.name = name }
}

// Ratio sets how many tokens a target's bucket earns for a successful reply, and a
// request for each call that it makes, from 0 to 1e6. With 0.2, the default, five
// successes pay for one extra attempt.
func Ratio(tokens float64) Option {
	return func(s *settings) { s.ratio = s.rate("Ratio", tokens) }
}

// MinPerSecond sets how many tokens a target's bucket earns in each second without
// any success, from 0 to 1e6, so that a client with little traffic may retry too.
// The default is 0.02, one token in 50 seconds.
func MinPerSecond(tokens float64) Option {
	return func(s *settings) { s.minPerSecond = s.rate("MinPerSecond", tokens) }
}

// PerRequest sets how many tokens a root request starts with, from 0 to 65535. The
// default is 10. With 0, a request may only use what its own calls earn.
func PerRequest(tokens int) Option {
	return func(s *settings) { s.perRequest = s.count("PerRequest", tokens, maxCount) }
}

// Burst sets how many tokens a target's bucket holds at first, and can always
// hold, from 0 to 1e6. The default is 3. A bucket holds more when the target has
// succeeded often in the last second: Ratio tokens for each success.
func Burst(tokens int) Option {
	return func(s *settings) { s.burst = s.count("Burst", tokens, maxTokens) }
}

// share returns what a number of calls earns, in whole tokens.
func (s *settings) share(calls int32) int32 {
	return int32(min(s.ratio*float64(max(0, calls)), maxTokens))
}

func (s *settings) rate(name string, v float64) float64 {
	valid := max(0, min(v, maxRate))
	if math.IsNaN(v) {
		valid = 0
	}
	if valid != v {
		s.errs = append(s.errs, fmt.Errorf("budget: %s(%v): must be between 0 and %v", name, v, float64(maxRate)))
	}
	return valid
}

func (s *settings) count(name string, v, limit int) int {
	valid := max(0, min(v, limit))
	if valid != v {
		s.errs = append(s.errs, fmt.Errorf("budget: %s(%d): must be between 0 and %d", name, v, limit))
	}
	return valid
}

func (s *settings) err() error { return errors.Join(s.errs...) }
