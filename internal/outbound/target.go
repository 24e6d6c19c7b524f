package outbound

import (
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/internal/cache"
	"github.com/hopbound/hopbound/internal/policy"
	"github.com/hopbound/hopbound/internal/telemetry"
	"google.golang.org/grpc"
)

// target is what a client knows of one target.
type target struct {
	name      string // canonical, by which the budget knows the target
	telemetry *telemetry.Target

	// reserve and transit are the time that a message to the target and back spends outside of
	// its server: the time kept back for it, and the shortest time in which a call can succeed.
	reserve deadline.Reserve
	transit deadline.Floor

	throttle  throttle
	latencies cache.Names[latency] // by method, of methods with a hedging delay or an attempt timeout that uses it
	channel   cache.Names[atomic.Pointer[channelPolicy]]

	// stores says, by method, whether the last report of a call with a child key said that the
	// target stores outcomes.
	stores cache.Names[atomic.Bool]

	// reports is set when a reply has brought a report. From then on, a failure without one was
	// not made by the server.
	reports atomic.Bool
}

// storesOutcomes returns whether the target is known to store the outcomes of a method.
func (t *target) storesOutcomes(fullMethod string) *atomic.Bool {
	return t.stores.Get(fullMethod, func(string) *atomic.Bool { return new(atomic.Bool) })
}

// maxTargets is how many targets a client knows. When there are more, the client forgets the one that was called least
// recently. A forgotten target that is called again is like a new one.
const maxTargets = 4096

// targets are the targets that a client knows.
type targets struct {
	mu     sync.Mutex
	byName *cache.LRU[string, *target] // by the name that was dialled
}

func newTargets() *targets { return &targets{byName: cache.NewLRU[string, *target](maxTargets)} }

// all returns the targets, the most recently called one first.
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
	if cc == nil {
		return c.targetNamed("", nil)
	}
	return c.targetNamed(cc.Target(), cc)
}

// targetNamed returns the target with a name. If it has a connection, the connection knows its canonical name.
func (c *Client) targetNamed(name string, cc *grpc.ClientConn) *target {
	c.targets.mu.Lock()
	defer c.targets.mu.Unlock()
	return c.targets.byName.Get(name, func() *target {
		if cc != nil {
			name = cc.CanonicalTarget()
		}
		return &target{name: name, telemetry: telemetry.NewTarget(name), throttle: newThrottle(c.config.ServiceConfig.Throttle)}
	})
}

// channelPolicy is a policy of a connection's service config, with what gRPC returned for it.
type channelPolicy struct {
	wait    *bool
	timeout *time.Duration
	retry   any
	policy  policy.Policy
}

// channelPolicy returns the policy of the call's method in the connection's service config, or nil if it has none or the
// target's name is not resolved yet. A policy is converted again only when gRPC has another one.
func (c *Call) channelPolicy() *policy.Policy {
	if c.conn == nil {
		return nil
	}
	config := c.conn.GetMethodConfig(c.FullMethod)
	if config.RetryPolicy == nil && config.Timeout == nil && config.WaitForReady == nil {
		return nil
	}
	kept := c.target.channel.Get(c.FullMethod, func(string) *atomic.Pointer[channelPolicy] { return &atomic.Pointer[channelPolicy]{} })
	if last := kept.Load(); last != nil && last.wait == config.WaitForReady && last.timeout == config.Timeout && last.retry == config.RetryPolicy {
		return &last.policy
	}
	next := &channelPolicy{wait: config.WaitForReady, timeout: config.Timeout, retry: config.RetryPolicy}
	if config.Timeout != nil {
		next.policy.Timeout = max(*config.Timeout, 1) // 0 is valid, and no call can meet it
	}
	if config.WaitForReady != nil {
		next.policy.WaitForReady = *config.WaitForReady
	}
	if r := config.RetryPolicy; r != nil {
		next.policy.Retry = &policy.Retry{
			MaxAttempts: min(r.MaxAttempts, policy.MaxConfigured),
			Codes:       slices.Collect(maps.Keys(r.RetryableStatusCodes)),
			Backoff:     policy.Backoff{Base: min(r.InitialBackoff, r.MaxBackoff), Max: r.MaxBackoff, Multiplier: r.BackoffMultiplier},
		}
	}
	kept.Store(next)
	return &next.policy
}

// throttle is gRFC A6's retryThrottling of one target. A failure takes a token, a success adds a
// part of one, and nothing is retried while at most half of the tokens are left. The zero value
// never throttles. It is safe for concurrent use.
type throttle struct {
	config policy.Throttle // zero if there is none

	mu     sync.Mutex
	tokens int // in thousandths
}

func newThrottle(config *policy.Throttle) throttle {
	if config == nil {
		return throttle{}
	}
	return throttle{config: *config, tokens: config.MaxTokens}
}

func (t *throttle) add(n int) {
	if t.config.MaxTokens == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tokens = max(0, min(t.tokens+n, t.config.MaxTokens))
}

func (t *throttle) succeeded() { t.add(t.config.TokenRatio) }
func (t *throttle) failed()    { t.add(-1000) }

func (t *throttle) closed() bool {
	if t.config.MaxTokens == 0 {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tokens <= t.config.MaxTokens/2
}

// latency is the recent latency of a method at a target. It counts attempts in buckets, each of which is a tenth longer
// than the one before, so that a quantile is at most a tenth too long. It has two windows; when the newer one is full,
// the older is dropped. It is safe for concurrent use.
type latency struct {
	mu       sync.Mutex
	started  time.Time // when the current window began
	current  window
	previous window
}

type window struct {
	counts [latencyBuckets]uint32
	total  int
}

const (
	// latencyBuckets reach from a microsecond to more than an hour.
	latencyBuckets = 240
	bucketGrowth   = 1.1

	// A window is full when it has fullWindow calls and is shortWindow old, or
	// when it is longWindow old.
	fullWindow  = 1000
	shortWindow = 10 * time.Second
	longWindow  = 5 * time.Minute

	// With fewer calls than minCalls, the percentile is unknown.
	minCalls = 40
)

func bucketOf(d time.Duration) int {
	micros := max(1, float64(d)/float64(time.Microsecond))
	return min(latencyBuckets-1, int(math.Log(micros)/math.Log(bucketGrowth)))
}

// above returns the shortest duration beyond a bucket.
func above(bucket int) time.Duration {
	return time.Duration(math.Ceil(math.Pow(bucketGrowth, float64(bucket+1)) * float64(time.Microsecond)))
}

func (l *latency) add(now time.Time, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if age := now.Sub(l.started); age >= longWindow || l.current.total >= fullWindow && age >= shortWindow {
		l.previous, l.current = l.current, window{}
		l.started = now
	}
	l.current.counts[bucketOf(took)]++
	l.current.total++
}

// p95 returns the 95th percentile, or false if there have been too few calls.
func (l *latency) p95(now time.Time) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	total := l.current.total + l.previous.total
	if total < minCalls || now.Sub(l.started) >= 2*longWindow {
		return 0, false
	}
	slower := 0
	for i := latencyBuckets - 1; i >= 0; i-- {
		slower += int(l.current.counts[i] + l.previous.counts[i])
		if slower*20 > total {
			return above(i), true
		}
	}
	return 0, false
}
