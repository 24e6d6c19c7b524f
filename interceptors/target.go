package interceptors

import (
	"sync/atomic"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/deadline"
	"google.golang.org/grpc"
)

// target is what a client knows of one target that it calls.
type target struct {
	// reserve and transit are the time that a message to the target and back
	// spends outside of its server: what is kept for it, and what is refused.
	reserve deadline.Reserve
	transit deadline.Floor

	// meter is the pace at which the target may be sent extra attempts, whoever
	// pays for them. It only ever lowers what a request's own tokens allow, and
	// guards the target against many roots that each keep to their budget.
	meter *budget.Budget

	throttle throttle

	label  string // in metrics
	series cache[clientSeries]

	latencies cache[latency] // by method, of those hedged at a percentile

	// reports is whether a reply has ever brought a report. From then on, a
	// failure without one is not of the server's own making.
	reports atomic.Bool
}

// otherTargets is the name under which a client knows all targets beyond those
// it keeps apart.
const otherTargets = "\x00other"

func (c *Client) target(cc *grpc.ClientConn) *target {
	name := ""
	if cc != nil {
		name = cc.Target()
	}
	if c.targets.full(name) {
		name = otherTargets
	}
	return c.targets.get(name, func(string) *target {
		t := &target{meter: c.budget.Twin(), throttle: newThrottle(c.config.throttle), label: otherMethods}
		if cc != nil && name != otherTargets {
			t.label = cc.CanonicalTarget()
		}
		return t
	})
}
