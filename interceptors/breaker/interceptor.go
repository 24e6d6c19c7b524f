package breaker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/sony/gobreaker/v2"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// maxCircuits is how many breakers are kept.
const maxCircuits = 4096

// Breaker is a set of circuit breakers, one for each target and method. At most 4,096 are kept; the one that
// was used least recently is dropped, and begins closed when it is used again. It is safe for concurrent use.
// Make it with [New].
type Breaker struct {
	settings *settings
	mu       sync.Mutex // so that a circuit is made once
	circuits *lru.Cache[circuitKey, *circuit]
	changes  metric.Int64Counter       // nil if there is no meter provider
	open     metric.Int64UpDownCounter // as above
}

type circuitKey struct{ target, method string }

// circuit is the breaker of one target and method. It is open if either of its breakers is.
type circuit struct {
	key      circuitKey
	set      *Breaker
	failures *gobreaker.TwoStepCircuitBreaker[any]
	slow     *gobreaker.TwoStepCircuitBreaker[any] // nil if slow calls do not matter
	openedAt atomic.Int64                          // when one of them has opened, in Unix nanoseconds
}

// New returns circuit breakers that are closed. It returns all errors of the options, joined.
func New(opts ...Option) (*Breaker, error) {
	b := &Breaker{settings: defaults()}
	var errs []error
	for _, o := range opts {
		if o == nil {
			errs = append(errs, errors.New("an option is nil"))
			continue
		}
		errs = append(errs, o(b.settings))
	}
	var err error
	b.circuits, err = lru.NewWithEvict(maxCircuits, func(_ circuitKey, c *circuit) { c.dropped() })
	errs = append(errs, err)
	if p := b.settings.meters; p != nil {
		meter := p.Meter("github.com/hopbound/hopbound/interceptors/breaker")
		b.changes, err = meter.Int64Counter("hopbound.breaker.changes", metric.WithUnit("{change}"),
			metric.WithDescription("Changes of the state of circuit breakers, by the new state."))
		errs = append(errs, err)
		b.open, err = meter.Int64UpDownCounter("hopbound.breaker.open", metric.WithUnit("{breaker}"),
			metric.WithDescription("Circuit breakers that are open or half-open."))
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("breaker: %w", err)
	}
	return b, nil
}

// DialOptions returns the options that install the breaker. They belong after those of Hopbound's client.
func (b *Breaker) DialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(b.UnaryInterceptor()), grpc.WithChainStreamInterceptor(b.StreamInterceptor())}
}

// State returns the state of the breaker of a target, as grpc.ClientConn.CanonicalTarget returns it, and a
// method, "/service/method".
func (b *Breaker) State(target, method string) State {
	c, ok := b.circuits.Peek(b.key(target, method))
	if !ok {
		return Closed
	}
	return c.state()
}

func (b *Breaker) key(target, method string) circuitKey {
	if b.settings.perTarget {
		method = ""
	}
	return circuitKey{target, method}
}

// UnaryInterceptor returns the interceptor of unary calls.
func (b *Breaker) UnaryInterceptor() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
		p, err := b.allow(ctx, cc, method)
		if err != nil {
			return err
		}
		trailer := emptyTrailer(opts)
		if trailer == nil {
			trailer = new(metadata.MD)
			opts = append(slices.Clip(opts), grpc.Trailer(trailer))
		}
		started, returned := time.Now(), false
		defer func() {
			if !returned { // something below has panicked
				err = errUnknown
			}
			p.done(ctx, outcome{err, time.Since(started), *trailer})
		}()
		err = invoker(ctx, method, req, reply, cc, opts...)
		returned = true
		return err
	}
}

// emptyTrailer returns where a call option, such as that of Hopbound's client, receives the trailer, or nil if there is
// none. One that is not empty may keep what it has received from an earlier call.
func emptyTrailer(opts []grpc.CallOption) *metadata.MD {
	for _, o := range opts {
		if o, ok := o.(grpc.TrailerCallOption); ok && len(*o.TrailerAddr) == 0 {
			return o.TrailerAddr
		}
	}
	return nil
}

// StreamInterceptor returns the interceptor of streams. A stream counts when it ends.
func (b *Breaker) StreamInterceptor() grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		p, err := b.allow(ctx, cc, method)
		if err != nil {
			return nil, err
		}
		var once sync.Once
		end := func(err error, trailer metadata.MD) {
			once.Do(func() { p.done(ctx, outcome{err: err, trailer: trailer}) })
		}
		// A stream whose status nobody receives ends with its context.
		opts = append(slices.Clip(opts), grpc.OnFinish(func(err error) {
			if status.Code(err) == codes.Canceled {
				end(err, nil)
			}
		}))
		cs, err := streamer(ctx, desc, cc, method, opts...)
		if err != nil {
			end(err, nil)
			return nil, err
		}
		return &stream{ClientStream: cs, end: end, single: !desc.ServerStreams}, nil
	}
}

// stream reports the end of a stream.
type stream struct {
	grpc.ClientStream
	end    func(err error, trailer metadata.MD)
	single bool // there is one response
}

// RecvMsg receives a message, or the end.
func (s *stream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	switch {
	case err == nil && s.single:
		s.end(nil, nil)
	case errors.Is(err, io.EOF):
		s.end(nil, nil)
	case err != nil:
		s.end(err, s.Trailer())
	}
	return err
}

// outcome is the end of a call.
type outcome struct {
	err     error
	took    time.Duration // 0 for a stream
	trailer metadata.MD
}

// Outcomes, as gobreaker is told them.
var (
	errUnknown  = errors.New("unknown")
	errFailed   = errors.New("failed")
	errExcluded = errors.New("excluded")
)

// pass is the permission to send an attempt. Its end must be reported with done.
type pass struct {
	circuit *circuit
	failed  func(error)
	slow    func(error) // nil if slow calls do not matter
}

// allow returns a pass, or the error of a refused attempt.
func (b *Breaker) allow(ctx context.Context, cc *grpc.ClientConn, method string) (p pass, err error) {
	c := b.circuit(b.key(interceptors.TargetOf(ctx, cc), method))
	p.circuit = c
	if p.failed, err = c.failures.Allow(); err != nil {
		return pass{}, c.refuse(ctx)
	}
	if c.slow == nil {
		return p, nil
	}
	if p.slow, err = c.slow.Allow(); err != nil {
		p.failed(errExcluded)
		return pass{}, c.refuse(ctx)
	}
	return p, nil
}

// done reports the end of the attempt.
func (p *pass) done(ctx context.Context, o outcome) {
	b := p.circuit.set
	verdict := b.verdict(ctx, &o)
	p.circuit.count(ctx, p.failed, verdict)
	if p.slow == nil {
		return
	}
	switch {
	case verdict == errExcluded: //nolint:errorlint // it is never wrapped
	case o.took > b.settings.slower:
		verdict = errFailed
	default:
		verdict = nil
	}
	p.circuit.count(ctx, p.slow, verdict)
}

// count reports an outcome. If it changes the state, the attempt's span has an event.
func (c *circuit) count(ctx context.Context, done func(error), verdict error) {
	before := c.state()
	done(verdict)
	if after := c.state(); after != before {
		trace.SpanFromContext(ctx).AddEvent("hopbound.breaker", trace.WithAttributes(attribute.String("hopbound.breaker.state", string(after))))
	}
}

// verdict says how an outcome counts: nil for a success, errFailed, or errExcluded.
func (b *Breaker) verdict(ctx context.Context, o *outcome) error {
	switch code := status.Code(o.err); {
	case o.err == nil:
		return nil
	case code == codes.Canceled, marked(o.trailer), interceptors.Refused(ctx):
		return errExcluded
	case slices.Contains(b.settings.codes, code):
		return errFailed
	default:
		return nil
	}
}

// marked reports whether a failure is one of a hop below the target, which no hop may retry (gRFC A6).
func marked(trailer metadata.MD) bool {
	pushback := trailer.Get("grpc-retry-pushback-ms")
	return len(pushback) == 1 && len(pushback[0]) > 0 && pushback[0][0] == '-'
}

// circuit returns the breaker of a target and method.
func (b *Breaker) circuit(key circuitKey) *circuit {
	if c, ok := b.circuits.Get(key); ok {
		return c
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if c, ok := b.circuits.Get(key); ok {
		return c
	}
	c := &circuit{key: key, set: b}
	s := b.settings
	c.failures = c.breaker(func(n gobreaker.Counts) bool {
		return s.consecutive > 0 && n.ConsecutiveFailures >= s.consecutive || s.failures.exceeded(&n)
	})
	if s.slow.share > 0 {
		c.slow = c.breaker(func(n gobreaker.Counts) bool { return s.slow.exceeded(&n) })
	}
	b.circuits.Add(key, c)
	return c
}

func (r rate) exceeded(n *gobreaker.Counts) bool {
	all := n.TotalSuccesses + n.TotalFailures
	return r.share > 0 && all >= r.minCalls && float64(n.TotalFailures) >= r.share*float64(all)
}

func (c *circuit) breaker(trip func(gobreaker.Counts) bool) *gobreaker.TwoStepCircuitBreaker[any] {
	s := c.set.settings
	return gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
		MaxRequests: s.probes, Interval: s.window, BucketPeriod: s.window / 10, Timeout: s.openFor, ReadyToTrip: trip,
		IsExcluded:    func(err error) bool { return errors.Is(err, errExcluded) },
		OnStateChange: func(_ string, from, to gobreaker.State) { c.changed(from, to) },
	})
}

// changed records a change of the state.
func (c *circuit) changed(from, to gobreaker.State) {
	b := c.set
	if to == gobreaker.StateOpen {
		c.openedAt.Store(time.Now().UnixNano())
	}
	if b.changes != nil {
		ctx, labels := context.Background(), c.labels()
		b.changes.Add(ctx, 1, metric.WithAttributes(append(labels, attribute.String("hopbound.breaker.state", string(stateOf(to))))...))
		switch {
		case from == gobreaker.StateClosed:
			b.open.Add(ctx, 1, metric.WithAttributes(labels...))
		case to == gobreaker.StateClosed:
			b.open.Add(ctx, -1, metric.WithAttributes(labels...))
		}
	}
	if b.settings.onChange != nil {
		b.settings.onChange(c.key.target, c.key.method, stateOf(from), stateOf(to))
	}
}

// dropped records that the circuit is not kept any more.
func (c *circuit) dropped() {
	for _, breaker := range []*gobreaker.TwoStepCircuitBreaker[any]{c.failures, c.slow} {
		if breaker != nil && c.set.open != nil && breaker.State() != gobreaker.StateClosed {
			c.set.open.Add(context.Background(), -1, metric.WithAttributes(c.labels()...))
		}
	}
}

func (c *circuit) labels() []attribute.KeyValue {
	return []attribute.KeyValue{attribute.String("grpc.target", c.key.target), attribute.String("grpc.method", c.key.method)}
}

// state returns the state of the circuit: that of its breaker that refuses more.
func (c *circuit) state() State {
	state := c.failures.State()
	if c.slow != nil {
		if slow := c.slow.State(); slow == gobreaker.StateOpen || state == gobreaker.StateClosed {
			state = slow
		}
	}
	return stateOf(state)
}

func stateOf(s gobreaker.State) State {
	switch s {
	case gobreaker.StateOpen:
		return Open
	case gobreaker.StateHalfOpen:
		return HalfOpen
	default:
		return Closed
	}
}

// refuse returns the error of a refused attempt, with the time until the next probe.
func (c *circuit) refuse(ctx context.Context) error {
	wait := max(0, time.Until(time.Unix(0, c.openedAt.Load()).Add(c.set.settings.openFor)))
	return interceptors.Refuse(ctx, interceptors.TryLater(codes.Unavailable, interceptors.ReasonBreakerOpen,
		"the circuit breaker of "+c.key.target+c.key.method+" is open", wait))
}
