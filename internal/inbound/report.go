package inbound

import (
	"context"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/hopbound/hopbound/internal/hoperr"
	"github.com/hopbound/hopbound/internal/request"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// reportOneIn says how many successful calls that used no token are reported: one in reportOneIn.
// From these reports, callers learn how long a reply takes to come back.
const reportOneIn = 16

// report ends the call, and sets the trailer that tells the caller how many tokens were used and
// whether a failure may be retried. Most healthy calls have no trailer.
func (c *call) report(err error) {
	c.ended = true
	used, took := c.close(err)
	if err == nil && used == 0 && rand.IntN(reportOneIn) != 0 { //nolint:gosec // a sample need not be secret
		return
	}
	c.sendReport(err, used, took)
}

// reportPanic reports a call whose handler has panicked or ended its goroutine. An interceptor before
// Hopbound's may recover the panic, and then the caller receives a reply.
func (c *call) reportPanic() {
	if !c.ended {
		c.report(hoperr.ErrPanicked)
	}
}

// sendReport sets the trailer of a call that has ended with err. Only its first call has an effect,
// because a stream that a limit ends is reported before its handler returns.
func (c *call) sendReport(err error, used int, took time.Duration) {
	if c.reported.Swap(true) {
		return
	}
	r := wire.Report{Used: used, Elapsed: took.Microseconds(), HasElapsed: true}
	if !c.observe && c.server.once.Stores(c.method.keyed) {
		r.Keeps, r.HasKeeps = c.method.keyed.Hash(), true
	}
	marked := false
	if err != nil && !c.observe {
		marked, r.NoTokens = c.request.Downstream.Mark(hoperr.Code(err))
	}
	var buf [wire.MaxLen]byte
	trailer := metadata.MD{wire.ReportKey: {string(r.Append(buf[:0]))}}
	if ms, ok := c.request.Downstream.Pushback(marked); ok && err != nil {
		trailer[wire.PushbackKey] = []string{strconv.FormatInt(ms, 10)}
	}
	_ = grpc.SetTrailer(&c.request, trailer) // fails on a server that is not gRPC's own, which has no trailers
}

// close ends the request at this hop. It returns how many of the tokens that the caller lent were
// used, and how long the call took here.
func (c *call) close(err error) (used int, took time.Duration) {
	now := time.Now()
	took = now.Sub(c.arrived)
	used = c.request.Allotment.Close()
	if c.floor != nil && err == nil && !c.replayed {
		c.floor.Learn(now.Sub(c.server.started), took)
	}
	late := -unlimited
	if c.waits != unlimited {
		late = took - max(0, c.waits)
	}
	c.request.Telemetry.End(&c.request, err, c.request.Allotment.Used(), took, late)
	if c.cancel != nil {
		c.cancel()
	}
	return used, took
}

// Push tells the caller of the call whose context is ctx after how many milliseconds to retry it. The
// trailer that is sent when the call ends carries the number. A negative number means that the caller
// must not retry.
func Push(ctx context.Context, ms int64) {
	if r := request.FromContext(ctx); r != nil {
		r.Downstream.Push(ms)
		return
	}
	// It fails only outside of a call, where there is no caller.
	_ = grpc.SetTrailer(ctx, metadata.Pairs(wire.PushbackKey, strconv.FormatInt(ms, 10)))
}
