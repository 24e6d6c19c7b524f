// Package hoperr makes the errors of Hopbound: gRPC statuses with a google.rpc.ErrorInfo whose
// domain is "hopbound". No other package makes one.
package hoperr

import (
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
)

// Domain is the domain of the google.rpc.ErrorInfo in every error made here.
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
	Canceled            = "CANCELLED"
)

// ErrPanicked stands for the error of code that panicked or ended its goroutine.
var ErrPanicked = errors.New("panicked")

// New makes a status with an ErrorInfo, and with further details.
func New(code codes.Code, reason, message string, more ...protoadapt.MessageV1) error {
	details := append([]protoadapt.MessageV1{&errdetails.ErrorInfo{Domain: Domain, Reason: reason}}, more...)
	st, err := status.New(code, "hopbound: "+message).WithDetails(details...)
	if err != nil { // a detail cannot be marshalled, which does not happen
		return status.Error(code, "hopbound: "+message)
	}
	return st.Err()
}

// NewCanceled makes the error of a call that was cancelled while no attempt was under way.
func NewCanceled() error { return New(codes.Canceled, Canceled, "the call was cancelled") }

// Status returns the status that gRPC sends for an error that a handler returns.
func Status(err error) *status.Status {
	if st, ok := status.FromError(err); ok {
		return st
	}
	return status.FromContextError(err)
}

// Code returns the code of the error of a handler or of a call: OK for nil.
func Code(err error) codes.Code { return Status(err).Code() }

// Reason returns the reason of an error that Hopbound has made, here or in another process,
// or the empty string.
func Reason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == Domain {
			return info.GetReason()
		}
	}
	return ""
}
