package telemetry

import "go.opentelemetry.io/otel/attribute"

// Attributes of spans and events, beside those of the semantic conventions.
const (
	AttrAttempt   = attribute.Key("hopbound.attempt")
	AttrLent      = attribute.Key("hopbound.budget.leased")
	AttrLeft      = attribute.Key("hopbound.budget.left") // tokens that a request has left in its handler
	AttrRemaining = attribute.Key("hopbound.deadline.remaining_ms")
	AttrKeyHash   = attribute.Key("hopbound.idempotency.key_hash")

	attrAttempts  = attribute.Key("hopbound.attempts")
	attrDecision  = attribute.Key("hopbound.decision")
	attrMode      = attribute.Key("hopbound.mode")        // on spans only if it is observe
	attrLost      = attribute.Key("hopbound.budget.lost") // tokens of which nobody knows whether they were used
	attrUsed      = attribute.Key("hopbound.budget.used")
	attrExcess    = attribute.Key("hopbound.deadline.excess_ms")
	attrLate      = attribute.Key("hopbound.deadline.late_ms")
	attrReserve   = attribute.Key("hopbound.deadline.reserve_ms")
	attrBackoff   = attribute.Key("hopbound.backoff_ms")
	attrReason    = attribute.Key("hopbound.reason")
	attrHedge     = attribute.Key("hopbound.hedge") // won or lost, if attempts ran at the same time
	attrSent      = attribute.Key("hopbound.messages.sent")
	attrReceived  = attribute.Key("hopbound.messages.received")
	attrCommitted = attribute.Key("hopbound.committed") // what ended the time in which a stream can be retried
	attrHeader    = attribute.Key("hopbound.header")

	attrInstalledTwice = attribute.Key("hopbound.installed_twice")
	attrOtherRetries   = attribute.Key("hopbound.other_retries") // another interceptor retries the call

	attrKeyOutcome = attribute.Key("hopbound.idempotency.outcome")
	attrTakenOver  = attribute.Key("hopbound.idempotency.taken_over") // only if it is true
	attrStore      = attribute.Key("hopbound.idempotency.store")
	attrStep       = attribute.Key("hopbound.idempotency.step")
	attrResult     = attribute.Key("hopbound.idempotency.result")
	attrCause      = attribute.Key("hopbound.idempotency.cause") // of a lost lease
)

// Attributes of metrics alone. The first three are those of gRFC A66.
const (
	attrGRPCMethod = attribute.Key("grpc.method")
	attrGRPCTarget = attribute.Key("grpc.target")
	attrGRPCStatus = attribute.Key("grpc.status")
	attrSide       = attribute.Key("hopbound.side")
	attrBudget     = attribute.Key("hopbound.budget")
	attrRoot       = attribute.Key("hopbound.root")    // the request starts with the call
	attrReached    = attribute.Key("hopbound.reached") // a server may have seen the attempt
)

// Sides of a call.
const (
	sideClient = "client"
	sideServer = "server"
)

// Decision is what was decided when an attempt ended.
type Decision string

// The decisions. All but Done, Retried and HedgeLost say why no retry follows.
const (
	Done         Decision = "done"          // the attempt succeeded
	Retried      Decision = "retried"       // another attempt follows
	Exhausted    Decision = "exhausted"     // the policy allows no more attempts
	BudgetEmpty  Decision = "budget_empty"  // no token is left for another attempt
	Deadline     Decision = "deadline"      // the deadline has passed, or leaves no time for another attempt
	NotRetryable Decision = "not_retryable" // the policy does not retry this failure
	Unsafe       Decision = "unsafe"        // a server may have seen the attempt, and nothing declares it safe to repeat
	Pushback     Decision = "pushback"      // the server asked not to retry
	Marked       Decision = "marked"        // a hop below decided not to retry the failure
	HedgeLost    Decision = "hedge_lost"    // another attempt of the call answered first
)

// Reasons that complete a decision.
const (
	ReasonCode          = "code"            // the policy does not name the status code
	ReasonCancelled     = "cancelled"       // the application cancelled the call
	ReasonCommitted     = "committed"       // the application has had a part of the stream's response, or more was sent than is kept
	ReasonLocal         = "local"           // the failure was made on this side
	ReasonRefused       = "refused"         // an interceptor after Hopbound's did not send the attempt
	ReasonPanicked      = "panicked"        // something below panicked
	ReasonPassed        = "passed"          // the deadline has passed
	ReasonTooShort      = "too_short"       // no time remains for the pause and another attempt
	ReasonRequestTokens = "request_tokens"  // the request's tokens are used, or lent to its other calls
	ReasonTargetTokens  = "target_tokens"   // the target budget is empty
	ReasonThrottled     = "retry_throttled" // retryThrottling allows no retry now
	ReasonOtherRetries  = "other_retries"   // another interceptor retries the call
)

// Results of hedged attempts.
const (
	HedgeResultWon  = "won"
	HedgeResultLost = "lost"
)

// What ended the time in which a stream can be retried.
const (
	CommittedByMessage = "message"
	CommittedByHeader  = "header"
	CommittedByBuffer  = "buffer"
)

// KeyOutcome is what became of a call with an idempotency key.
type KeyOutcome string

// The outcomes of calls with a key.
const (
	KeyExecuted    KeyOutcome = "executed"          // the handler ran, and its outcome was stored
	KeyReleased    KeyOutcome = "released"          // the handler ran, and the next call may run it again
	KeyReplayed    KeyOutcome = "replayed"          // a stored outcome was returned
	KeyJoined      KeyOutcome = "joined"            // the outcome was stored while the call waited for it
	KeyShared      KeyOutcome = "shared"            // the call waited for a run that failed, and returned its failure
	KeyReused      KeyOutcome = "reused"            // the key belongs to another request
	KeyInProgress  KeyOutcome = "in_progress"       // another run had not ended when the wait ended
	KeyLeaseLost   KeyOutcome = "lease_lost"        // another server took over
	KeyUnknown     KeyOutcome = "outcome_unknown"   // the handler ran, and whether its outcome was stored is unknown
	KeyStoreFull   KeyOutcome = "store_full"        // the store has no room
	KeyCorrupt     KeyOutcome = "corrupt"           // the record cannot be read
	KeyNoStore     KeyOutcome = "store_unavailable" // the store failed before the handler ran
	KeyGivenUp     KeyOutcome = "given_up"          // the call ended before its handler ran
	KeyUnsupported KeyOutcome = "unsupported"       // outcomes of the method cannot be stored
)

// Step is a step of an idempotency store.
type Step string

// The steps.
const (
	StepBegin    Step = "begin"
	StepLook     Step = "look"
	StepComplete Step = "complete"
	StepExtend   Step = "extend"
	StepSave     Step = "save"
	StepRelease  Step = "release"
	StepWait     Step = "wait"
)

// Causes of lost leases.
const (
	CauseLate       = "not_renewed"  // this process did not renew the lease in time, because it stood still
	CauseStoreError = "renew_failed" // the store failed when the lease was to be renewed
	CauseTakenOver  = "record_lost"  // the lease was renewed: the store lost the record, or an operator released it
)

// index is the place in an array of what is, or is not.
func index(is bool) int {
	if is {
		return 1
	}
	return 0
}

// modeName returns the value of attrMode.
func modeName(observe bool) string {
	if observe {
		return "observe"
	}
	return "enforce"
}
