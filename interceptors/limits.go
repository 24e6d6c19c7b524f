package interceptors

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// NoLimit is a value of a field of [Limits] that lifts the server's own limit.
const NoLimit time.Duration = -1

// Limits bound the calls of a method at its server. A field that is zero is left
// to the server's option of the same purpose, and [NoLimit] lifts that.
type Limits struct {
	MaxDeadline       time.Duration // as [WithMaxDeadline]
	DefaultDeadline   time.Duration // as [WithDefaultDeadline]
	Floor             time.Duration // as [WithFloor]
	StreamIdle        time.Duration // as [WithStreamIdleLimit]
	StreamSendTimeout time.Duration // as [WithStreamSendTimeout]
}

// WithMethodLimits sets limits of methods by name, as [MethodPolicies] has them: of
// one method ("/shop.v1.Orders/Get"), of all other methods of a service
// ("/shop.v1.Orders/"), or of all others ("").
//
// The server's limits do not hold for health checks, reflection and channelz, whose
// streams may be idle for as long as their client likes. Limits that name one of
// these services do.
func WithMethodLimits(limits map[string]Limits) ServerOption {
	return serverOption(func(s *serverSettings) {
		for _, name := range slices.Sorted(maps.Keys(limits)) {
			if err := errors.Join(validateMethodName(name), limits[name].validate()); err != nil {
				s.errs = append(s.errs, fmt.Errorf("WithMethodLimits: %q: %w", name, err))
			}
		}
		s.methodLimits = maps.Clone(limits)
	})
}

func (l Limits) validate() error {
	var errs []error
	for _, f := range [...]struct {
		name string
		d    time.Duration
	}{
		{"MaxDeadline", l.MaxDeadline},
		{"DefaultDeadline", l.DefaultDeadline},
		{"Floor", l.Floor},
		{"StreamIdle", l.StreamIdle},
		{"StreamSendTimeout", l.StreamSendTimeout},
	} {
		if f.d < 0 && f.d != NoLimit {
			errs = append(errs, fmt.Errorf("field %s is %v, must be positive or NoLimit", f.name, f.d))
		}
	}
	return errors.Join(errs...)
}

// limitsOf returns the limits of a method: 0 where there is none.
func (s *serverSettings) limitsOf(fullMethod string) Limits {
	own, has := named(s.methodLimits, fullMethod)
	rest := s.limits
	switch {
	case !has && isInfrastructure(fullMethod):
		return Limits{}
	case isInfrastructure(fullMethod):
		rest = Limits{}
	case !has:
		own = s.methodLimits[""]
	}
	for _, f := range [...]struct{ own, rest *time.Duration }{
		{&own.MaxDeadline, &rest.MaxDeadline},
		{&own.DefaultDeadline, &rest.DefaultDeadline},
		{&own.Floor, &rest.Floor},
		{&own.StreamIdle, &rest.StreamIdle},
		{&own.StreamSendTimeout, &rest.StreamSendTimeout},
	} {
		if *f.own == 0 {
			*f.own = *f.rest
		}
		*f.own = max(0, *f.own)
	}
	return own
}

// isInfrastructure reports whether a method belongs to a service that a gRPC server
// offers beside its own.
func isInfrastructure(fullMethod string) bool {
	for _, prefix := range [...]string{"/grpc.health.", "/grpc.reflection.", "/grpc.channelz."} {
		if strings.HasPrefix(fullMethod, prefix) {
			return true
		}
	}
	return false
}
