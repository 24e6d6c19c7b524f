// Package hoperr creates the errors of Hopbound: gRPC statuses with a google.rpc.ErrorInfo whose domain is
// "hopbound". No other package creates such a status.
package hoperr

import (
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
)

// Domain is the domain in the google.rpc.ErrorInfo of each error.
const Domain = "hopbound"

// Reasons in the google.rpc.ErrorInfo. Package interceptors documents them.
const (
	DeadlineExpired     = "DEADLINE_EXPIRED"
	DeadlineUnreachable = "DEADLINE_UNREACHABLE"
	KeyMissing          = "KEY_MISSING"
	KeyInvalid          = "KEY_INVALID"
	KeyReused           = "KEY_REUSED"
	KeyUnsupported      = "KEY_UNSUPPORTED"
	InProgress          = "IN_PROGRESS"
	LeaseLost           = "LEASE_LOST"
	StoreUnavailable    = "STORE_UNAVAILABLE"
	RunFailed           = "RUN_FAILED"
	Conflict            = "TRANSACTION_CONFLICT"
	OutcomeUnknown      = "OUTCOME_UNKNOWN"
	StoreFull           = "STORE_FULL"
	RecordCorrupt       = "RECORD_CORRUPT"
	ResponseOmitted     = "RESPONSE_OMITTED"
	ResponseInvalid     = "RESPONSE_INVALID"
	PolicyInvalid       = "POLICY_INVALID"
	Misuse              = "MISUSE"
	StreamIdle          = "STREAM_IDLE"
	SendTimeout         = "SEND_TIMEOUT"
	Overloaded          = "OVERLOADED"
	Degraded            = "DEGRADED"
	Canceled            = "CANCELLED"
)

// ErrPanicked is used as the error of a handler that panicked or called runtime.Goexit.
var ErrPanicked = errors.New("panicked")

// New returns a status error with an ErrorInfo and further details.
func New(code codes.Code, reason, message string, more ...protoadapt.MessageV1) error {
	details := append([]protoadapt.MessageV1{&errdetails.ErrorInfo{Domain: Domain, Reason: reason}}, more...)
	st, err := status.New(code, "hopbound: "+message).WithDetails(details...)
	if err != nil { // a detail could not be marshalled
		return status.Error(code, "hopbound: "+message)
	}
	return st.Err()
}

// NewCanceled returns the error of a call that was cancelled while no attempt was in flight.
func NewCanceled() error { return New(codes.Canceled, Canceled, "the call was cancelled") }

// Status returns the status that gRPC sends when a handler returns err.
func Status(err error) *status.Status {
	if st, ok := status.FromError(err); ok {
		return st
	}
	return status.FromContextError(err)
}

// Code returns the status code of the error of a handler or of a call. It is OK for nil.
func Code(err error) codes.Code { return Status(err).Code() }

// Reason returns the reason of an error that Hopbound has created, in this process or another one. It
// returns the empty string for any other error.
func Reason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == Domain {
			return info.GetReason()
		}
	}
	return ""
}
