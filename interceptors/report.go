package interceptors

import (
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// reportOneIn is how many successes there are to one that is reported though it
// used nothing, so that callers learn how long replies take to come back.
const reportOneIn = 16

// report ends the call and tells the caller in the trailer what it used, and
// whether a failure may be repeated. A healthy call mostly has no trailer.
func (in *incoming) report(err error) {
	used, took := in.close(err)
	if err == nil && used == 0 && rand.IntN(reportOneIn) != 0 { //nolint:gosec // a sample need not be secret
		return
	}
	in.sendReport(err, used, took)
}

// sendReport sets the trailer of a call that has ended with err, the first time only: a
// stream that a limit ends is reported on before its handler returns.
func (in *incoming) sendReport(err error, used int, took time.Duration) {
	if in.reported.Swap(true) {
		return
	}
	r := wire.Report{Used: used, Elapsed: took.Microseconds(), HasElapsed: true}
	if m := in.method.keyed; m != nil && m.unsupported == nil && in.mode == Enforce && !in.volatile {
		r.Keeps, r.HasKeeps = m.hash, true
	}
	marked := false
	if err != nil && in.mode == Enforce {
		marked, r.Wanting = in.request.downstream.mark(codeOf(err))
	}
	var buf [wire.MaxLen]byte
	trailer := metadata.MD{wire.ReportKey: {string(r.Append(buf[:0]))}}
	if ms, ok := in.request.downstream.retryAfter(marked); ok && err != nil {
		trailer[pushbackKey] = []string{strconv.FormatInt(ms, 10)}
	}
	// It fails on a server that is not gRPC's own, which has no trailers.
	_ = grpc.SetTrailer(&in.request, trailer)
}

// close ends the call's tree at this hop, and returns how many of the tokens that
// the caller lent were used, and how long the call took here.
func (in *incoming) close(err error) (used int, took time.Duration) {
	now := time.Now()
	took = now.Sub(in.arrived)
	used = in.request.allotment.Close()
	if in.floor != nil && err == nil && !in.replayed {
		in.floor.Learn(now.Sub(in.begun), took)
	}
	in.countEnd(err, now)
	in.endServer(err, in.request.allotment.Used())
	if in.cancel != nil {
		in.cancel()
	}
	return used, took
}
