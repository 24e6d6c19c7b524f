package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"go.opentelemetry.io/otel/metric"
	"golang.org/x/time/rate"
)

// Option configures a limiter.
type Option func(*settings) error

type settings struct {
	all         bucket
	each        bucket
	caller      func(ctx context.Context) string // nil if callers have no limits of their own
	callers     int
	maxWait     time.Duration
	maxSlowdown time.Duration
	meters      metric.MeterProvider
}

// bucket is a token bucket; the zero value has no limit.
type bucket struct {
	perSecond rate.Limit
	burst     int
}

func (b bucket) limits() bool { return b.burst > 0 }

func newBucket(name string, perSecond float64, burst int) (bucket, error) {
	if perSecond <= 0 || math.IsInf(perSecond, 0) || math.IsNaN(perSecond) || burst < 1 {
		return bucket{}, fmt.Errorf("%s(%v, %d): must be positive", name, perSecond, burst)
	}
	return bucket{rate.Limit(perSecond), burst}, nil
}

// Rate limits all calls of a server, or those that a client sends to each target: on average to a number in a second,
// and to burst at once. By default there is no limit.
func Rate(perSecond float64, burst int) Option {
	return func(s *settings) (err error) {
		s.all, err = newBucket("Rate", perSecond, burst)
		return err
	}
}

// PerCaller limits the calls of each caller of a server. The function names the caller of a call, for example by its
// tenant; it must not return names that a caller can choose freely, or one caller has many limits. Calls whose name is
// empty share one. It has no effect at a client.
func PerCaller(perSecond float64, burst int, caller func(ctx context.Context) string) Option {
	return func(s *settings) (err error) {
		if caller == nil {
			return errors.New("PerCaller: the function is nil")
		}
		s.caller = caller
		s.each, err = newBucket("PerCaller", perSecond, burst)
		return err
	}
}

// MaxCallers is how many callers, or at a client targets, are remembered. The default is 4,096. If there are more, the
// one that called least recently is forgotten, and begins with a full bucket when it calls again.
func MaxCallers(n int) Option {
	return func(s *settings) error {
		if n < 1 {
			return fmt.Errorf("MaxCallers(%d): must be positive", n)
		}
		s.callers = n
		return nil
	}
}

// MaxWait is how long a call waits for its tokens at most. The default is 1 s, and 0 lets no call wait.
func MaxWait(d time.Duration) Option {
	return func(s *settings) error {
		if d < 0 {
			return fmt.Errorf("MaxWait(%v): must not be negative", d)
		}
		s.maxWait = d
		return nil
	}
}

// MaxSlowdown is for how long a failure of a target can stop a client's further calls to it. The default is 30 s, and 0
// ignores what targets ask for.
func MaxSlowdown(d time.Duration) Option {
	return func(s *settings) error {
		if d < 0 {
			return fmt.Errorf("MaxSlowdown(%v): must not be negative", d)
		}
		s.maxSlowdown = d
		return nil
	}
}

// WithMeterProvider exports hopbound.ratelimit.rejections, a counter of calls that were not accepted or not sent, by
// hopbound.side and grpc.target.
func WithMeterProvider(p metric.MeterProvider) Option {
	return func(s *settings) error {
		if p == nil {
			return errors.New("WithMeterProvider: nil")
		}
		s.meters = p
		return nil
	}
}
