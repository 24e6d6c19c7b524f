package fault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/internal/wire"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Header is the metadata key of a guard; see [Rule].
const Header = "hopbound-fault"

// Kinds of faults in traces and metrics.
const (
	kindLatency = "latency"
	kindError   = "error"
	kindLost    = "lost_reply"
	kindCut     = "cut_stream"
	kindClock   = "clock_skew"
)

// Faults injects faults into calls. It is safe for concurrent use. Make it with [New].
type Faults struct {
	settings settings
	on       atomic.Bool
	rules    atomic.Pointer[[]Rule]
	injected metric.Int64Counter // nil if there is no meter provider

	mu     sync.Mutex
	random *rand.Rand // nil if the choices are not seeded
}

// New returns faults that are off. It returns all errors of the rules and options, joined.
func New(rules []Rule, opts ...Option) (*Faults, error) {
	f := &Faults{}
	var errs []error
	for _, o := range opts {
		if o == nil {
			errs = append(errs, errors.New("an option is nil"))
			continue
		}
		errs = append(errs, o(&f.settings))
	}
	if f.settings.seeded {
		f.random = rand.New(rand.NewPCG(f.settings.seed, 0)) //nolint:gosec // faults are no secret
	}
	if p := f.settings.meters; p != nil {
		var err error
		f.injected, err = p.Meter("github.com/hopbound/hopbound/interceptors/fault").Int64Counter("hopbound.fault.injected",
			metric.WithUnit("{fault}"), metric.WithDescription("Faults that were injected on purpose."))
		errs = append(errs, err)
	}
	if err := errors.Join(append(errs, f.set(rules))...); err != nil {
		return nil, fmt.Errorf("fault: %w", err)
	}
	return f, nil
}

// Set replaces the rules, for calls that start from now on. If it returns an error, the old rules stay.
func (f *Faults) Set(rules ...Rule) error {
	if err := f.set(rules); err != nil {
		return fmt.Errorf("fault: %w", err)
	}
	return nil
}

func (f *Faults) set(rules []Rule) error {
	errs := make([]error, 0, len(rules))
	for i := range rules {
		errs = append(errs, rules[i].validate())
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	rules = slices.Clone(rules)
	f.rules.Store(&rules)
	return nil
}

// Enable switches the faults on. It returns an error, and they stay off, if this is production; see [Environment].
func (f *Faults) Enable() error {
	for _, production := range append([]func() string{Environment}, f.settings.production...) {
		if why := production(); why != "" {
			return fmt.Errorf("fault: no faults are injected in production: %s", why)
		}
	}
	f.on.Store(true)
	return nil
}

// Disable switches the faults off, for calls that start from now on.
func (f *Faults) Disable() { f.on.Store(false) }

// Enabled reports whether the faults are on.
func (f *Faults) Enabled() bool { return f.on.Load() }

// DialOptions returns the options that install the faults at a client, after those of Hopbound's client.
func (f *Faults) DialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(f.UnaryClientInterceptor()), grpc.WithChainStreamInterceptor(f.StreamClientInterceptor())}
}

// ServerOptions returns the options that install the faults at a server, after those of Hopbound's server.
func (f *Faults) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(f.UnaryServerInterceptor()), grpc.ChainStreamInterceptor(f.StreamServerInterceptor())}
}

// UnaryClientInterceptor returns the interceptor of a client's unary calls.
func (f *Faults) UnaryClientInterceptor() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		ctx, faults := f.forClient(ctx, method)
		if len(faults) == 0 {
			return invoker(ctx, method, req, reply, cc, opts...)
		}
		if err := faults.before(ctx); err != nil {
			return err
		}
		lost := faults.loses()
		if lost == nil {
			return invoker(ctx, method, req, reply, cc, opts...)
		}
		if err := invoker(ctx, method, req, reply, cc, withoutMetadata(opts)...); err != nil {
			return err
		}
		if m, ok := reply.(proto.Message); ok {
			proto.Reset(m)
		}
		return lost.lose(ctx)
	}
}

// withoutMetadata drops the options that receive the header and the trailer of a reply, which are lost with it.
func withoutMetadata(opts []grpc.CallOption) []grpc.CallOption {
	return slices.DeleteFunc(slices.Clone(opts), func(o grpc.CallOption) bool {
		switch o.(type) {
		case grpc.HeaderCallOption, grpc.TrailerCallOption:
			return true
		}
		return false
	})
}

// StreamClientInterceptor returns the interceptor of a client's streams.
func (f *Faults) StreamClientInterceptor() grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		ctx, faults := f.forClient(ctx, method)
		if len(faults) == 0 {
			return streamer(ctx, desc, cc, method, opts...)
		}
		if err := faults.before(ctx); err != nil {
			return nil, err
		}
		lost, cut := faults.loses(), faults.cuts()
		if lost == nil && cut == nil {
			return streamer(ctx, desc, cc, method, opts...)
		}
		if lost != nil {
			opts = withoutMetadata(opts)
		}
		ctx, cancel := context.WithCancel(ctx)
		cs, err := streamer(ctx, desc, cc, method, append(slices.Clip(opts), grpc.OnFinish(func(error) { cancel() }))...)
		if err != nil {
			cancel()
			return nil, err
		}
		return &clientStream{ClientStream: cs, ctx: ctx, cancel: cancel, lost: lost, cut: cut, single: !desc.ServerStreams}, nil
	}
}

// clientStream is a stream that breaks off, or whose end is lost.
type clientStream struct {
	grpc.ClientStream
	ctx       context.Context //nolint:containedctx // of the stream
	cancel    context.CancelFunc
	lost, cut *selected // nil if it has no such fault
	received  int
	single    bool // there is one response
	broken    error
}

// RecvMsg receives a message, or the end.
func (s *clientStream) RecvMsg(m any) error {
	if s.broken != nil {
		return s.broken
	}
	if s.cut != nil && s.received == s.cut.rule.CutAfter {
		s.broken = s.cut.fail(s.ctx, kindCut, codes.Unavailable)
		s.cancel()
		return s.broken
	}
	err := s.ClientStream.RecvMsg(m)
	if err == nil {
		s.received++
	}
	if ended := errors.Is(err, io.EOF) || err == nil && s.single; ended && s.lost != nil {
		s.broken = s.lost.lose(s.ctx)
		return s.broken
	}
	return err
}

// Trailer returns the trailer, which is lost with the reply.
func (s *clientStream) Trailer() metadata.MD {
	if s.broken != nil {
		return nil
	}
	return s.ClientStream.Trailer()
}

// UnaryServerInterceptor returns the interceptor of a server's unary calls.
func (f *Faults) UnaryServerInterceptor() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		faults := f.forServer(ctx, info.FullMethod)
		if err := faults.before(ctx); err != nil {
			return nil, err
		}
		reply, err := handler(ctx, req)
		if lost := faults.loses(); lost != nil && err == nil {
			return nil, lost.lose(ctx)
		}
		return reply, err
	}
}

// StreamServerInterceptor returns the interceptor of a server's streams.
func (f *Faults) StreamServerInterceptor() grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		faults := f.forServer(ss.Context(), info.FullMethod)
		if err := faults.before(ss.Context()); err != nil {
			return err
		}
		cut := &serverStream{ServerStream: ss, cut: faults.cuts()}
		if cut.cut != nil {
			ss = cut
		}
		err := handler(srv, ss)
		switch lost := faults.loses(); {
		case cut.broken != nil:
			return cut.broken
		case lost != nil && err == nil:
			return lost.lose(ss.Context())
		}
		return err
	}
}

// serverStream is a stream that breaks off.
type serverStream struct {
	grpc.ServerStream
	cut    *selected // nil if it does not
	sent   int
	broken error
}

// SendMsg sends a message.
func (s *serverStream) SendMsg(m any) error {
	if s.broken == nil && s.sent == s.cut.rule.CutAfter {
		s.broken = s.cut.fail(s.Context(), kindCut, codes.Unavailable)
	}
	if s.broken != nil {
		return s.broken
	}
	s.sent++
	return s.ServerStream.SendMsg(m)
}

// forClient returns the faults of an attempt, and its context with the guard of the request and a wrong clock.
func (f *Faults) forClient(ctx context.Context, method string) (context.Context, faults) {
	if !f.on.Load() {
		return ctx, nil
	}
	md, _ := metadata.FromOutgoingContext(ctx)
	guards := md.Get(Header)
	if received := metadata.ValueFromIncomingContext(ctx, Header); len(guards) == 0 && len(received) > 0 {
		guards = received
		ctx = metadata.AppendToOutgoingContext(ctx, Header, received[0])
	}
	chosen := f.choose(method, guards)
	for _, s := range chosen {
		if s.rule.ClockSkew != 0 {
			ctx = s.skew(ctx) //nolint:fatcontext // there are few rules
		}
	}
	return ctx, chosen
}

func (f *Faults) forServer(ctx context.Context, method string) faults {
	if !f.on.Load() {
		return nil
	}
	return f.choose(method, metadata.ValueFromIncomingContext(ctx, Header))
}

// before waits, and returns the error of a call that fails before it is sent or handled.
func (f faults) before(ctx context.Context) error {
	for _, s := range f {
		if err := s.wait(ctx); err != nil {
			return err
		}
		if s.rule.Code != codes.OK && !s.rule.LoseReply {
			return s.fail(ctx, kindError, s.rule.Code)
		}
	}
	return nil
}

func (s selected) wait(ctx context.Context) error {
	d := s.rule.Latency + time.Duration(s.faults.chance()*float64(s.rule.Jitter))
	if d == 0 {
		return nil
	}
	s.record(ctx, kindLatency)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// lose returns the error of a call whose reply is lost.
func (s selected) lose(ctx context.Context) error {
	code := s.rule.Code
	if code == codes.OK {
		code = codes.Unavailable
	}
	return s.fail(ctx, kindLost, code)
}

func (s selected) fail(ctx context.Context, kind string, code codes.Code) error {
	s.record(ctx, kind)
	message := "injected by fault " + s.rule.Name
	if s.rule.Message != "" {
		message = s.rule.Message + " (" + message + ")"
	}
	return status.Error(code, message)
}

// record labels the call in its trace, and counts the fault.
func (s selected) record(ctx context.Context, kind string) {
	kvs := []attribute.KeyValue{attribute.String("hopbound.fault.rule", s.rule.Name), attribute.String("hopbound.fault.kind", kind)}
	trace.SpanFromContext(ctx).AddEvent("hopbound.fault", trace.WithAttributes(kvs...))
	if s.faults.injected != nil {
		s.faults.injected.Add(ctx, 1, metric.WithAttributes(kvs...))
	}
}

// skew returns a context whose hop-context is dated by a wrong clock.
func (s selected) skew(ctx context.Context) context.Context {
	md, _ := metadata.FromOutgoingContext(ctx)
	values := md.Get(wire.ContextKey)
	if len(values) != 1 {
		return ctx
	}
	h, ok := wire.ParseContext(values[0])
	if !ok || !h.HasSent {
		return ctx
	}
	micros := s.rule.ClockSkew.Microseconds()
	h.Sent, h.Deadline = h.Sent+micros, h.Deadline+micros
	h.HasSent = h.Sent >= 0 && h.Deadline >= h.Sent // a client sends no time before 1970
	s.record(ctx, kindClock)
	md.Set(wire.ContextKey, string(h.Append(nil))) // md is a copy
	return metadata.NewOutgoingContext(ctx, md)
}
