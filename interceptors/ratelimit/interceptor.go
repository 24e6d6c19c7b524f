package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Limiter limits rates of calls. It is safe for concurrent use. Make it with [New].
type Limiter struct {
	settings   settings
	all        *rate.Limiter // of a server; nil if there is no limit
	mu         sync.Mutex    // so that an entry is made once
	callers    *lru.Cache[string, *rate.Limiter]
	targets    *lru.Cache[string, *target]
	rejections metric.Int64Counter // nil if there is no meter provider
}

// target is what a client knows of a target.
type target struct {
	all *rate.Limiter // nil if there is no limit

	mu     sync.Mutex
	resume time.Time // until when the target wants no calls
}

// New returns a limiter. Without options it limits nothing at a server, and a client only slows down when a target asks
// for it. New returns all errors of its options, joined.
func New(opts ...Option) (*Limiter, error) {
	l := &Limiter{settings: settings{callers: 4096, maxWait: time.Second, maxSlowdown: 30 * time.Second}}
	var errs []error
	for _, o := range opts {
		if o == nil {
			errs = append(errs, errors.New("an option is nil"))
			continue
		}
		errs = append(errs, o(&l.settings))
	}
	l.all = l.settings.all.limiter()
	var err error
	l.callers, err = lru.New[string, *rate.Limiter](l.settings.callers)
	errs = append(errs, err)
	l.targets, err = lru.New[string, *target](l.settings.callers)
	errs = append(errs, err)
	if p := l.settings.meters; p != nil {
		l.rejections, err = p.Meter("github.com/hopbound/hopbound/interceptors/ratelimit").Int64Counter("hopbound.ratelimit.rejections",
			metric.WithUnit("{call}"), metric.WithDescription("Calls that were not accepted, or not sent, because of a rate limit."))
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("ratelimit: %w", err)
	}
	return l, nil
}

func (b bucket) limiter() *rate.Limiter {
	if !b.limits() {
		return nil
	}
	return rate.NewLimiter(b.perSecond, b.burst)
}

// ServerOptions returns the options that install the limiter at a server, after those of Hopbound's server.
func (l *Limiter) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(l.UnaryServerInterceptor()), grpc.ChainStreamInterceptor(l.StreamServerInterceptor())}
}

// DialOptions returns the options that install the limiter at a client, after those of Hopbound's client.
func (l *Limiter) DialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(l.UnaryClientInterceptor()), grpc.WithChainStreamInterceptor(l.StreamClientInterceptor())}
}

// UnaryServerInterceptor returns the interceptor of a server's unary calls.
func (l *Limiter) UnaryServerInterceptor() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if err := l.accept(ctx); err != nil {
			return nil, err
		}
		return handler(ctx, req)
	}
}

// StreamServerInterceptor returns the interceptor of a server's streams.
func (l *Limiter) StreamServerInterceptor() grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if err := l.accept(ss.Context()); err != nil {
			return err
		}
		return handler(srv, ss)
	}
}

// UnaryClientInterceptor returns the interceptor of a client's unary calls.
func (l *Limiter) UnaryClientInterceptor() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		t := l.target(ctx, cc)
		if err := l.send(ctx, t, cc); err != nil {
			return err
		}
		err := invoker(ctx, method, req, reply, cc, opts...)
		t.slowDown(err, l.settings.maxSlowdown)
		return err
	}
}

// StreamClientInterceptor returns the interceptor of a client's streams.
func (l *Limiter) StreamClientInterceptor() grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		t := l.target(ctx, cc)
		if err := l.send(ctx, t, cc); err != nil {
			return nil, err
		}
		cs, err := streamer(ctx, desc, cc, method, opts...)
		if err != nil {
			t.slowDown(err, l.settings.maxSlowdown)
			return nil, err
		}
		return &stream{cs, t, l.settings.maxSlowdown}, nil
	}
}

// stream notices with which error a stream ends.
type stream struct {
	grpc.ClientStream
	target      *target
	maxSlowdown time.Duration
}

// RecvMsg receives a message, or the end.
func (s *stream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err != nil && !errors.Is(err, io.EOF) {
		s.target.slowDown(err, s.maxSlowdown)
	}
	return err
}

// accept takes the tokens of a call that arrives, or returns its error.
func (l *Limiter) accept(ctx context.Context) error {
	limiters := append(make([]*rate.Limiter, 0, 2), l.all)
	if l.settings.caller != nil && l.settings.each.limits() {
		limiters = append(limiters, entry(l, l.callers, l.settings.caller(ctx), l.settings.each.limiter))
	}
	wait, err := l.take(ctx, limiters, 0)
	if err != nil || wait == 0 {
		return err
	}
	l.rejected("server", "")
	_ = interceptors.Overloaded(ctx, codes.ResourceExhausted, wait) // sends the pushback
	return idempotency.NoEffect(rateLimited("too many calls in a second", wait))
}

// send takes the token of an attempt to a target, or returns its error.
func (l *Limiter) send(ctx context.Context, t *target, cc *grpc.ClientConn) error {
	t.mu.Lock()
	paused := max(0, time.Until(t.resume))
	t.mu.Unlock()
	wait, err := l.take(ctx, []*rate.Limiter{t.all}, paused)
	if err != nil {
		return interceptors.Refuse(ctx, err)
	}
	if wait == 0 {
		return nil
	}
	l.rejected("client", interceptors.TargetOf(ctx, cc))
	return interceptors.Refuse(ctx, rateLimited("too many calls of the target in a second, or the target wants none", wait))
}

// take takes a token of each limiter, and waits for them and at least for a pause. If the call cannot wait for so long,
// it takes none and returns how long that would be. If its context ends meanwhile, it returns the error of the call.
func (l *Limiter) take(ctx context.Context, limiters []*rate.Limiter, pause time.Duration) (tooLong time.Duration, err error) {
	if len(limiters) == 1 && pause == 0 && (limiters[0] == nil || limiters[0].Allow()) {
		return 0, nil
	}
	now := time.Now()
	wait := pause
	var taken []*rate.Reservation
	for _, limiter := range limiters {
		if limiter != nil {
			r := limiter.ReserveN(now, 1)
			taken = append(taken, r)
			wait = max(wait, r.DelayFrom(now))
		}
	}
	if wait == 0 {
		return 0, nil
	}
	giveBack := func() {
		for _, r := range taken {
			r.Cancel()
		}
	}
	if left, limited := deadline.Remaining(ctx); wait > l.settings.maxWait || limited && left <= wait {
		giveBack()
		return wait, nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return 0, nil
	case <-ctx.Done():
		giveBack()
		return 0, idempotency.NoEffect(status.FromContextError(ctx.Err()).Err())
	}
}

// rateLimited returns the error of a call that is not accepted or not sent.
func rateLimited(message string, wait time.Duration) error {
	return interceptors.TryLater(codes.ResourceExhausted, interceptors.ReasonRateLimited, message, wait)
}

// slowDown stops calls to the target for as long as a failure asks for.
func (t *target) slowDown(err error, most time.Duration) {
	if status.Code(err) != codes.ResourceExhausted {
		return
	}
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			resume := time.Now().Add(min(info.GetRetryDelay().AsDuration(), most))
			t.mu.Lock()
			if resume.After(t.resume) {
				t.resume = resume
			}
			t.mu.Unlock()
		}
	}
}

func (l *Limiter) rejected(side, target string) {
	if l.rejections == nil {
		return
	}
	kvs := []attribute.KeyValue{attribute.String("hopbound.side", side)}
	if target != "" {
		kvs = append(kvs, attribute.String("grpc.target", target))
	}
	l.rejections.Add(context.Background(), 1, metric.WithAttributes(kvs...))
}

func (l *Limiter) target(ctx context.Context, cc *grpc.ClientConn) *target {
	return entry(l, l.targets, interceptors.TargetOf(ctx, cc), func() *target { return &target{all: l.settings.all.limiter()} })
}

// entry returns the entry of a name, and makes it if there is none.
func entry[V any](l *Limiter, known *lru.Cache[string, V], name string, create func() V) V {
	if v, ok := known.Get(name); ok {
		return v
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if v, ok := known.Get(name); ok {
		return v
	}
	v := create()
	known.Add(name, v)
	return v
}
