// Package hopqueue carries the deadline and the idempotency key of a request across a queue, in the headers of a message.
// It works with NATS, Kafka, River and any other queue whose messages have string headers. [Inject] writes the headers
// where the message is sent, and [Extract] reads them where the message is handled.
//
// No tokens cross a queue, because a message may be delivered long after its request has ended, and more than once. The
// handler of a message is a new root with a budget of its own. To carry the trace, use OpenTelemetry's propagator with the
// same carrier.
//
// docs/wire.md specifies the headers.
package hopqueue
