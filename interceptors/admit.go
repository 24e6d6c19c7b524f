package interceptors

import (
	"context"
	"math"
	"reflect"
	"time"

	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// derived is by how much a deadline must be earlier than the context's own to
// be worth a timer.
const derived = time.Millisecond

// unbounded stands for the time of a call without a deadline.
const unbounded = time.Duration(math.MaxInt64)

// admit reads what a call carries, and gives the handler its deadline and its
// tokens, or refuses the call. A method that is not registered, which a server
// may have a handler for all the same, is none of those that metrics name. If
// learn is set, it learns how long the handler needs.
func (s *Server) admit(ctx context.Context, fullMethod string, registered, learn bool) *incoming {
	in := &incoming{Server: s, mode: s.modes.of(fullMethod), method: s.methodOf(fullMethod, registered), arrived: time.Now()}
	if registered {
		in.method.register()
	}
	if learn {
		in.floor = s.floors.get(fullMethod, func(string) *deadline.Floor { return &deadline.Floor{} })
	}
	in.outside = s.isOutside(ctx)
	header, malformed := in.readHeader(ctx)
	in.request.attempt, in.keyExpected = header.Attempt, header.Keyed
	if header.HasBudget {
		in.request.hop = true
		in.request.allotment.Receive(header.Budget)
	}
	ctx = in.startServer(ctx, header)
	if malformed {
		in.malformed(ctx, wire.ContextKey)
	}
	grpc, remaining, excess := in.timeLeft(ctx, header)
	in.traceArrival(remaining, excess)
	in.countArrival(ctx, in.waited)
	in.refuse(ctx, remaining)
	if in.mode == Enforce && in.refusal == nil && grpc-remaining > derived {
		ctx, in.cancel = context.WithDeadline(ctx, in.arrived.Add(remaining))
	}
	in.request.in(ctx)
	in.request.span = in.span
	return in
}

// readHeader returns what the caller says of its call: nothing if it is outside, and
// nothing if it is malformed.
func (in *incoming) readHeader(ctx context.Context) (h wire.Context, malformed bool) {
	if in.outside {
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

// timeLeft returns what gRPC says remains of the call's time, what really
// does, and what is taken off for delays.
func (in *incoming) timeLeft(ctx context.Context, h wire.Context) (grpc, remaining, excess time.Duration) {
	grpc = unbounded
	if d, ok := ctx.Deadline(); ok {
		grpc = d.Sub(in.arrived)
	}
	remaining = grpc
	if h.HasSent {
		excess = in.delays.Excess(deadline.Sender{Peer: connectionOf(ctx), Clock: h.ClockID}, h.Sent, in.arrived.Sub(in.begun))
	}
	if h.HasDeadline {
		remaining = deadline.OnArrival(h.Deadline, h.Sent, excess, grpc)
	}
	in.waited = remaining
	limits := &in.method.limits
	if grpc == unbounded && limits.DefaultDeadline > 0 {
		remaining = min(remaining, limits.DefaultDeadline)
	}
	for _, most := range [...]time.Duration{limits.MaxDeadline, in.method.declared.cap} {
		if most > 0 {
			remaining = min(remaining, most)
		}
	}
	return grpc, remaining, excess
}

// connectionOf returns what identifies the connection that a call came by, or nil: the pointer
// to its remote address, of which gRPC makes one for each connection, or the address as text.
func connectionOf(ctx context.Context) any {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return nil
	}
	if t := reflect.TypeOf(p.Addr); t.Kind() == reflect.Pointer || t.Size() == 0 {
		return p.Addr
	}
	return p.Addr.String()
}

// refuse sets the error of a call that is not worth running: it is cancelled,
// its time is over, or what remains of it is not enough.
func (in *incoming) refuse(ctx context.Context, remaining time.Duration) {
	var reason, message string
	switch {
	case remaining <= 0:
		reason, message = ReasonDeadlineExpired, "the deadline had passed when the call arrived"
	case ctx.Err() != nil:
		if in.mode == Enforce {
			in.refusal = cancelledError()
		}
		return
	case remaining < max(in.method.limits.Floor, in.method.declared.floor), in.floor != nil && in.floor.Refuse(in.arrived.Sub(in.begun), remaining):
		reason, message = ReasonDeadlineUnreachable, "what remains of the deadline is less than the method needs"
	default:
		return
	}
	in.refused(ctx, reason)
	if in.mode == Enforce {
		in.refusal = newError(codes.DeadlineExceeded, reason, message)
	}
}
