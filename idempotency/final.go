package idempotency

import (
	"errors"

	"google.golang.org/grpc/status"
)

type finalError struct{ error }

func (e finalError) Unwrap() error { return e.error }

// GRPCStatus returns the status of the error that was marked, as it was.
func (e finalError) GRPCStatus() *status.Status {
	if st, ok := status.FromError(e.error); ok {
		return st
	}
	return status.FromContextError(e.error)
}

// Final marks a failure of a handler as the outcome of its write: it is kept,
// and whoever repeats the call gets the same, until the retention ends. A
// failure that is neither marked nor has a code that is kept anyway releases the
// key, and the handler runs again for the next caller. The status stays what it
// was. Final of nil is nil.
func Final(err error) error {
	if err == nil {
		return nil
	}
	return finalError{err}
}

// IsFinal reports whether a failure was marked by [Final].
func IsFinal(err error) bool {
	var f finalError
	return errors.As(err, &f)
}
