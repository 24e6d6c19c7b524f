package outbound

import (
	"time"

	"github.com/hopbound/hopbound/internal/hoperr"
	"github.com/hopbound/hopbound/internal/policy"
	"github.com/hopbound/hopbound/internal/telemetry"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
)

var errPanicked = hoperr.ErrPanicked

// Settle takes back the tokens that an attempt has lent, according to its reply, and learns from the
// reply. Only the first call for an attempt has an effect.
func (c *Call) Settle(a *Attempt, err error) {
	if a.settled {
		return
	}
	a.settled = true
	now := time.Now()
	c.ended, a.ended = now, now
	a.received = a.Finished.Load()
	c.readReport(a)
	refused := err != nil && a.refused.Load()
	reached := err == nil || !refused && a.reached()
	a.touched = reached
	a.unsent = !reached && (refused || !a.ready || !c.ready())
	c.settleLoan(a, err, reached)
	c.seen = c.seen || reached
	if err == nil || a.Answered {
		c.budget.Success(now, c.target.name)
		c.target.throttle.succeeded()
	}
	if a.report.HasElapsed && !c.Streaming { // the time of a stream includes that of its application
		mono, trip := c.client.mono(now), now.Sub(a.record.Started)
		server := time.Duration(min(a.report.Elapsed, trip.Microseconds())) * time.Microsecond
		c.target.reserve.Learn(mono, trip, server)
		c.target.transit.Learn(mono, trip-server)
	}
}

// settleLoan decides how many of the lent tokens were used.
func (c *Call) settleLoan(a *Attempt, err error, reached bool) {
	switch {
	case !reached:
		a.loan.Settle(0)
		if a.unsent {
			c.keepCharge(a.ended, a)
		}
	case err != nil && !isLocal(err) && c.lost(a):
		a.loan.Lost()
		a.unknown = true
	case a.malformedReport && err != nil && !a.readable: // how many were used is unknown
		a.loan.Settle(a.loan.Tokens())
		a.unknown = true
	default:
		if a.used > a.loan.Tokens() {
			c.telemetry.Overreported()
		}
		a.loan.Settle(a.used)
	}
}

func (c *Call) settlePanicked(a *Attempt) {
	c.Settle(a, errPanicked)
	c.Decision, c.Reason = telemetry.NotRetryable, telemetry.ReasonPanicked
}

// keepCharge uses what was paid for an attempt that was not sent to pay for the next attempt. If the
// next one is paid for already, keepCharge refunds the charge.
func (c *Call) keepCharge(now time.Time, a *Attempt) {
	switch {
	case a.paid && c.paid:
		c.refund(now, a.charge)
	case a.paid:
		c.paid, c.charge = true, a.charge
	}
}

// readReport reads the report of a reply. There is none if the peer does not know Hopbound. If there
// is more than one, the largest is charged.
func (c *Call) readReport(a *Attempt) {
	values := a.receivedTrailer()[wire.ReportKey]
	if len(values) == 0 {
		return
	}
	if r, ok := wire.ParseReport(values[0]); ok && len(values) == 1 {
		a.report, a.hasReport, a.used = r, true, r.Used
		if !c.target.reports.Load() {
			c.target.reports.Store(true)
		}
		if c.childKey {
			c.target.storesOutcomes(c.FullMethod).Store(r.HasKeeps && r.Keeps == policy.HashOf(c.FullMethod))
		}
		return
	}
	a.malformedReport = true
	for _, v := range values { // a callee that forwards the report of its own callee sends two
		if r, ok := wire.ParseReport(v); ok {
			a.readable, a.used = true, max(a.used, r.Used)
		}
	}
	c.telemetry.Malformed(wire.ReportKey)
}

// receivedTrailer returns the trailer, or nil if gRPC may still write to it.
func (a *Attempt) receivedTrailer() metadata.MD {
	if !a.received {
		return nil
	}
	return a.Trailer
}

// reached reports whether a server may have seen an attempt that failed. It is certain that none did
// only if gRPC got the attempt's call options and says that no server was picked: an interceptor in
// between may have dropped the options.
func (a *Attempt) reached() bool {
	return a.Opened || !a.received || a.Peer.Addr != nil || a.Peer.AuthInfo != nil || len(a.Trailer) > 0
}

// lost reports whether the server's reply was lost, so that the failure was made by gRPC or a proxy. A
// server always sends some metadata with the status of a failure and, if it knows Hopbound, a report.
// A failure that gRPC itself makes has no metadata, and one that a proxy makes has no report.
func (c *Call) lost(a *Attempt) bool {
	return len(a.receivedTrailer()) == 0 || !a.hasReport && !a.malformedReport && c.target.reports.Load()
}

// ranOut reports whether an attempt failed because its time was over, at this client or at a server
// below. Each hop sends the next a deadline that is earlier by its reserve, which is at most a fifth
// of the remaining time. After three hops, little more than half of the time may be left. A
// DEADLINE_EXCEEDED that arrives before half of the time has passed has another cause.
func (a *Attempt) ranOut(err error) bool {
	return a.Expired || hoperr.Code(err) == codes.DeadlineExceeded && a.allowed > 0 &&
		a.ended.Sub(a.record.Started) >= a.allowed/2
}

// ready reports whether the call's connection has a backend. If it has, an attempt that was not sent
// to a backend failed for another reason: for example, the token source of per-RPC credentials is
// down.
func (c *Call) ready() bool { return c.conn != nil && c.conn.GetState() == connectivity.Ready }

// Settled reports whether the attempt was settled.
func (a *Attempt) Settled() bool { return a.settled }
