package idempotency

import (
	"errors"

	"google.golang.org/grpc/status"
)

// markedError is the error of a handler with a mark. Its status stays what it was.
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

// Final marks a failure of a handler as the outcome of its write: it is stored,
// and repeats of the call get it until the retention ends. A failure that has
// neither this mark nor one of [Codes] releases the key, and the handler runs
// again for the next caller. The status stays what it
// was. Final of nil is nil.
func Final(err error) error {
	if err == nil {
		return nil
	}
	return finalError{markedError{err}}
}

// IsFinal reports whether a failure was marked by [Final].
func IsFinal(err error) bool {
	var f finalError
	return errors.As(err, &f)
}

// NoEffect marks the error of a handler that knows that its run had no effect: it does not
// make [TakenOver] true for the next run. A possible effect of an earlier run still does. A nil
// error stays nil.
func NoEffect(err error) error {
	if err == nil {
		return nil
	}
	return noEffectError{markedError{err}}
}

// IsNoEffect reports whether an error is marked by [NoEffect], or wraps one that is.
func IsNoEffect(err error) bool {
	var marked noEffectError
	return errors.As(err, &marked)
}
