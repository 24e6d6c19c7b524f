package fallback

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Option configures fallbacks.
type Option func(*settings) error

type settings struct {
	chains  map[string]*chain
	given   []given
	safe    []string
	codes   []codes.Code
	reserve time.Duration
	entries int
	meters  metric.MeterProvider
}

// given is the argument of For. It is applied after all other options.
type given struct {
	method string
	steps  []Step
}

// Step is one way to answer a call of a method that has failed. Make it with [Target], [Cache] or [Default].
type Step func(*chain) error

// chain is the fallbacks of a method.
type chain struct {
	method  protoreflect.MethodDescriptor
	safe    bool // to repeat
	entries int
	steps   []step
	cache   *cache // nil if there is none
}

// For sets the fallbacks of a method, "/package.Service/Method", in the order in which they are tried. The package of
// the method's generated code must be imported, because types are checked against its descriptor.
func For(fullMethod string, steps ...Step) Option {
	return func(s *settings) error {
		if slices.ContainsFunc(s.given, func(g given) bool { return g.method == fullMethod }) {
			return fmt.Errorf("For(%q): the method has fallbacks already", fullMethod)
		}
		if len(steps) == 0 {
			return fmt.Errorf("For(%q): must have at least one step", fullMethod)
		}
		s.given = append(s.given, given{fullMethod, steps})
		return nil
	}
}

// DeclareSafe declares that methods are safe to repeat, if their idempotency_level does not say so. [Target] and [Cache]
// are for such methods only: after a failure, a write may have happened.
func DeclareSafe(fullMethods ...string) Option {
	return func(s *settings) error { s.safe = append(s.safe, fullMethods...); return nil }
}

// Codes are the failures that have fallbacks. The default is UNAVAILABLE, DEADLINE_EXCEEDED and RESOURCE_EXHAUSTED.
func Codes(failures ...codes.Code) Option {
	return func(s *settings) error {
		if len(failures) == 0 || slices.Contains(failures, codes.OK) || slices.Contains(failures, codes.Canceled) {
			return errors.New("Codes: must be codes of failures other than CANCELLED, and at least one")
		}
		s.codes = slices.Clone(failures)
		return nil
	}
}

// Reserve is how much earlier than the call's own deadline the primary call ends, so that time for fallbacks is left. The
// default is 50 ms. It is at most a fifth of the remaining time. With 0, a call that exceeds its deadline has no
// fallback.
func Reserve(d time.Duration) Option {
	return func(s *settings) error {
		if d < 0 {
			return fmt.Errorf("Reserve(%v): must not be negative", d)
		}
		s.reserve = d
		return nil
	}
}

// CacheEntries is how many replies the cache of each method keeps. The default is 1,000. The one that was used least
// recently is dropped first.
func CacheEntries(n int) Option {
	return func(s *settings) error {
		if n < 1 {
			return fmt.Errorf("CacheEntries(%d): must be positive", n)
		}
		s.entries = n
		return nil
	}
}

// WithMeterProvider exports hopbound.fallback.calls, a counter of calls that have fallbacks and whose primary call has
// failed with one of [Codes], by grpc.method and hopbound.fallback.source: target, cache, default, or none.
func WithMeterProvider(p metric.MeterProvider) Option {
	return func(s *settings) error {
		if p == nil {
			return errors.New("WithMeterProvider: nil")
		}
		s.meters = p
		return nil
	}
}

// Target answers from another target, such as a replica in another region. Its connection should have a client of
// Hopbound too. Several targets are tried in the order given.
func Target(conn grpc.ClientConnInterface) Step {
	return func(c *chain) error {
		if conn == nil {
			return errors.New("Target: the connection is nil")
		}
		if !c.safe {
			return errors.New("Target: the method is not declared safe to repeat; see DeclareSafe")
		}
		c.steps = append(c.steps, &target{conn})
		return nil
	}
}

// Cache answers with the last reply of the method for the same key, if it is not older than maxAge. Replies of the
// primary and of other targets are kept; defaults are not.
//
// The key must contain everything that the reply depends on. If it depends on who calls, such as a reply about the
// user's own account, the key must contain the user; otherwise one user gets another one's reply. A reply for which key
// returns "" is not kept.
func Cache[Req proto.Message](maxAge time.Duration, key func(ctx context.Context, req Req) string) Step {
	return func(c *chain) error {
		switch {
		case maxAge <= 0:
			return fmt.Errorf("Cache(%v): must be positive", maxAge)
		case key == nil:
			return errors.New("Cache: the key is nil")
		case !c.safe:
			return errors.New("Cache: the method is not declared safe to repeat; see DeclareSafe")
		case c.cache != nil:
			return errors.New("Cache: the method has a cache already")
		}
		if err := check[Req]("Cache", "request", c.method.Input()); err != nil {
			return err
		}
		var err error
		c.cache, err = newCache(c.entries, maxAge, func(ctx context.Context, req any) string {
			if r, ok := req.(Req); ok {
				return key(ctx, r)
			}
			return ""
		})
		c.steps = append(c.steps, c.cache)
		return err
	}
}

// Default answers with what a function returns. It gets the error of the primary call. If it returns an error, the next
// step is tried. The context is the call's.
func Default[Req, Res proto.Message](reply func(ctx context.Context, req Req, failure error) (Res, error)) Step {
	return func(c *chain) error {
		if reply == nil {
			return errors.New("Default: the function is nil")
		}
		if err := errors.Join(check[Req]("Default", "request", c.method.Input()), check[Res]("Default", "response", c.method.Output())); err != nil {
			return err
		}
		c.steps = append(c.steps, fixed(func(ctx context.Context, req any, failure error) (proto.Message, error) {
			r, ok := req.(Req)
			if !ok {
				return nil, failure
			}
			return reply(ctx, r, failure)
		}))
		return nil
	}
}

// check returns an error unless M is the generated type of a message.
func check[M proto.Message](step, what string, want protoreflect.MessageDescriptor) error {
	var m M
	switch any(m).(type) {
	case nil, *dynamicpb.Message:
		return fmt.Errorf("%s: the type of the %s must be generated code", step, what)
	}
	if got := m.ProtoReflect().Descriptor().FullName(); got != want.FullName() {
		return fmt.Errorf("%s: the %s is a %s, and the function has a %s", step, what, want.FullName(), got)
	}
	return nil
}

// declaredSafe reports whether the descriptor of a method says that it is safe to repeat.
func declaredSafe(m protoreflect.MethodDescriptor) bool {
	options, ok := m.Options().(*descriptorpb.MethodOptions)
	return ok && options.GetIdempotencyLevel() != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN
}
