package outbound

import (
	"errors"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/policy"
	"google.golang.org/grpc"
)

// PolicyOption is a call option that sets the policy of a call.
type PolicyOption struct {
	grpc.EmptyCallOption
	Policy policy.Policy
	Err    error // what is invalid in the policy
}

// KeyOption is a call option that sets the idempotency key of a call.
type KeyOption struct {
	grpc.EmptyCallOption
	Key idempotency.Key
}

// ReachedOption is a call option that tells whether a server may have seen the call.
type ReachedOption struct {
	grpc.EmptyCallOption
	To *bool
}

// TargetOption is a call option that names the target of a call without a connection of gRPC.
type TargetOption struct {
	grpc.EmptyCallOption
	Name string
}

// takeOptions sorts the user's call options, and returns the policy among them. It keeps options
// that receive a part of the reply, or run when the call finishes, for the end of the call, because
// gRPC would apply them to each attempt.
func (c *Call) takeOptions(opts []grpc.CallOption) (own *policy.Policy) {
	c.Options, c.Buffer = c.optionSpace[:0], c.client.config.CallBuffer
	for i, o := range opts {
		switch o := o.(type) {
		case PolicyOption:
			merged := policy.Merge(&o.Policy, own) // the later one has precedence
			own = &merged
			c.invalid = errors.Join(c.invalid, o.Err)
		case KeyOption:
			c.key, c.hasKey = o.Key, true
		case TargetOption:
			c.target = c.client.targetNamed(o.Name, nil)
		case ReachedOption:
			c.reached = o.To
		case grpc.OnFinishCallOption:
			earlier := c.OnFinish
			c.OnFinish = func(err error) {
				if earlier != nil {
					earlier(err)
				}
				o.OnFinish(err)
			}
		case grpc.HeaderCallOption, grpc.TrailerCallOption, grpc.PeerCallOption:
			c.observers = append(c.observers, o)
		case grpc.MaxRetryRPCBufferSizeCallOption:
			c.Buffer = o.MaxRetryRPCBufferSize
			c.Options = append(c.Options, o)
		case grpc.StaticMethodCallOption: // generated code made the call (gRFC A66)
			c.method.telemetry.Register()
			c.Options = append(c.Options, opts[i])
		default:
			c.Options = append(c.Options, o)
		}
	}
	return own
}

// applyWaitForReady combines the policy's WaitForReady with the user's call options.
func (c *Call) applyWaitForReady() {
	c.waits = c.policy.WaitForReady
	for _, o := range c.Options {
		if o, ok := o.(grpc.FailFastCallOption); ok {
			c.waits = !o.FailFast
		}
	}
	if c.policy.WaitForReady && !c.Observe {
		c.Options = append([]grpc.CallOption{grpc.WaitForReady(true)}, c.Options...) // the user's options have precedence
	}
}

// observe adds to call options those that receive an attempt's reply. gRPC copies the header, so it
// is received only if the user asks for it.
func (c *Call) observe(a *Attempt, opts []grpc.CallOption, onFinish func(error)) []grpc.CallOption {
	if len(c.observers) > 0 {
		opts = append(opts, grpc.Header(&a.Header))
	}
	return append(opts, grpc.Trailer(&a.Trailer), grpc.Peer(&a.Peer), grpc.OnFinish(onFinish))
}

// ObservesHeader reports whether a call option of the user receives something of the reply.
func (c *Call) ObservesHeader() bool { return len(c.observers) > 0 }

// CopyTo copies the header, the trailer and the peer of the attempt that decides the call to the
// user's call options.
func (c *Call) CopyTo(a *Attempt) {
	if !a.received {
		return
	}
	for _, o := range c.observers {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = a.Header
		case grpc.TrailerCallOption:
			*o.TrailerAddr = a.Trailer
		case grpc.PeerCallOption:
			*o.PeerAddr = a.Peer
		}
	}
}

// CopyLate does what CopyTo does for an attempt that gRPC has finished after it was settled.
func (c *Call) CopyLate(a *Attempt) {
	a.received = true
	c.CopyTo(a)
}
