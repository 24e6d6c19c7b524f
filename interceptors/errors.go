package interceptors

import "github.com/hopbound/hopbound/internal/hoperr"

// Domain is the domain of the google.rpc.ErrorInfo in every error that Hopbound makes.
const Domain = hoperr.Domain

// Reasons in the google.rpc.ErrorInfo of errors that Hopbound makes.
const (
	ReasonDeadlineExpired     = hoperr.DeadlineExpired     // DEADLINE_EXPIRED: the deadline had passed before the call could run
	ReasonDeadlineUnreachable = hoperr.DeadlineUnreachable // DEADLINE_UNREACHABLE: the call cannot finish before its deadline
	ReasonKeyMissing          = hoperr.KeyMissing          // KEY_MISSING: the method requires an idempotency key
	ReasonKeyInvalid          = hoperr.KeyInvalid          // KEY_INVALID: malformed idempotency key, or more than one
	ReasonKeyReused           = hoperr.KeyReused           // KEY_REUSED: the key was used for another request
	ReasonKeyUnsupported      = hoperr.KeyUnsupported      // KEY_UNSUPPORTED: the server cannot store outcomes of the method
	ReasonInProgress          = hoperr.InProgress          // IN_PROGRESS: another call with the key was still running when the wait ended
	ReasonLeaseLost           = hoperr.LeaseLost           // LEASE_LOST: another server took over, and its outcome is not stored yet
	ReasonStoreUnavailable    = hoperr.StoreUnavailable    // STORE_UNAVAILABLE: the store failed: the handler did not run, or its transaction was not committed
	ReasonRunFailed           = hoperr.RunFailed           // RUN_FAILED: another call with the key ran the handler, which panicked
	ReasonConflict            = hoperr.Conflict            // TRANSACTION_CONFLICT: a deadlock or serialization failure rolled the transaction back
	ReasonOutcomeUnknown      = hoperr.OutcomeUnknown      // OUTCOME_UNKNOWN: the handler ran, and it is unknown whether its outcome was stored
	ReasonStoreFull           = hoperr.StoreFull           // STORE_FULL: the store has no room for another key
	ReasonRecordCorrupt       = hoperr.RecordCorrupt       // RECORD_CORRUPT: the record of the key cannot be read
	ReasonResponseOmitted     = hoperr.ResponseOmitted     // RESPONSE_OMITTED: the write was made, and its response was too large to store
	ReasonResponseInvalid     = hoperr.ResponseInvalid     // RESPONSE_INVALID: the handler's response cannot be encoded
	ReasonPolicyInvalid       = hoperr.PolicyInvalid       // POLICY_INVALID: the policy among the call options is invalid, or the request lacks the policy's key field
	ReasonMisuse              = hoperr.Misuse              // MISUSE: the application has sent a second request on a hedged call, which has one
	ReasonStreamIdle          = hoperr.StreamIdle          // STREAM_IDLE: no message was sent or received for longer than the server allows
	ReasonSendTimeout         = hoperr.SendTimeout         // SEND_TIMEOUT: the client did not read, so that a message could not be sent in time
	ReasonOverloaded          = hoperr.Overloaded          // OVERLOADED: the server is overloaded
	ReasonRateLimited         = "RATE_LIMITED"             // RATE_LIMITED: too many calls in a second
	ReasonBulkheadFull        = "BULKHEAD_FULL"            // BULKHEAD_FULL: too many calls are running and waiting, or this one would wait for too long
	ReasonBreakerOpen         = "BREAKER_OPEN"             // BREAKER_OPEN: a circuit breaker did not send the attempt
	ReasonDegraded            = hoperr.Degraded            // DEGRADED: the server has turned the feature off, because it or its caller is degraded
	ReasonCancelled           = hoperr.Canceled            // CANCELLED: the call was cancelled while no attempt was under way
)
