package fallback

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/interceptors"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Header is the key in the response header of a call that a fallback has served. Its value is "target", "default", or
// "cache;age=12", with the age of the reply in seconds, rounded down. Read it with [grpc.Header]. It is set at the client
// and is not sent on.
const Header = "hopbound-fallback"

// Fallback provides other replies for calls that have failed. It is safe for concurrent use. Make it with [New].
type Fallback struct {
	settings settings
	calls    metric.Int64Counter // nil if there is no meter provider
}

// New returns fallbacks. It returns all errors of the options, joined.
func New(opts ...Option) (*Fallback, error) {
	f := &Fallback{settings: settings{
		chains: map[string]*chain{}, entries: 1000, reserve: 50 * time.Millisecond,
		codes: []codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted},
	}}
	var errs []error
	for _, o := range opts {
		if o == nil {
			errs = append(errs, errors.New("an option is nil"))
			continue
		}
		errs = append(errs, o(&f.settings))
	}
	for _, g := range f.settings.given {
		errs = append(errs, f.add(g))
	}
	if p := f.settings.meters; p != nil {
		var err error
		f.calls, err = p.Meter("github.com/hopbound/hopbound/interceptors/fallback").Int64Counter("hopbound.fallback.calls",
			metric.WithUnit("{call}"), metric.WithDescription("Calls whose primary call has failed, by what has served them."))
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("fallback: %w", err)
	}
	return f, nil
}

// add adds the chain of a method.
func (f *Fallback) add(g given) error {
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(g.method, "/"), "/", "."))
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	m, ok := d.(protoreflect.MethodDescriptor)
	switch {
	case err != nil || !ok:
		return fmt.Errorf("For(%q): the method is unknown; import its generated code", g.method)
	case m.IsStreamingClient() || m.IsStreamingServer():
		return fmt.Errorf("For(%q): streams have no fallbacks", g.method)
	}
	c := &chain{method: m, entries: f.settings.entries, safe: declaredSafe(m) || slices.Contains(f.settings.safe, g.method)}
	var errs []error
	for _, s := range g.steps {
		if s == nil {
			errs = append(errs, fmt.Errorf("For(%q): a step is nil", g.method))
			continue
		}
		if err := s(c); err != nil {
			errs = append(errs, fmt.Errorf("For(%q): %w", g.method, err))
		}
	}
	f.settings.chains[g.method] = c
	return errors.Join(errs...)
}

// DialOptions returns the options that install the fallbacks. They belong before those of Hopbound's client.
func (f *Fallback) DialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(f.UnaryInterceptor())}
}

// UnaryInterceptor returns the interceptor of unary calls.
func (f *Fallback) UnaryInterceptor() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		chain, has := f.settings.chains[method]
		if message, ok := reply.(proto.Message); has && ok {
			c := &call{ctx: ctx, method: method, req: req, reply: message, reached: true}
			return f.serve(c, chain, cc, invoker, opts)
		}
		return invoker(ctx, method, req, reply, cc, opts...)
	}
}

// call is a call of a method that has fallbacks.
type call struct {
	ctx     context.Context //nolint:containedctx // of the call
	method  string
	req     any
	reply   proto.Message
	opts    []grpc.CallOption // without observers
	reached bool              // a server may have seen the primary call

	// These are options that gRPC would apply to each of several calls.
	headers  []grpc.HeaderCallOption
	replies  []grpc.CallOption // for the trailer and the peer
	finished []func(error)
}

func (f *Fallback) serve(c *call, chain *chain, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts []grpc.CallOption) (err error) {
	c.split(opts)
	defer func() {
		for _, finished := range c.finished {
			finished(err)
		}
	}()
	key := ""
	if chain.cache != nil {
		key = chain.cache.key(c.ctx, c.req)
	}
	err = c.invoke(f.settings.reserve, func(ctx context.Context, opts []grpc.CallOption) error {
		return invoker(ctx, c.method, c.req, c.reply, cc, opts...)
	})
	if err == nil {
		chain.keep(key, c.reply)
		return nil
	}
	if !slices.Contains(f.settings.codes, status.Code(err)) {
		return err
	}
	for _, s := range chain.steps {
		if c.ctx.Err() != nil {
			break
		}
		source, ok := s.serve(c, key, err)
		if !ok {
			continue
		}
		if source == sourceTarget {
			chain.keep(key, c.reply)
		}
		f.served(c, source)
		return nil
	}
	f.count(c, sourceNone)
	return err
}

// split takes those options out that belong to the whole call, or to the reply that serves it.
func (c *call) split(opts []grpc.CallOption) {
	c.opts = make([]grpc.CallOption, 0, len(opts)+4)
	for _, o := range opts {
		switch o := o.(type) {
		case grpc.OnFinishCallOption:
			c.finished = append(c.finished, o.OnFinish)
		case grpc.HeaderCallOption:
			c.headers = append(c.headers, o)
		case grpc.TrailerCallOption, grpc.PeerCallOption:
			c.replies = append(c.replies, o)
		default:
			c.opts = append(c.opts, o)
		}
	}
}

// invoke makes the primary call, with a deadline that is earlier than the call's by the reserve.
func (c *call) invoke(reserve time.Duration, invoker func(context.Context, []grpc.CallOption) error) error {
	ctx := c.ctx
	if left, limited := deadline.Remaining(ctx); limited && reserve > 0 && left > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, left-min(reserve, left/5))
		defer cancel()
	}
	opts := append(c.opts, interceptors.Reached(&c.reached)) //nolint:gocritic // there is room, and c.opts stays as it is
	for _, o := range c.headers {
		opts = append(opts, o)
	}
	return invoker(ctx, append(opts, c.replies...))
}

// Sources of replies.
const (
	sourceTarget  = "target"
	sourceCache   = "cache"
	sourceDefault = "default"
	sourceNone    = "none"
)

// served records which step has served the call.
func (f *Fallback) served(c *call, source string) {
	name, _, _ := strings.Cut(source, ";")
	for _, o := range c.headers {
		if name != sourceTarget {
			*o.HeaderAddr = metadata.MD{}
		}
		o.HeaderAddr.Set(Header, source)
	}
	f.count(c, name)
	trace.SpanFromContext(c.ctx).AddEvent("hopbound.fallback", trace.WithAttributes(
		attribute.String("rpc.method", strings.TrimPrefix(c.method, "/")), attribute.String("hopbound.fallback.source", source)))
}

func (f *Fallback) count(c *call, source string) {
	if f.calls != nil {
		f.calls.Add(c.ctx, 1, metric.WithAttributes(attribute.String("grpc.method", strings.TrimPrefix(c.method, "/")),
			attribute.String("hopbound.fallback.source", source)))
	}
}

// step is one way to answer a call. It returns the source of the reply, or false if it has none.
type step interface {
	serve(c *call, key string, failure error) (source string, ok bool)
}

// target is another target.
type target struct{ conn grpc.ClientConnInterface }

func (t *target) serve(c *call, _ string, _ error) (string, bool) {
	refund := func() {}
	if a, ok := budget.FromContext(c.ctx); ok && c.reached && !a.Closed() {
		if !a.Spend() {
			return "", false
		}
		refund = a.Refund
	}
	var header, trailer metadata.MD
	var from peer.Peer
	reached := true
	opts := append(slices.Clip(c.opts), grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&from), interceptors.Reached(&reached))
	reply := c.reply.ProtoReflect().New().Interface()
	err := t.conn.Invoke(c.ctx, c.method, c.req, reply, opts...)
	if !reached {
		refund()
	}
	if err != nil {
		c.reached = c.reached || reached
		return "", false
	}
	c.set(reply)
	for _, o := range c.headers {
		*o.HeaderAddr = header.Copy()
	}
	for _, o := range c.replies {
		switch o := o.(type) {
		case grpc.TrailerCallOption:
			*o.TrailerAddr = trailer
		case grpc.PeerCallOption:
			*o.PeerAddr = from
		}
	}
	return sourceTarget, true
}

// fixed is a default.
type fixed func(ctx context.Context, req any, failure error) (proto.Message, error)

func (f fixed) serve(c *call, _ string, failure error) (string, bool) {
	reply, err := f(c.ctx, c.req, failure)
	if err != nil || reply == nil || !reply.ProtoReflect().IsValid() {
		return "", false
	}
	c.set(reply)
	return sourceDefault, true
}

// set sets the reply of the call.
func (c *call) set(reply proto.Message) {
	proto.Reset(c.reply)
	proto.Merge(c.reply, reply)
}

// cache is the last replies of a method.
type cache struct {
	maxAge  time.Duration
	key     func(ctx context.Context, req any) string
	replies *lru.Cache[string, kept]
}

type kept struct {
	reply proto.Message
	at    time.Time
}

func newCache(entries int, maxAge time.Duration, key func(context.Context, any) string) (*cache, error) {
	replies, err := lru.New[string, kept](entries)
	return &cache{maxAge, key, replies}, err
}

// keep keeps a copy of a reply for later.
func (c *chain) keep(key string, reply proto.Message) {
	if c.cache != nil && key != "" {
		c.cache.replies.Add(key, kept{proto.Clone(reply), time.Now()})
	}
}

func (c *cache) serve(call *call, key string, _ error) (string, bool) {
	if key == "" {
		return "", false
	}
	k, ok := c.replies.Get(key)
	if !ok {
		return "", false
	}
	age := time.Since(k.at)
	if age > c.maxAge {
		c.replies.Remove(key)
		return "", false
	}
	call.set(k.reply)
	return sourceCache + ";age=" + strconv.Itoa(int(age/time.Second)), true
}
