package breaker

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc/codes"
)

// State is a state of a breaker.
type State string

// The states.
const (
	Closed   State = "closed"
	Open     State = "open"
	HalfOpen State = "half-open"
)

// Option configures breakers.
type Option func(*settings) error

type settings struct {
	consecutive uint32
	failures    rate
	slow        rate
	slower      time.Duration
	window      time.Duration
	openFor     time.Duration
	probes      uint32
	codes       []codes.Code
	perTarget   bool
	meters      metric.MeterProvider
	onChange    func(target, method string, from, to State)
}

// rate is a share of the calls, of at least minCalls; 0 for none.
type rate struct {
	share    float64
	minCalls uint32
}

func defaults() *settings {
	return &settings{
		consecutive: 5,
		failures:    rate{0.5, 20},
		window:      10 * time.Second,
		openFor:     5 * time.Second,
		probes:      1,
		codes:       []codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.Internal, codes.Unknown, codes.DataLoss},
	}
}

// ConsecutiveFailures opens a breaker after n failures in a row. The default is 5, and 0 turns this condition
// off.
func ConsecutiveFailures(n int) Option {
	return func(s *settings) error {
		if n < 0 {
			return fmt.Errorf("ConsecutiveFailures(%d): must not be negative", n)
		}
		s.consecutive = uint32(n) //nolint:gosec // nobody waits for 4 billion failures
		return nil
	}
}

// FailureRate opens a breaker if at least a share of the calls in the window has failed, and there were at
// least minCalls. The default is 0.5 of at least 20 calls. A share of 0 turns this condition off.
func FailureRate(share float64, minCalls int) Option {
	return func(s *settings) (err error) {
		s.failures, err = newRate("FailureRate", share, minCalls)
		return err
	}
}

// SlowCalls opens a breaker if at least a share of the calls in the window took longer than a duration, and
// there were at least minCalls. Streams are not measured. By default there is no such condition.
func SlowCalls(longer time.Duration, share float64, minCalls int) Option {
	return func(s *settings) (err error) {
		if longer <= 0 {
			return fmt.Errorf("SlowCalls(%v): must be positive", longer)
		}
		s.slower = longer
		s.slow, err = newRate("SlowCalls", share, minCalls)
		return err
	}
}

func newRate(name string, share float64, minCalls int) (rate, error) {
	if share >= 0 && share <= 1 && minCalls >= 1 {
		return rate{share, uint32(minCalls)}, nil //nolint:gosec // there are not 4 billion calls in a window
	}
	return rate{}, fmt.Errorf("%s(%v, %d): the share must be between 0 and 1, and the number positive", name, share, minCalls)
}

// Window is the time over which shares are computed, in ten steps. The default is 10 s.
func Window(d time.Duration) Option {
	return func(s *settings) error {
		if d < 10*time.Millisecond {
			return fmt.Errorf("Window(%v): must be at least 10ms", d)
		}
		s.window = d
		return nil
	}
}

// OpenFor is how long a breaker stays open before it sends probes. The default is 5 s.
func OpenFor(d time.Duration) Option {
	return func(s *settings) error {
		if d <= 0 {
			return fmt.Errorf("OpenFor(%v): must be positive", d)
		}
		s.openFor = d
		return nil
	}
}

// Probes is how many attempts a half-open breaker sends, all of which must succeed. The default is 1.
func Probes(n int) Option {
	return func(s *settings) error {
		if n < 1 || n > 1000 {
			return fmt.Errorf("Probes(%d): must be between 1 and 1000", n)
		}
		s.probes = uint32(n)
		return nil
	}
}

// Codes are the codes of failures. The default is UNAVAILABLE, DEADLINE_EXCEEDED, INTERNAL, UNKNOWN and DATA_LOSS.
//
// RESOURCE_EXHAUSTED is not among them: a server that rejects what is too much for it serves the rest, and an open
// breaker would keep that away from it too.
func Codes(failures ...codes.Code) Option {
	return func(s *settings) error {
		if len(failures) == 0 || slices.Contains(failures, codes.OK) {
			return errors.New("Codes: must be codes of failures, and at least one")
		}
		s.codes = slices.Clone(failures)
		return nil
	}
}

// PerTarget makes one breaker for all methods of a target. By default each method has its own.
func PerTarget() Option {
	return func(s *settings) error { s.perTarget = true; return nil }
}

// WithMeterProvider exports hopbound.breaker.changes, a counter of changes by grpc.target, grpc.method and
// the new hopbound.breaker.state, and hopbound.breaker.open, the number of breakers that are not closed.
func WithMeterProvider(p metric.MeterProvider) Option {
	return func(s *settings) error {
		if p == nil {
			return errors.New("WithMeterProvider: nil")
		}
		s.meters = p
		return nil
	}
}

// OnChange calls f when a breaker changes its state. The method is "/service/method", and empty with
// [PerTarget]. The breaker waits for f, which must be quick and must not make calls.
func OnChange(f func(target, method string, from, to State)) Option {
	return func(s *settings) error {
		if f == nil {
			return errors.New("OnChange: nil")
		}
		s.onChange = f
		return nil
	}
}
