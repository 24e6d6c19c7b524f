package idempotency

import (
	"errors"

	"google.golang.org/grpc/status"
)

// markedError is the error of a handler with a mark. The mark does not change its status.
type markedError struct{ error }

func (e markedError) Unwrap() error { return e.error }

// GRPCStatus returns the status of the error that was marked.
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

// Final marks a failure of a handler as the outcome of its write: it is stored, and repeats of the
// call get it until the retention ends. A failure that has neither this mark nor one of [Codes]
// releases the key, and the handler runs again for the next caller. The mark does not change the
// status. Final(nil) returns nil.
func Final(err error) error {
	if err == nil {
		return nil
	}
	return finalError{markedError{err}}
}

// IsFinal reports whether an error was marked by [Final], or wraps one that was. It is for authors of
// other transports.
func IsFinal(err error) bool {
	var f finalError
	return errors.As(err, &f)
}

// NoEffect marks the error of a handler whose run certainly had no effect. Such a run does not make
// [TakenOver] true for the next run, but a possible effect of an earlier run still does.
// NoEffect(nil) returns nil.
func NoEffect(err error) error {
	if err == nil {
		return nil
	}
	return noEffectError{markedError{err}}
}

// IsNoEffect reports whether an error was marked by [NoEffect], or wraps one that was. It is for
// authors of other transports.
func IsNoEffect(err error) bool {
	var marked noEffectError
	return errors.As(err, &marked)
}
