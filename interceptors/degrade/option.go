package degrade

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc/codes"
)

// Level is how far a service, or a request, is degraded.
type Level int

// The levels.
const (
	Normal Level = iota
	Degraded
	Minimal
	Emergency
)

// String returns the level's name, such as "degraded".
func (l Level) String() string {
	if l < Normal || l > Emergency {
		return fmt.Sprintf("Level(%d)", int(l))
	}
	return [...]string{"normal", "degraded", "minimal", "emergency"}[l]
}

// Feature is something that a service can do without.
type Feature struct {
	// Name names the feature in errors and traces.
	Name string
	// OffFrom is the first level at which the feature is off. The zero value counts as Degraded.
	OffFrom Level
}

// Option configures a [Controller].
type Option func(*settings) error

type settings struct {
	errors   shares
	slow     shares
	slower   time.Duration
	window   time.Duration
	minCalls int
	hold     time.Duration
	codes    []codes.Code
	methods  map[string]Level
	meters   metric.MeterProvider
	onChange func(from, to Level)
}

// shares are the shares of calls from which on a level is reached, by level. They are 0 if there are none.
type shares [Emergency + 1]float64

func newSettings() *settings {
	return &settings{
		errors: shares{Degraded: 0.1, Minimal: 0.25, Emergency: 0.5},
		window: 10 * time.Second, minCalls: 20, hold: 30 * time.Second, methods: map[string]Level{},
		codes: []codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.Internal, codes.Unknown, codes.DataLoss, codes.ResourceExhausted},
	}
}

// ErrorRate sets the shares of failed calls from which on the levels are reached. The default is 0.1, 0.25 and 0.5.
func ErrorRate(degraded, minimal, emergency float64) Option {
	return func(s *settings) (err error) {
		s.errors, err = newShares("ErrorRate", degraded, minimal, emergency)
		return err
	}
}

// SlowCalls sets the shares of calls that take longer than a duration from which on the levels are reached. A stream
// counts as a call that is not slow. By default, latency does not count.
func SlowCalls(longer time.Duration, degraded, minimal, emergency float64) Option {
	return func(s *settings) (err error) {
		if longer <= 0 {
			return fmt.Errorf("SlowCalls(%v): must be positive", longer)
		}
		s.slower = longer
		s.slow, err = newShares("SlowCalls", degraded, minimal, emergency)
		return err
	}
}

func newShares(name string, degraded, minimal, emergency float64) (shares, error) {
	if degraded > 0 && degraded <= minimal && minimal <= emergency && emergency <= 1 {
		return shares{Degraded: degraded, Minimal: minimal, Emergency: emergency}, nil
	}
	return shares{}, fmt.Errorf("%s(%v, %v, %v): must be ascending shares above 0 and at most 1", name, degraded, minimal, emergency)
}

// Window is the time over which shares are computed, in ten steps, and how many calls are needed at least; with fewer, no
// share counts. The default is 10 s and 20 calls.
func Window(d time.Duration, minCalls int) Option {
	return func(s *settings) error {
		if d < 10*time.Millisecond || minCalls < 1 {
			return fmt.Errorf("Window(%v, %d): must be at least 10ms, and the number positive", d, minCalls)
		}
		s.window, s.minCalls = d, minCalls
		return nil
	}
}

// Hold is how long the conditions for a lower level must last before the level falls by one step. The default is 30 s.
func Hold(d time.Duration) Option {
	return func(s *settings) error {
		if d <= 0 {
			return fmt.Errorf("Hold(%v): must be positive", d)
		}
		s.hold = d
		return nil
	}
}

// Codes are the codes of failures. The default is UNAVAILABLE, DEADLINE_EXCEEDED, INTERNAL, UNKNOWN, DATA_LOSS and
// RESOURCE_EXHAUSTED.
func Codes(failures ...codes.Code) Option {
	return func(s *settings) error {
		if len(failures) == 0 || slices.Contains(failures, codes.OK) {
			return errors.New("Codes: must be codes of failures, and at least one")
		}
		s.codes = slices.Clone(failures)
		return nil
	}
}

// Method turns a whole method, "/package.Service/Method", off from a level on. Its calls are answered with DEGRADED.
func Method(fullMethod string, offFrom Level) Option {
	return func(s *settings) error {
		if offFrom < Degraded || offFrom > Emergency {
			return fmt.Errorf("Method(%q, %v): must be Degraded, Minimal or Emergency", fullMethod, offFrom)
		}
		s.methods[fullMethod] = offFrom
		return nil
	}
}

// WithMeterProvider exports hopbound.degrade.level, the level as a number from 0, and hopbound.degrade.changes, a counter
// by the new hopbound.degrade.level.
func WithMeterProvider(p metric.MeterProvider) Option {
	return func(s *settings) error {
		if p == nil {
			return errors.New("WithMeterProvider: nil")
		}
		s.meters = p
		return nil
	}
}

// OnChange calls f when the level changes. The controller waits for f, which must be quick and must not call it.
func OnChange(f func(from, to Level)) Option {
	return func(s *settings) error {
		if f == nil {
			return errors.New("OnChange: nil")
		}
		s.onChange = f
		return nil
	}
}
