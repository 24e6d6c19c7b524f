package inbound

import (
	"context"
	"math"
	"reflect"
	"slices"
	"time"

	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/internal/hoperr"
	"github.com/hopbound/hopbound/internal/telemetry"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// minTimerGain is by how much a deadline must be earlier than the context's own to be worth a timer.
const minTimerGain = time.Millisecond

// unlimited stands for the remaining time of a call without a deadline.
const unlimited = time.Duration(math.MaxInt64)

// admit reads the hop-context of a call. It gives the handler its deadline and its tokens, or rejects the
// call. The argument registered says that the method is registered; a server may also have a handler for
// all methods that are not. If learn is set, the server learns how long the handler takes, and rejects
// calls by what it has learned.
func (s *Server) admit(ctx context.Context, fullMethod string, registered, learn bool) *call {
	c := &call{server: s, observe: s.Modes.Observes(fullMethod), method: s.methodOf(fullMethod, registered), arrived: time.Now()}
	if registered {
		c.method.telemetry.Register()
	}
	if learn {
		c.floor = s.floors.Get(fullMethod, func(string) *deadline.Floor { return &deadline.Floor{} })
	}
	c.outside = s.isOutside(ctx)
	header, malformed := c.readHeader(ctx)
	c.request.Attempt, c.request.Degraded, c.keyExpected = header.Attempt, header.Level, header.Keyed
	if header.HasBudget {
		c.request.IsHop = true
		c.request.Allotment.Receive(header.Budget)
	}
	t := &c.request.Telemetry
	ctx = s.telemetry.Start(ctx, t, c.method.telemetry, c.observe, telemetry.Arrival{
		Outside: c.outside, Root: !header.HasSent && !header.HasBudget, Attempt: header.Attempt, Lent: header.Budget, HasLent: header.HasBudget,
	})
	if malformed {
		t.Malformed(ctx, wire.ContextKey)
	}
	grpc, remaining, excess := c.timeLeft(ctx, header)
	t.Arrived(ctx, timeOf(remaining), timeOf(c.waits), excess)
	c.reject(ctx, remaining)
	if !c.observe && c.rejection == nil && grpc-remaining > minTimerGain {
		ctx, c.cancel = context.WithDeadline(ctx, c.arrived.Add(remaining))
	}
	c.request.Context = ctx //nolint:fatcontext // each call has its own
	return c
}

func timeOf(d time.Duration) telemetry.Time { return telemetry.Time{Left: d, Limited: d != unlimited} }

// isOutside reports whether the caller is not trusted.
func (s *Server) isOutside(ctx context.Context) bool {
	if len(s.config.Edge) == 0 {
		return false
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		p = &peer.Peer{}
	}
	return slices.ContainsFunc(s.config.Edge, func(outside func(*peer.Peer) bool) bool { return outside(p) })
}

// readHeader returns the caller's hop-context. It is empty if the caller is not trusted or the header is
// missing or malformed.
func (c *call) readHeader(ctx context.Context) (h wire.Context, malformed bool) {
	if c.outside {
		return wire.Context{}, false
	}
	values := metadata.ValueFromIncomingContext(ctx, wire.ContextKey)
	if len(values) == 0 {
		return wire.Context{}, false
	}
	if len(values) > 1 {
		return wire.Context{}, true
	}
	h, ok := wire.ParseContext(values[0])
	return h, !ok
}

// timeLeft returns the call's remaining time according to gRPC, its remaining time after the deduction
// for delays and within the server's limits, and the excess delay.
func (c *call) timeLeft(ctx context.Context, h wire.Context) (grpc, remaining, excess time.Duration) {
	grpc = unlimited
	if d, ok := ctx.Deadline(); ok {
		grpc = d.Sub(c.arrived)
	}
	remaining = grpc
	// Nothing is deducted if connections cannot be distinguished: another caller could send the clock id.
	if peer := connectionOf(ctx); h.HasSent && peer != nil {
		excess = c.server.delays.Excess(deadline.Sender{Peer: peer, Clock: h.ClockID}, h.Sent, c.arrived.Sub(c.server.started))
	}
	if h.HasDeadline {
		remaining = deadline.OnArrival(h.Deadline, h.Sent, excess, grpc)
	}
	c.waits = remaining
	limits := &c.method.limits
	if grpc == unlimited && limits.DefaultDeadline > 0 {
		remaining = min(remaining, limits.DefaultDeadline)
	}
	for _, bound := range [...]time.Duration{limits.MaxDeadline, c.method.declared.Cap} {
		if bound > 0 {
			remaining = min(remaining, bound)
		}
	}
	return grpc, remaining, excess
}

// connectionOf returns what identifies the connection of a call: the pointer to its remote address, which
// gRPC allocates for each connection, or else the address as text. It returns nil if the address does not
// distinguish connections, as that of grpc-go's bufconn.
func connectionOf(ctx context.Context) any {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return nil
	}
	switch t := reflect.TypeOf(p.Addr); {
	case t.Kind() == reflect.Pointer:
		return p.Addr
	case t.Size() == 0:
		return nil
	default:
		return p.Addr.String()
	}
}

// reject sets the error of a call that cannot finish in time: it is cancelled, its deadline has passed,
// or too little time remains.
func (c *call) reject(ctx context.Context, remaining time.Duration) {
	var reason, message string
	switch {
	case remaining <= 0:
		reason, message = hoperr.DeadlineExpired, "the deadline had passed when the call arrived"
	case ctx.Err() != nil:
		if !c.observe {
			c.rejection = hoperr.NewCanceled()
		}
		return
	case remaining < c.method.floor, c.floor != nil && c.floor.Refuse(c.arrived.Sub(c.server.started), remaining):
		reason, message = hoperr.DeadlineUnreachable, "the deadline leaves less time than the method needs"
	default:
		return
	}
	c.request.Telemetry.Rejected(ctx, reason)
	if !c.observe {
		c.rejection = hoperr.New(codes.DeadlineExceeded, reason, message)
	}
}
