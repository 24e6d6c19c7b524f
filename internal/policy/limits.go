package policy

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// NoLimit is a value of a field of [Limits] that lifts the server's own limit.
const NoLimit time.Duration = -1

// Limits bound the calls of a method at its server. The fields are those of interceptors.Limits,
// which documents them. In the limits of the server, zero is no limit. In limits that were set
// by name, zero is the server's own limit.
type Limits struct {
	MaxDeadline       time.Duration
	DefaultDeadline   time.Duration
	Floor             time.Duration
	StreamIdle        time.Duration
	StreamSendTimeout time.Duration
}

// Validate returns the errors of limits that are set by name, joined.
func (l Limits) Validate() error {
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

// ValidateServer returns an error if the limits of a server contradict each other, for example
// if every call is rejected because the floor exceeds the maximum deadline.
func (l Limits) ValidateServer() error {
	var errs []error
	for _, limit := range [...]struct {
		name string
		d    time.Duration
	}{{"WithMaxDeadline", l.MaxDeadline}, {"WithDefaultDeadline", l.DefaultDeadline}} {
		if limit.d > 0 && l.Floor > limit.d {
			errs = append(errs, fmt.Errorf("WithFloor(%v): more than %s(%v), which rejects every call", l.Floor, limit.name, limit.d))
		}
	}
	if l.MaxDeadline > 0 && l.DefaultDeadline > l.MaxDeadline {
		errs = append(errs, fmt.Errorf("WithDefaultDeadline(%v): more than WithMaxDeadline(%v)", l.DefaultDeadline, l.MaxDeadline))
	}
	return errors.Join(errs...)
}

// ForMethod returns the limits of a method, given those of the server and those set by name.
// In the result, zero is no limit.
func (l Limits) ForMethod(fullMethod string, byName map[string]Limits) Limits {
	own, has := Lookup(byName, fullMethod)
	rest := l
	switch {
	case !has && isInfrastructure(fullMethod):
		return Limits{}
	case isInfrastructure(fullMethod):
		rest = Limits{}
	case !has:
		own = byName[""]
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
