package interceptors

import (
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// channelConfig is what the service config of a connection says of a method. gRPC has
// it of the resolver, or of [grpc.WithDefaultServiceConfig].
type channelConfig struct {
	wait    *bool // these three as gRPC has them
	timeout *time.Duration
	retry   any
	policy  Policy
}

// channelConfigs are the last configs of a target's methods, so that calls need not
// translate them anew. A reload takes effect from the next call.
type channelConfigs = cache[atomic.Pointer[channelConfig]]

// channelPolicy returns what the service config of the call's connection says of its
// method, or nil if it says nothing, or if there is none yet: the name of a target is
// resolved when the first call is made.
func (k *call) channelPolicy() *Policy {
	if k.conn == nil {
		return nil
	}
	c := k.conn.GetMethodConfig(k.fullMethod)
	if c.RetryPolicy == nil && c.Timeout == nil && c.WaitForReady == nil {
		return nil
	}
	kept := k.target.channel.get(k.fullMethod, func(string) *atomic.Pointer[channelConfig] { return &atomic.Pointer[channelConfig]{} })
	if last := kept.Load(); last != nil && last.wait == c.WaitForReady && last.timeout == c.Timeout && last.retry == c.RetryPolicy {
		return &last.policy
	}
	next := &channelConfig{wait: c.WaitForReady, timeout: c.Timeout, retry: c.RetryPolicy}
	if c.Timeout != nil {
		next.policy.Timeout = max(*c.Timeout, time.Nanosecond) // 0 is valid, and no call can keep to it
	}
	if c.WaitForReady != nil {
		next.policy.WaitForReady = *c.WaitForReady
	}
	if r := c.RetryPolicy; r != nil {
		next.policy.Retry = &RetryPolicy{
			MaxAttempts: min(r.MaxAttempts, mostConfigured),
			Codes:       slices.Collect(maps.Keys(r.RetryableStatusCodes)),
			Backoff:     Backoff{Base: min(r.InitialBackoff, r.MaxBackoff), Max: r.MaxBackoff, Multiplier: r.BackoffMultiplier},
		}
	}
	kept.Store(next)
	return &next.policy
}

// refreshPolicy takes in a service config that has come since the call began. By the
// end of the first attempt, the target's name is resolved.
func (k *call) refreshPolicy() {
	if k.resolved || k.attempts > 1 {
		return
	}
	if channel := k.channelPolicy(); channel != nil {
		k.resolved = true
		if k.policy.Retry == nil && k.policy.Hedge == nil {
			k.policy.Retry = channel.Retry
		}
		k.leaveToGRPC(channel)
	}
}

// leaveToGRPC makes a single attempt of a call that gRPC itself retries below it: its
// connection was dialled while the client observed.
func (k *call) leaveToGRPC(channel *Policy) {
	if channel != nil && channel.Retry != nil && k.mode == Enforce && k.native {
		k.policy.Retry, k.policy.Hedge = &RetryPolicy{MaxAttempts: 1, Codes: channel.Retry.Codes}, nil
	}
}
