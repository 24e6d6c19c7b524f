package interceptors

import (
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
)

// Domain is the domain of the google.rpc.ErrorInfo in every error made here.
const Domain = "hopbound"

// Reasons in the google.rpc.ErrorInfo of errors made here.
const (
	ReasonDeadlineExpired     = "DEADLINE_EXPIRED"     // the deadline had passed before there was anything to do
	ReasonDeadlineUnreachable = "DEADLINE_UNREACHABLE" // it will have before this can be done
	ReasonKeyMissing          = "KEY_MISSING"          // the method requires an idempotency key
	ReasonKeyInvalid          = "KEY_INVALID"          // the idempotency key is none, or there are several
	ReasonKeyReused           = "KEY_REUSED"           // the key was used for another request
	ReasonKeyUnsupported      = "KEY_UNSUPPORTED"      // the server cannot keep outcomes of the method
	ReasonInProgress          = "IN_PROGRESS"          // another call with the key was still running when the wait ended
	ReasonLeaseLost           = "LEASE_LOST"           // another server took over, and its outcome was not to be had
	ReasonStoreUnavailable    = "STORE_UNAVAILABLE"    // the store did not answer, and the handler did not run
	ReasonRunFailed           = "RUN_FAILED"           // another call with the key has run the handler, which panicked
	ReasonConflict            = "TRANSACTION_CONFLICT" // a deadlock or serialization failure rolled the transaction back
	ReasonOutcomeUnknown      = "OUTCOME_UNKNOWN"      // the handler ran, and whether that was stored is not known
	ReasonStoreFull           = "STORE_FULL"           // the store has no room for another key
	ReasonRecordCorrupt       = "RECORD_CORRUPT"       // what the store has of the key cannot be read
	ReasonResponseOmitted     = "RESPONSE_OMITTED"     // the write is done, and its response was too large to keep
	ReasonResponseInvalid     = "RESPONSE_INVALID"     // the handler's response cannot be encoded
	ReasonPolicyInvalid       = "POLICY_INVALID"       // the policy among the call options is none
	ReasonMisuse              = "MISUSE"               // the application called what it must not yet
	ReasonStreamIdle          = "STREAM_IDLE"          // no message went either way for longer than the server allows
	ReasonSendTimeout         = "SEND_TIMEOUT"         // the client did not make room for a message in time
	ReasonOverloaded          = "OVERLOADED"           // the server has too much to do
	ReasonCancelled           = "CANCELLED"            // the call was cancelled while nothing of it was under way
)

// newError makes a status with an ErrorInfo, and with further details. All
// errors of this package are made here.
func newError(code codes.Code, reason, message string, more ...protoadapt.MessageV1) error {
	details := append([]protoadapt.MessageV1{&errdetails.ErrorInfo{Domain: Domain, Reason: reason}}, more...)
	st, err := status.New(code, "hopbound: "+message).WithDetails(details...)
	if err != nil { // the detail cannot be marshalled, which does not happen
		return status.Error(code, "hopbound: "+message)
	}
	return st.Err()
}

func cancelledError() error {
	return newError(codes.Canceled, ReasonCancelled, "the call was cancelled")
}

// codeOf returns the code that gRPC sends for an error that a handler returns,
// or that a call has failed with: OK for nil.
func codeOf(err error) codes.Code {
	if st, ok := status.FromError(err); ok {
		return st.Code()
	}
	return status.FromContextError(err).Code()
}
