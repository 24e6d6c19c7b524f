package budget

import (
	"errors"
	"fmt"
	"math"
)

// Defaults of [New], and the most that each option may be set to.
const (
	DefaultName         = "default"
	DefaultRatio        = 0.2
	DefaultMinPerSecond = 1.0
	DefaultPerRequest   = 3
	DefaultBurst        = 10

	maxRate   = 1e6
	maxTokens = 1_000_000
	maxCount  = 65535 // what a request header can name
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

// Name sets the name by which metrics know the purse, if a process has several.
// The default is "default".
func Name(name string) Option {
	return func(s *settings) { s.name = name }
}

// Ratio sets how many tokens a successful root request earns, from 0 to 1e6:
// with 0.2, the default, five successes pay for one extra attempt.
func Ratio(tokensPerSuccess float64) Option {
	return func(s *settings) { s.ratio = s.rate("Ratio", tokensPerSuccess) }
}

// MinPerSecond sets how many tokens are earned in each second whatever happens,
// from 0 to 1e6, so that a service with little traffic may retry too. The
// default is 1.
func MinPerSecond(tokens float64) Option {
	return func(s *settings) { s.minPerSecond = s.rate("MinPerSecond", tokens) }
}

// PerRequest sets how many tokens one root request is granted at most, from 0,
// which turns extra attempts off, to 65535. The default is 3.
func PerRequest(tokens int) Option {
	return func(s *settings) { s.perRequest = s.count("PerRequest", tokens, maxCount) }
}

// Burst sets how many tokens the purse holds at most, and at the beginning,
// from 0 to 1e6. The default is 10.
//
// Tokens granted to requests under way are out of the purse until these end.
// With a burst of twice PerRequest times the number of requests under way,
// every retry can be made next to its failure; with less, some are made by the
// root, through the whole chain again.
func Burst(tokens int) Option {
	return func(s *settings) { s.burst = s.count("Burst", tokens, maxTokens) }
}

func (s *settings) rate(name string, v float64) float64 {
	held := max(0, min(v, maxRate))
	if math.IsNaN(v) {
		held = 0
	}
	if held != v {
		s.errs = append(s.errs, fmt.Errorf("budget: %s(%v) is not within 0 and %v", name, v, float64(maxRate)))
	}
	return held
}

func (s *settings) count(name string, v, limit int) int {
	held := max(0, min(v, limit))
	if held != v {
		s.errs = append(s.errs, fmt.Errorf("budget: %s(%d) is not within 0 and %d", name, v, limit))
	}
	return held
}

func (s *settings) err() error { return errors.Join(s.errs...) }
