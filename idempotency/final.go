package idempotency

import (
	"errors"

	"google.golang.org/grpc/status"
)

// markedError is the error of a handler with a declaration about its run. The declaration does not
// change the status of the error.
type markedError struct{ error }

func (e markedError) Unwrap() error { return e.error }

// GRPCStatus returns the status of the handler's error.
func (e markedError) GRPCStatus() *status.Status {
	if st, ok := status.FromError(e.error); ok {
		return st
	}
	return status.FromContextError(e.error)
}

type (
	finalError    struct{ markedError }
	noEffectError struct{ markedError }
)

// Final declares a failure of a handler to be the outcome of its write: the failure is stored, and
// repeats of the call get it until the retention ends. A failure that is not declared final and has
// none of the codes of [Codes] releases the key, and the handler runs again for the next caller.
// Final does not change the status of err. Final(nil) returns nil.
func Final(err error) error {
	if err == nil {
		return nil
	}
	return finalError{markedError{err}}
}

// IsFinal reports whether err was returned by [Final], or wraps such an error. It is for authors of
// other transports.
func IsFinal(err error) bool {
	var f finalError
	return errors.As(err, &f)
}

// NoEffect declares that the run of a handler which failed with err certainly had no effect. Such a
// run does not make [TakenOver] true for the next run, but a possible effect of an earlier run still
// does. NoEffect does not change the status of err. NoEffect(nil) returns nil.
func NoEffect(err error) error {
	if err == nil {
		return nil
	}
	return noEffectError{markedError{err}}
}

// IsNoEffect reports whether err was returned by [NoEffect], or wraps such an error. It is for
// authors of other transports.
func IsNoEffect(err error) bool {
	var marked noEffectError
	return errors.As(err, &marked)
}
