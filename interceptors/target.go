package interceptors

import (
	"cmp"
	"sync"
	"sync/atomic"

	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/internal/lru"
	"google.golang.org/grpc"
)

// target is what a client knows of one target that it calls.
type target struct {
	name string // by which the budget knows it, as gRPC has it in full

	// reserve and transit are the time that a message to the target and back
	// spends outside of its server: what is kept for it, and what is refused.
	reserve deadline.Reserve
	transit deadline.Floor

	throttle throttle

	label  string // in metrics
	series [modeCount]cache[clientSeries]

	latencies cache[latency] // by method, of those hedged at a percentile
	channel   channelConfigs

	// keeps is whether the last report of a method's said that the target stores outcomes
	// under their keys, of methods that were called with a child key.
	keeps cache[atomic.Bool]

	// reports is whether a reply has ever brought a report. From then on, a
	// failure without one is not of the server's own making.
	reports atomic.Bool
}

// keepsOutcomes returns whether the target is known to store the outcomes of a method.
func (t *target) keepsOutcomes(fullMethod string) *atomic.Bool {
	return t.keeps.get(fullMethod, func(string) *atomic.Bool { return new(atomic.Bool) })
}

// targetLimit is how many targets a client knows. Beyond it, the one called least
// recently is forgotten, and is as new when it is called again.
const targetLimit = 4096

// targets are the targets that a client knows.
type targets struct {
	mu     sync.Mutex
	byName *lru.Cache[string, *target] // as they were dialled
}

func newTargets() *targets { return &targets{byName: lru.New[string, *target](targetLimit)} }

// all returns the targets, the one called last first.
func (t *targets) all() (all []*target) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for target := range t.byName.Values() {
		all = append(all, target)
	}
	return all
}

// targetOf returns the target of a connection, which may be nil.
func (c *Client) targetOf(cc *grpc.ClientConn) *target {
	dialed := ""
	if cc != nil {
		dialed = cc.Target()
	}
	c.targets.mu.Lock()
	defer c.targets.mu.Unlock()
	return c.targets.byName.Get(dialed, func() *target {
		name := ""
		if cc != nil {
			name = cc.CanonicalTarget()
		}
		return &target{name: name, label: cmp.Or(name, otherMethods), throttle: newThrottle(c.config.throttle)}
	})
}
