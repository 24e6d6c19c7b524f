package interceptors

import "github.com/hopbound/hopbound/internal/hoperr"

// Domain is the domain of the google.rpc.ErrorInfo in every error that Hopbound makes.
const Domain = hoperr.Domain

// Reasons in the google.rpc.ErrorInfo of errors that Hopbound makes.
const (
	ReasonDeadlineExpired     = hoperr.DeadlineExpired     // the deadline had passed before the call could run
	ReasonDeadlineUnreachable = hoperr.DeadlineUnreachable // the call cannot finish before its deadline
	ReasonKeyMissing          = hoperr.KeyMissing          // the method requires an idempotency key
	ReasonKeyInvalid          = hoperr.KeyInvalid          // malformed idempotency key, or more than one
	ReasonKeyReused           = hoperr.KeyReused           // the key was used for another request
	ReasonKeyUnsupported      = hoperr.KeyUnsupported      // the server cannot store outcomes of the method
	ReasonInProgress          = hoperr.InProgress          // another call with the key was still running when the wait ended
	ReasonLeaseLost           = hoperr.LeaseLost           // another server took over, and its outcome is not stored yet
	ReasonStoreUnavailable    = hoperr.StoreUnavailable    // the store failed, and the handler did not run
	ReasonRunFailed           = hoperr.RunFailed           // another call with the key ran the handler, which panicked
	ReasonConflict            = hoperr.Conflict            // a deadlock or serialization failure rolled the transaction back
	ReasonOutcomeUnknown      = hoperr.OutcomeUnknown      // the handler ran, and it is unknown whether its outcome was stored
	ReasonStoreFull           = hoperr.StoreFull           // the store has no room for another key
	ReasonRecordCorrupt       = hoperr.RecordCorrupt       // the record of the key cannot be read
	ReasonResponseOmitted     = hoperr.ResponseOmitted     // the write was made, and its response was too large to store
	ReasonResponseInvalid     = hoperr.ResponseInvalid     // the handler's response cannot be encoded
	ReasonPolicyInvalid       = hoperr.PolicyInvalid       // the policy among the call options is invalid
	ReasonMisuse              = hoperr.Misuse              // the application has called a method that it must not call yet
	ReasonStreamIdle          = hoperr.StreamIdle          // no message was sent or received for longer than the server allows
	ReasonSendTimeout         = hoperr.SendTimeout         // the client did not read, so that a message could not be sent in time
	ReasonOverloaded          = hoperr.Overloaded          // the server is overloaded
	ReasonCancelled           = hoperr.Canceled            // the call was cancelled while no attempt was under way
)
