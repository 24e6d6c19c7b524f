package interceptors

import (
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
)

// channelConfig is what the service config of a connection says of a method. gRPC has
// it of the resolver, or of [grpc.WithDefaultServiceConfig].
type channelConfig struct {
	from   grpc.MethodConfig // as gRPC has it
	policy Policy
}

// channelPolicies are the last configs of a target's methods, so that a call makes none
// anew. A reload takes effect from the next call.
type channelPolicies = cache[atomic.Pointer[channelConfig]]

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
	if last := kept.Load(); last != nil && last.from == c {
		return &last.policy
	}
	next := &channelConfig{from: c, policy: channelPolicyOf(&c)}
	kept.Store(next)
	return &next.policy
}

func channelPolicyOf(c *grpc.MethodConfig) Policy {
	var p Policy
	if c.Timeout != nil {
		p.Timeout = max(*c.Timeout, time.Nanosecond) // 0 is valid, and no call can keep to it
	}
	if c.WaitForReady != nil {
		p.WaitForReady = *c.WaitForReady
	}
	if r := c.RetryPolicy; r != nil {
		p.Retry = &RetryPolicy{
			MaxAttempts: min(r.MaxAttempts, mostConfigured),
			Backoff:     Backoff{Base: min(r.InitialBackoff, r.MaxBackoff), Max: r.MaxBackoff, Multiplier: r.BackoffMultiplier},
		}
		for code := range r.RetryableStatusCodes {
			p.Retry.Codes = append(p.Retry.Codes, code)
		}
	}
	return p
}

// refreshPolicy takes in a service config that has come since the call began. By the
// end of the first attempt, the target's name is resolved.
func (k *call) refreshPolicy() {
	if k.resolved || k.attempts > 1 || k.policy.Retry != nil || k.policy.Hedge != nil {
		return
	}
	if channel := k.channelPolicy(); channel != nil {
		k.resolved = true
		k.policy.Retry = channel.Retry
	}
}
