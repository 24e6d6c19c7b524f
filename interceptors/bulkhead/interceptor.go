package bulkhead

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go/adaptivelimiter"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxQueues is how many targets and methods have places of their own. The one that was used least recently is
// forgotten; calls that have its places keep them.
const maxQueues = 4096

// Bulkhead bounds the calls that run at the same time. It is safe for concurrent use. Make it with [New].
type Bulkhead struct {
	settings settings
	mu       sync.Mutex // so that a queue is made once
	queues   *lru.Cache[key, *queue]
	metrics  metrics
}

type key struct{ side, target, method string }

const sideClient, sideServer = "client", "server"

// New returns a bulkhead with a number of places: for each target at a client, and for all calls at a server. It
// returns all errors of its arguments, joined.
func New(limit int, opts ...Option) (*Bulkhead, error) {
	b := &Bulkhead{settings: settings{limit: limit, queue: -1}}
	var errs []error
	if limit < 1 {
		errs = append(errs, fmt.Errorf("New(%d): must be positive", limit))
	}
	for _, o := range opts {
		if o == nil {
			errs = append(errs, errors.New("an option is nil"))
			continue
		}
		errs = append(errs, o(&b.settings))
	}
	s := &b.settings
	if s.queue < 0 {
		s.queue = 4 * limit
	}
	if s.adaptive && (limit < s.least || limit > s.most) {
		errs = append(errs, fmt.Errorf("Adaptive(%d, %d): the limit %d must be between them", s.least, s.most, limit))
	}
	var err error
	b.queues, err = lru.New[key, *queue](maxQueues)
	errs = append(errs, err, b.metrics.create(s.meters))
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("bulkhead: %w", err)
	}
	return b, nil
}

// Streams reports whether streams take places; see [WithStreams].
func (b *Bulkhead) Streams() bool { return b.settings.streams }

// ServerOptions returns the options that install the bulkhead at a server, after those of Hopbound's server.
func (b *Bulkhead) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(b.UnaryServerInterceptor()), grpc.ChainStreamInterceptor(b.StreamServerInterceptor())}
}

// DialOptions returns the options that install the bulkhead at a client, after those of Hopbound's client.
func (b *Bulkhead) DialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(b.UnaryClientInterceptor()), grpc.WithChainStreamInterceptor(b.StreamClientInterceptor())}
}

// UnaryServerInterceptor returns the interceptor of a server's unary calls.
func (b *Bulkhead) UnaryServerInterceptor() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		p, err := b.queue(key{sideServer, "", info.FullMethod}).enter(ctx)
		if err != nil {
			return nil, err
		}
		defer p.leave(ctx)
		return handler(ctx, req)
	}
}

// StreamServerInterceptor returns the interceptor of a server's streams.
func (b *Bulkhead) StreamServerInterceptor() grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if !b.settings.streams {
			return handler(srv, ss)
		}
		p, err := b.queue(key{sideServer, "", info.FullMethod}).enter(ss.Context())
		if err != nil {
			return err
		}
		defer p.leave(ss.Context())
		return handler(srv, ss)
	}
}

// UnaryClientInterceptor returns the interceptor of a client's unary calls.
func (b *Bulkhead) UnaryClientInterceptor() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		p, err := b.queue(key{sideClient, interceptors.TargetOf(ctx, cc), method}).enter(ctx)
		if err != nil {
			return interceptors.Refuse(ctx, err)
		}
		defer p.leave(ctx)
		return invoker(ctx, method, req, reply, cc, opts...)
	}
}

// StreamClientInterceptor returns the interceptor of a client's streams.
func (b *Bulkhead) StreamClientInterceptor() grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		if !b.settings.streams {
			return streamer(ctx, desc, cc, method, opts...)
		}
		p, err := b.queue(key{sideClient, interceptors.TargetOf(ctx, cc), method}).enter(ctx)
		if err != nil {
			return nil, interceptors.Refuse(ctx, err)
		}
		leave := sync.OnceFunc(func() { p.leave(ctx) })
		cs, err := streamer(ctx, desc, cc, method, append(slices.Clip(opts), grpc.OnFinish(func(error) { leave() }))...)
		if err != nil {
			leave()
		}
		return cs, err
	}
}

// queue returns the places of a side, a target and a method.
func (b *Bulkhead) queue(k key) *queue {
	if !b.settings.perMethod {
		k.method = ""
	}
	if q, ok := b.queues.Get(k); ok {
		return q
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if q, ok := b.queues.Get(k); ok {
		return q
	}
	q := &queue{settings: &b.settings, server: k.side == sideServer, metrics: b.metrics.of(k), places: &fixed{free: b.settings.limit}}
	if s := &b.settings; s.adaptive {
		q.places = &adaptive{adaptivelimiter.NewBuilder[any]().WithLimits(uint(s.least), uint(s.most), uint(s.limit)).Build()}
	}
	b.queues.Add(k, q)
	return q
}

// places are how many calls may run. The caller holds a lock.
type places interface {
	take() (permit, bool)
	all() int
}

// permit is a place that is taken.
type permit interface{ give(finished bool) }

// fixed is a fixed number of places. It is the permit of each of them.
type fixed struct{ free, taken int }

func (f *fixed) take() (permit, bool) {
	if f.free == 0 {
		return nil, false
	}
	f.free--
	f.taken++
	return f, true
}

func (f *fixed) give(bool) { f.free++; f.taken-- }

func (f *fixed) all() int { return f.free + f.taken }

// adaptive is a number of places that follows the latency.
type adaptive struct {
	limiter adaptivelimiter.AdaptiveLimiter[any]
}

func (a *adaptive) take() (permit, bool) {
	p, ok := a.limiter.TryAcquirePermit()
	return measured{p}, ok
}

func (a *adaptive) all() int { return a.limiter.Limit() }

// measured is a place whose limit learns how long it was taken.
type measured struct{ adaptivelimiter.Permit }

func (m measured) give(finished bool) {
	if finished {
		m.Record()
	} else {
		m.Drop()
	}
}

// queue is the calls of one set of places.
type queue struct {
	settings *settings
	server   bool
	metrics  series

	mu      sync.Mutex
	places  places
	waiting list.List     // of *waiter, the first in front
	usual   time.Duration // that a call takes, an exponential average
}

// waiter is a call that waits.
type waiter struct {
	ctx   context.Context //nolint:containedctx // of the call
	ready chan struct{}   // closed when it has a permit
	permit
}

// place is where a call runs.
type place struct {
	queue *queue
	permit
	started time.Time
}

// enter waits for a place, which the call must leave, or returns the error of the call.
func (q *queue) enter(ctx context.Context) (place, error) {
	q.mu.Lock()
	if q.waiting.Len() == 0 {
		if p, ok := q.places.take(); ok {
			q.mu.Unlock()
			return q.run(p), nil
		}
	}
	wait := q.estimate()
	if left, limited := deadline.Remaining(ctx); q.waiting.Len() >= q.settings.queue || limited && left < wait+q.usual {
		reason := "full"
		if q.waiting.Len() < q.settings.queue {
			reason = "late"
		}
		q.mu.Unlock()
		return place{}, q.reject(ctx, reason, wait)
	}
	w := &waiter{ctx: ctx, ready: make(chan struct{})}
	position := q.waiting.PushBack(w)
	q.mu.Unlock()
	q.metrics.waits(1)
	defer q.metrics.waits(-1)
	return q.await(ctx, w, position, wait)
}

// await waits until a call has a place, its context ends, or it has waited for too long.
func (q *queue) await(ctx context.Context, w *waiter, position *list.Element, estimate time.Duration) (place, error) {
	var tooLong <-chan time.Time
	if q.settings.maxWait > 0 {
		timer := time.NewTimer(q.settings.maxWait)
		defer timer.Stop()
		tooLong = timer.C
	}
	select {
	case <-w.ready:
		return q.run(w.permit), nil
	case <-ctx.Done():
	case <-tooLong:
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.permit != nil { // it was given a place in this moment
		w.give(false)
		q.next()
	} else {
		q.waiting.Remove(position)
	}
	if ctx.Err() == nil {
		return place{}, q.reject(ctx, "late", estimate)
	}
	q.metrics.rejected("gone")
	return place{}, idempotency.NoEffect(status.FromContextError(ctx.Err()).Err())
}

// run starts a call that has a permit.
func (q *queue) run(p permit) place {
	q.metrics.runs(1)
	return place{q, p, time.Now()}
}

// leave ends the call whose place it is.
func (p *place) leave(ctx context.Context) {
	q := p.queue
	q.metrics.runs(-1)
	took := time.Since(p.started)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.usual == 0 {
		q.usual = took
	}
	q.usual += (took - q.usual) / 8
	p.give(ctx.Err() == nil)
	q.next()
}

// next gives free places to the calls that wait. The caller holds the lock.
func (q *queue) next() {
	for front := q.waiting.Front(); front != nil; front = q.waiting.Front() {
		w := front.Value.(*waiter) //nolint:errcheck,forcetypeassert // the list has nothing else
		if !deadline.Waiting(w.ctx) {
			q.waiting.Remove(front) // it leaves by itself
			continue
		}
		p, ok := q.places.take()
		if !ok {
			return
		}
		q.waiting.Remove(front)
		w.permit = p
		close(w.ready)
	}
}

// estimate returns how long a call that enters now would wait. The caller holds the lock.
func (q *queue) estimate() time.Duration {
	return q.usual * time.Duration(q.waiting.Len()+1) / time.Duration(max(1, q.places.all()))
}

// reject returns the error of a call that gets no place.
func (q *queue) reject(ctx context.Context, reason string, wait time.Duration) error {
	q.metrics.rejected(reason)
	wait = max(wait, time.Millisecond)
	if q.server {
		_ = interceptors.Overloaded(ctx, codes.ResourceExhausted, wait) // sends the pushback
	}
	return idempotency.NoEffect(interceptors.TryLater(codes.ResourceExhausted, interceptors.ReasonBulkheadFull, "too many calls are running", wait))
}

// metrics are the instruments of a bulkhead, which are nil if there is no meter provider.
type metrics struct {
	running, waiting metric.Int64UpDownCounter
	rejections       metric.Int64Counter
}

func (m *metrics) create(p metric.MeterProvider) error {
	if p == nil {
		return nil
	}
	meter := p.Meter("github.com/hopbound/hopbound/interceptors/bulkhead")
	var errs [3]error
	m.running, errs[0] = meter.Int64UpDownCounter("hopbound.bulkhead.running", metric.WithUnit("{call}"), metric.WithDescription("Calls that have a place."))
	m.waiting, errs[1] = meter.Int64UpDownCounter("hopbound.bulkhead.waiting", metric.WithUnit("{call}"), metric.WithDescription("Calls that wait for a place."))
	m.rejections, errs[2] = meter.Int64Counter("hopbound.bulkhead.rejections", metric.WithUnit("{call}"), metric.WithDescription("Calls that got no place, by reason."))
	return errors.Join(errs[:]...)
}

func (m *metrics) of(k key) series {
	kvs := []attribute.KeyValue{attribute.String("hopbound.side", k.side)}
	if k.target != "" {
		kvs = append(kvs, attribute.String("grpc.target", k.target))
	}
	if k.method != "" {
		kvs = append(kvs, attribute.String("grpc.method", k.method[1:]))
	}
	return series{m, attribute.NewSet(kvs...)}
}

// series are the series of one set of places.
type series struct {
	*metrics
	labels attribute.Set
}

func (s *series) runs(n int64) {
	if s.running != nil {
		s.running.Add(context.Background(), n, metric.WithAttributeSet(s.labels))
	}
}

func (s *series) waits(n int64) {
	if s.waiting != nil {
		s.waiting.Add(context.Background(), n, metric.WithAttributeSet(s.labels))
	}
}

func (s *series) rejected(reason string) {
	if s.rejections != nil {
		s.rejections.Add(context.Background(), 1, metric.WithAttributeSet(s.labels), metric.WithAttributes(attribute.String("hopbound.reason", reason)))
	}
}
