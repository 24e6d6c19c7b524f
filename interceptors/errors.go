package interceptors

import (
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Domain is the domain of the google.rpc.ErrorInfo in every error made here.
const Domain = "hopbound"

// Reasons in the google.rpc.ErrorInfo of errors made here.
const (
	ReasonDeadlineExpired     = "DEADLINE_EXPIRED"     // the deadline had passed before there was anything to do
	ReasonDeadlineUnreachable = "DEADLINE_UNREACHABLE" // it will have before this can be done
	ReasonKeyInvalid          = "KEY_INVALID"          // the idempotency key cannot be sent
)

// newError makes a status with an ErrorInfo. All errors of this package are
// made here.
func newError(code codes.Code, reason, message string) error {
	st, err := status.New(code, "hopbound: "+message).WithDetails(&errdetails.ErrorInfo{Domain: Domain, Reason: reason})
	if err != nil { // the detail cannot be marshalled, which does not happen
		return status.Error(code, "hopbound: "+message)
	}
	return st.Err()
}

// codeOf returns the code that gRPC sends for an error that a handler returns,
// or that a call has failed with.
func codeOf(err error) codes.Code {
	if st, ok := status.FromError(err); ok {
		return st.Code()
	}
	return status.FromContextError(err).Code()
}
