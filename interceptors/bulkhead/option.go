package bulkhead

import (
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/metric"
)

// Option configures a bulkhead.
type Option func(*settings) error

type settings struct {
	limit     int
	queue     int
	maxWait   time.Duration // 0 for none
	perMethod bool
	streams   bool
	adaptive  bool
	least     int
	most      int
	meters    metric.MeterProvider
}

// Queue is how many calls may wait for a place. The default is four for each place, and 0 lets none wait.
func Queue(n int) Option {
	return func(s *settings) error {
		if n < 0 {
			return fmt.Errorf("Queue(%d): must not be negative", n)
		}
		s.queue = n
		return nil
	}
}

// MaxWait is how long a call waits for a place at most. By default it waits until its context ends.
func MaxWait(d time.Duration) Option {
	return func(s *settings) error {
		if d <= 0 {
			return fmt.Errorf("MaxWait(%v): must be positive", d)
		}
		s.maxWait = d
		return nil
	}
}

// PerMethod gives each method its own places, of each target or of the server.
func PerMethod() Option {
	return func(s *settings) error { s.perMethod = true; return nil }
}

// WithStreams lets streams take places as well. A stream has its place until it ends.
func WithStreams() Option {
	return func(s *settings) error { s.streams = true; return nil }
}

// Adaptive lets the number of places follow the latency of calls, between least and most. It begins with the
// limit of [New], and grows while latency stays as it was, and shrinks while calls take longer.
func Adaptive(least, most int) Option {
	return func(s *settings) error {
		if least < 1 || most < least {
			return fmt.Errorf("Adaptive(%d, %d): must be positive, and the second not less than the first", least, most)
		}
		s.adaptive, s.least, s.most = true, least, most
		return nil
	}
}

// WithMeterProvider exports hopbound.bulkhead.running and hopbound.bulkhead.waiting, the calls in each state, and
// hopbound.bulkhead.rejections, a counter by hopbound.reason: full, late (it would have been too late), or gone
// (the caller gave up while the call waited). Their attributes are hopbound.side, and grpc.target and grpc.method
// where there are places for each.
func WithMeterProvider(p metric.MeterProvider) Option {
	return func(s *settings) error {
		if p == nil {
			return errors.New("WithMeterProvider: nil")
		}
		s.meters = p
		return nil
	}
}
