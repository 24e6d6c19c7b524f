// Package hopqueue carries the deadline and the idempotency key of a request across a queue, in the headers of a message:
// of NATS, Kafka, River, or any other queue with string headers. [Inject] writes them where the message is made, and
// [Extract] reads them where it is handled.
//
// No tokens cross a queue, because a message may be delivered long after its request has ended, and more than once. The
// handler of a message is a new root with a budget of its own. The trace context is the propagator's; use it with the same
// carrier.
//
// docs/wire.md specifies the headers.
package hopqueue
