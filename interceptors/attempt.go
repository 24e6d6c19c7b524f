package interceptors

import (
	"context"
	"strconv"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// attempt makes one attempt: it leases all free tokens to the callee, sends the
// deadline, and settles by what comes back.
func (k *call) attempt(req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker) error {
	k.n++
	if k.n > 1 {
		k.began = time.Now()
		k.forgetLast()
	}
	if k.mode == Enforce {
		k.lease = k.allotment.Lease(k.began)
	}
	ctx := k.ctx
	if k.timeout = k.attemptTimeout(); k.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, k.began.Add(k.timeout))
		defer cancel()
	}
	header := k.header(ctx)
	ctx = k.startAttempt(ctx)
	err := invoker(k.outgoing(ctx, header), k.fullMethod, req, reply, cc, k.opts...)
	k.settle(err)
	return err
}

// forgetLast clears what the attempt before left in the user's call options and
// in ours, for an attempt that fails before it reaches a server does not.
func (k *call) forgetLast() {
	for _, o := range k.opts {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = nil
		case grpc.TrailerCallOption:
			*o.TrailerAddr = nil
		case grpc.PeerCallOption:
			*o.PeerAddr = peer.Peer{}
		}
	}
}

// attemptTimeout returns the attempt's own timeout, or 0 if it has as much time
// as the call.
func (k *call) attemptTimeout() time.Duration {
	remaining, ok := k.remaining()
	timeout := k.policy.AttemptTimeout
	if k.mode == Observe {
		return 0
	}
	if timeout == AttemptTimeoutShared {
		timeout = 0
		if more := k.mayFollow(); ok && more > 0 {
			backoff := k.policy.backoff()
			share := remaining
			for i := range more {
				share -= backoff.bound(k.pauses + 1 + i)
			}
			timeout = max(share, remaining/2) / time.Duration(more+1)
		}
	}
	if timeout <= 0 || ok && timeout >= remaining {
		return 0
	}
	return timeout
}

// mayFollow returns how many attempts may follow the present one.
func (k *call) mayFollow() int {
	if !k.safe() {
		return 0
	}
	return max(0, min(k.policy.attempts()-k.n, k.lease.Tokens()))
}

// header returns what the attempt carries to its callee.
func (k *call) header(ctx context.Context) wire.Context {
	sent, id := k.clock.Read(k.began, k.mono(k.began))
	h := wire.Context{
		Sent: sent, ClockID: id, HasSent: true,
		Budget: k.lease.Tokens(), HasBudget: k.mode == Enforce,
		Attempt: k.n,
	}
	if d, ok := ctx.Deadline(); ok {
		remaining := d.Sub(k.began)
		k.reserve = k.heldBack(remaining)
		h.Deadline, h.HasDeadline = sent+(remaining-k.reserve).Microseconds(), true
	}
	return h
}

// outgoing returns the context of the attempt with its metadata.
func (k *call) outgoing(ctx context.Context, h wire.Context) context.Context {
	var buf [wire.MaxLen]byte
	kv := append(make([]string, 0, 8), wire.ContextKey, string(h.Append(buf[:0])))
	if k.n > 1 {
		kv = append(kv, previousAttemptsKey, strconv.Itoa(k.n-1))
	}
	if k.hasKey {
		kv = append(kv, idempotency.Header, string(k.key))
	}
	return metadata.AppendToOutgoingContext(ctx, kv...)
}

// settle ends the attempt's lease by what came back, and learns from it.
func (k *call) settle(err error) {
	now := time.Now()
	k.ended = now
	reached := err == nil || k.peer.Addr != nil
	k.readReport()
	report := k.report
	switch {
	case !reached:
		k.lease.Settle(now, 0)
		if k.paid {
			k.allotment.Unspend()
			k.target.meter.Put(now, 1)
		}
	case k.lost(err):
		k.lease.Lost(now)
	default:
		k.lease.Settle(now, report.Used)
	}
	k.seen = k.seen || reached
	if err == nil {
		k.target.meter.Success(now)
	}
	if report.HasElapsed {
		mono, trip := k.mono(now), now.Sub(k.began)
		server := time.Duration(min(report.Elapsed, trip.Microseconds())) * time.Microsecond
		k.target.reserve.Learn(mono, trip, server)
		k.target.transit.Learn(mono, trip-server)
	}
}

// lost reports whether no reply came though a server had been picked. The
// status of a failure is always sent with some metadata, by a server that knows
// of this a report; a failure that gRPC makes by itself has none.
func (k *call) lost(err error) bool { return err != nil && len(k.trailer) == 0 }

// readReport reads what the reply reports: nothing if it is from a peer that
// does not, or if it is malformed.
func (k *call) readReport() {
	k.report, k.reported = wire.Report{}, false
	values := k.trailer[wire.ReportKey]
	if len(values) == 0 {
		return
	}
	if r, ok := wire.ParseReport(values[0]); ok && len(values) == 1 {
		k.report, k.reported = r, true
		return
	}
	k.malformed(wire.ReportKey)
}

// transit returns how long the way to the target and back takes at least.
func (k *call) transit(now time.Time) time.Duration { return k.target.reserve.Get(k.mono(now)) }
