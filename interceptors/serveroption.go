package interceptors

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/policy"
	"google.golang.org/grpc/peer"
)

type serverSettings struct {
	shared
	edge          []func(*peer.Peer) bool // a caller for which any returns true is not trusted
	limits        Limits
	methodLimits  map[string]policy.Limits // by name
	adaptiveFloor bool
	store         idempotency.Store     // nil if keys are not looked at
	keys          *idempotency.Settings // of the store
	errs          []error
}

type serverOption func(*serverSettings)

func (f serverOption) applyServer(s *serverSettings) { f(s) }

// AtEdge makes a server trust nothing that its callers send except an idempotency key. The server ignores
// hop-context with its deadline, timestamp and tokens, and each request is a root. The server starts a
// new trace with a link to the caller's. gRPC's own timeout still applies. Use AtEdge if the callers are
// not your own services.
//
// If only some of the callers are not your own services, pass functions that recognise these callers by
// their peer, such as by its certificate. A caller is not trusted if any function returns true. The
// functions are called for each call, with a peer that is not nil, and must be safe for concurrent use.
// Without functions, no caller is trusted.
func AtEdge(outside ...func(*peer.Peer) bool) ServerOption {
	return serverOption(func(s *serverSettings) {
		for i, f := range outside {
			if f == nil {
				s.errs = append(s.errs, fmt.Errorf("AtEdge: function %d is nil", i+1))
			}
		}
		if len(outside) == 0 {
			outside = append(outside, func(*peer.Peer) bool { return true })
		}
		s.edge = append(s.edge, outside...)
	})
}

// WithIdempotency runs a unary call only once for its idempotency key. The outcome is stored, and a call
// that repeats the key receives the stored outcome. Three kinds of calls run each time: calls of methods
// that are declared to have no side effects, streams, and calls without a key. A call without a key is
// rejected if [idempotency.RequireKey] or the method's proto file requires one.
//
// A repeated call is answered without its handler and without the interceptors after Hopbound's. The
// interceptors that identify the caller and check its permissions must therefore come before Hopbound's.
// [idempotency.Tenant] says which callers share keys. In a handler that runs under a key,
// [grpc.SetSendCompressor] does not work.
//
// All servers that serve the same methods must share one store. [Server.Check] finds methods whose
// outcomes cannot be stored.
func WithIdempotency(store idempotency.Store, opts ...idempotency.Option) ServerOption {
	return serverOption(func(s *serverSettings) {
		if isNil(store) {
			s.errs = append(s.errs, errors.New("WithIdempotency: the store is nil"))
			return
		}
		if s.store != nil {
			s.errs = append(s.errs, errors.New("WithIdempotency: given twice"))
		}
		if checked, ok := store.(interface{ Err() error }); ok && checked.Err() != nil {
			s.errs = append(s.errs, fmt.Errorf("WithIdempotency: %w", checked.Err()))
		}
		keys, err := idempotency.NewSettings(opts...)
		if err != nil {
			s.errs = append(s.errs, fmt.Errorf("WithIdempotency: %w", err))
		}
		s.store, s.keys = store, keys
	})
}

// WithMaxDeadline limits the time that any request may take, whatever its caller asks for. The default
// is no limit.
func WithMaxDeadline(d time.Duration) ServerOption {
	return withLimit("WithMaxDeadline", d, func(l *Limits) { l.MaxDeadline = d })
}

// WithDefaultDeadline limits the time of requests that have no deadline. The default is no limit.
func WithDefaultDeadline(d time.Duration) ServerOption {
	return withLimit("WithDefaultDeadline", d, func(l *Limits) { l.DefaultDeadline = d })
}

// withLimit returns an option that sets a limit, which must be positive.
func withLimit(name string, d time.Duration, set func(*Limits)) ServerOption {
	return serverOption(func(s *serverSettings) {
		if d <= 0 {
			s.errs = append(s.errs, fmt.Errorf("%s(%v): must be positive", name, d))
		}
		set(&s.limits)
	})
}

// WithFloor rejects requests that arrive with less remaining time than d, because they cannot finish in
// time. By default, and with zero, only requests whose deadline has passed are rejected.
func WithFloor(d time.Duration) ServerOption {
	return serverOption(func(s *serverSettings) {
		if d < 0 {
			s.errs = append(s.errs, fmt.Errorf("WithFloor(%v): must not be negative", d))
		}
		s.limits.Floor = d
	})
}

// WithStreamIdleLimit ends streams on which no message was sent or received for d. The client receives
// DEADLINE_EXCEEDED at once, the handler's context ends, and its pending RecvMsg or SendMsg returns that
// error. The default is no limit. Choose a d that is longer than a handler works between two messages.
func WithStreamIdleLimit(d time.Duration) ServerOption {
	return withLimit("WithStreamIdleLimit", d, func(l *Limits) { l.StreamIdle = d })
}

// WithStreamSendTimeout ends streams whose client does not read, so that a message could not be sent
// within d. They end as with [WithStreamIdleLimit], with one exception: under net/http
// ([grpc.Server.ServeHTTP]), a pending SendMsg returns only when the client reads or disconnects. The
// default is no limit.
func WithStreamSendTimeout(d time.Duration) ServerOption {
	return withLimit("WithStreamSendTimeout", d, func(l *Limits) { l.StreamSendTimeout = d })
}

// WithAdaptiveFloor rejects unary requests that arrive with less remaining time than the shortest
// successful run of their method's handler in the last minute. It rejects at most a fifth of a method's
// requests.
func WithAdaptiveFloor() ServerOption {
	return serverOption(func(s *serverSettings) { s.adaptiveFloor = true })
}

// NoLimit is a value of a field of [Limits] that removes the server's own limit.
const NoLimit time.Duration = -1

// Limits limit the calls of a method at its server. If a field is zero, the server's option applies.
// [NoLimit] removes the limit.
type Limits struct {
	MaxDeadline       time.Duration // as [WithMaxDeadline]
	DefaultDeadline   time.Duration // as [WithDefaultDeadline]
	Floor             time.Duration // as [WithFloor]
	StreamIdle        time.Duration // as [WithStreamIdleLimit]
	StreamSendTimeout time.Duration // as [WithStreamSendTimeout]
}

// WithMethodLimits sets the limits of methods by name. As in [MethodPolicies], a name is a method
// ("/shop.v1.Orders/Get"), a service ("/shop.v1.Orders/") for those of its methods that have no entry, or
// empty for all other methods.
//
// Neither the server's limits nor those of the empty name apply to health checks, reflection and
// channelz, whose streams may be idle for as long as their client wants. Limits that name one of these
// services or its methods do apply.
func WithMethodLimits(limits map[string]Limits) ServerOption {
	return serverOption(func(s *serverSettings) {
		s.methodLimits = map[string]policy.Limits{}
		for _, name := range slices.Sorted(maps.Keys(limits)) {
			l := policy.Limits(limits[name])
			if err := errors.Join(policy.ValidateName(name), l.Validate()); err != nil {
				s.errs = append(s.errs, fmt.Errorf("WithMethodLimits: %q: %w", name, err))
			}
			s.methodLimits[name] = l
		}
	})
}
