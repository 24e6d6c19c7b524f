package degrade

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	middleware "github.com/grpc-ecosystem/go-grpc-middleware/v2"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/hoperr"
	"github.com/hopbound/hopbound/internal/request"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// FromContext returns the level of the request that ctx belongs to, or Normal if there is none.
func FromContext(ctx context.Context) Level { return Level(request.Level(ctx)) }

// WithLevel returns a context with a level, whatever that of ctx is. Calls made with it carry the level downstream. Use
// it for requests that do not arrive by gRPC. A level outside of Normal to Emergency is clamped.
func WithLevel(ctx context.Context, l Level) context.Context {
	return context.WithValue(ctx, request.LevelKey{}, fixed(max(Normal, min(l, Emergency))))
}

// fixed is a level that does not change.
type fixed Level

// Level returns it.
func (f fixed) Level() int { return int(f) }

// Enabled reports whether a feature is on at the level of ctx. If it is off, the span of ctx has an event.
func Enabled(ctx context.Context, f Feature) bool {
	level := FromContext(ctx)
	if level < max(f.OffFrom, Degraded) {
		return true
	}
	trace.SpanFromContext(ctx).AddEvent("hopbound.degraded", trace.WithAttributes(
		attribute.String("hopbound.degrade.feature", f.Name), attribute.String("hopbound.degrade.level", level.String())))
	return false
}

// Require returns nil if a feature is on, and otherwise the error with which a handler answers a call that cannot do
// without it: UNAVAILABLE with the reason DEGRADED. The error says that the call had no effect, and the caller does not
// retry it; a fallback of the caller may serve it.
func Require(ctx context.Context, f Feature) error {
	if Enabled(ctx, f) {
		return nil
	}
	err := interceptors.TryLater(codes.Unavailable, interceptors.ReasonDegraded, f.Name+" is off: the service is degraded", retryAfter)
	return interceptors.DoNotRetry(ctx, idempotency.NoEffect(err))
}

// retryAfter is the time after which a caller may try again: the default of [Hold], because the level may be that of
// another service.
const retryAfter = 30 * time.Second

// Controller determines the level of a service. It is safe for concurrent use. Make it with [New].
type Controller struct {
	settings *settings
	changes  metric.Int64Counter // nil if there is no meter provider

	mu       sync.Mutex
	window   [10]bucket
	signals  map[string]Level // those that are not normal
	override *Level           // nil if there is none
	level    Level            // without the override
	low      time.Time        // since when the level could fall; zero if it could not
	shown    Level            // with the override, as it was reported last
}

// bucket counts the calls of a tenth of the window.
type bucket struct {
	number              int64 // of tenths since 1970
	calls, failed, slow int
}

// New returns a controller whose level is normal. It returns all errors of the options, joined.
func New(opts ...Option) (*Controller, error) {
	c := &Controller{settings: newSettings(), signals: map[string]Level{}}
	var errs []error
	for _, o := range opts {
		if o == nil {
			errs = append(errs, errors.New("an option is nil"))
			continue
		}
		errs = append(errs, o(c.settings))
	}
	if p := c.settings.meters; p != nil {
		meter := p.Meter("github.com/hopbound/hopbound/interceptors/degrade")
		var err error
		c.changes, err = meter.Int64Counter("hopbound.degrade.changes", metric.WithUnit("{change}"),
			metric.WithDescription("Changes of the level of degradation, by the new level."))
		errs = append(errs, err)
		_, err = meter.Int64ObservableGauge("hopbound.degrade.level", metric.WithUnit("{level}"),
			metric.WithDescription("The level of degradation: 0 normal, 1 degraded, 2 minimal, 3 emergency."),
			metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
				o.Observe(int64(c.Level()))
				return nil
			}))
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("degrade: %w", err)
	}
	return c, nil
}

// Level returns the level now.
func (c *Controller) Level() Level {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.update(time.Now())
}

// Signal says at which level the service should be at least because of a source, such as "breaker of stock" or "store",
// until the source says something else. Normal means that the source has no objection. Each source has one signal.
func (c *Controller) Signal(source string, l Level) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l <= Normal {
		delete(c.signals, source)
	} else {
		c.signals[source] = min(l, Emergency)
	}
	c.update(time.Now())
}

// Override sets the level by hand, until [Controller.EndOverride]. A level outside of Normal to Emergency is clamped.
func (c *Controller) Override(l Level) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l = max(Normal, min(l, Emergency))
	c.override = &l
	c.update(time.Now())
}

// EndOverride lets the level follow what the controller observes.
func (c *Controller) EndOverride() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.override = nil
	c.update(time.Now())
}

// Observe counts work that is not a gRPC call of this server, and how long it took.
func (c *Controller) Observe(failed bool, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	b := c.bucket(now)
	b.calls++
	if failed {
		b.failed++
	}
	if c.settings.slower > 0 && took > c.settings.slower {
		b.slow++
	}
	c.update(now)
}

func (c *Controller) tenth(now time.Time) int64 { return now.UnixNano() / int64(c.settings.window/10) }

// bucket returns the bucket of a time.
func (c *Controller) bucket(now time.Time) *bucket {
	n := c.tenth(now)
	b := &c.window[n%int64(len(c.window))]
	if b.number != n {
		*b = bucket{number: n}
	}
	return b
}

// update lets the level rise or fall, reports a change, and returns the level. The caller holds the lock.
func (c *Controller) update(now time.Time) Level {
	reached, kept := c.observed(now)
	switch {
	case reached > c.level:
		c.level, c.low = reached, time.Time{}
	case kept >= c.level:
		c.low = time.Time{}
	case c.low.IsZero():
		c.low = now
	}
	for c.level > kept && now.Sub(c.low) >= c.settings.hold {
		c.level, c.low = c.level-1, c.low.Add(c.settings.hold)
	}
	level := c.level
	if c.override != nil {
		level = *c.override
	}
	if from := c.shown; level != from {
		c.shown = level
		c.changed(from, level)
	}
	return level
}

// observed returns the level that is reached, and kept, the lowest level to which the level may fall.
func (c *Controller) observed(now time.Time) (reached, kept Level) {
	for _, l := range c.signals {
		reached = max(reached, l)
	}
	kept = reached
	var sum bucket
	oldest := c.tenth(now) - int64(len(c.window)) + 1
	for _, b := range c.window {
		if b.number >= oldest {
			sum.calls += b.calls
			sum.failed += b.failed
			sum.slow += b.slow
		}
	}
	if sum.calls < c.settings.minCalls {
		return reached, kept
	}
	s := c.settings
	for l := Degraded; l <= Emergency; l++ {
		if s.errors.reach(l, sum.failed, sum.calls, 1) || s.slow.reach(l, sum.slow, sum.calls, 1) {
			reached = max(reached, l)
		}
		if s.errors.reach(l, sum.failed, sum.calls, keptShare) || s.slow.reach(l, sum.slow, sum.calls, keptShare) {
			kept = max(kept, l)
		}
	}
	return reached, kept
}

// keptShare is the part of the share that led to a level at which the level is still kept.
const keptShare = 0.5

func (s *shares) reach(l Level, n, calls int, part float64) bool {
	return s[l] > 0 && float64(n) >= part*s[l]*float64(calls)
}

func (c *Controller) changed(from, to Level) {
	if c.changes != nil {
		c.changes.Add(context.Background(), 1, metric.WithAttributes(attribute.String("hopbound.degrade.level", to.String())))
	}
	if c.settings.onChange != nil {
		c.settings.onChange(from, to)
	}
}

// ServerOptions returns the options that install the controller at a server, after those of Hopbound's server.
func (c *Controller) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(c.UnaryServerInterceptor()), grpc.ChainStreamInterceptor(c.StreamServerInterceptor())}
}

// UnaryServerInterceptor returns the interceptor of unary calls.
func (c *Controller) UnaryServerInterceptor() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
		ctx, err = c.enter(ctx, info.FullMethod)
		if err != nil {
			return nil, err
		}
		started, returned := time.Now(), false
		defer func() { c.observe(err, !returned, time.Since(started)) }()
		reply, err = handler(ctx, req)
		returned = true
		return reply, err
	}
}

// StreamServerInterceptor returns the interceptor of streams.
func (c *Controller) StreamServerInterceptor() grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
		ctx, err := c.enter(ss.Context(), info.FullMethod)
		if err != nil {
			return err
		}
		returned := false
		defer func() { c.observe(err, !returned, 0) }()
		err = handler(srv, &middleware.WrappedServerStream{ServerStream: ss, WrappedContext: ctx})
		returned = true
		return err
	}
}

// enter returns the context of a handler, or the error of a method that is off.
func (c *Controller) enter(ctx context.Context, fullMethod string) (context.Context, error) {
	ctx = &served{Context: ctx, controller: c, caller: FromContext(ctx)}
	if level := FromContext(ctx); level > Normal {
		trace.SpanFromContext(ctx).SetAttributes(attribute.String("hopbound.degrade.level", level.String()))
	}
	if off, ok := c.settings.methods[fullMethod]; ok {
		return ctx, Require(ctx, Feature{Name: fullMethod, OffFrom: off})
	}
	return ctx, nil
}

// served is the context of a handler. Its level changes with that of the controller.
type served struct {
	context.Context
	controller *Controller
	caller     Level
}

// Value returns the level under its key.
func (s *served) Value(key any) any {
	if _, ok := key.(request.LevelKey); ok {
		return s
	}
	return s.Context.Value(key)
}

// Level returns the caller's level or the controller's, whichever is higher.
func (s *served) Level() int { return int(max(s.caller, s.controller.Level())) }

// observe counts a call. One that fails because a feature is off does not count.
func (c *Controller) observe(err error, panicked bool, took time.Duration) {
	failed := panicked || err != nil && slices.Contains(c.settings.codes, status.Code(err))
	if failed && hoperr.Reason(err) == hoperr.Degraded {
		return
	}
	c.Observe(failed, took)
}
