package hopqueue

import (
	"context"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"go.opentelemetry.io/otel/propagation"
)

const (
	keyHeader      = idempotency.Header
	deadlineHeader = "hop-deadline"
)

// Inject writes the deadline and the idempotency key of ctx into the headers of a message that is about to be sent to a
// queue. The queue's name is part of the key, as the method's name is for a call.
//
// The key is that of [idempotency.WithKey]. In a handler that runs under a key, it is a child key, so that a retried
// handler sends the message with the same key again. [idempotency.WithStep] tells apart several messages that a handler
// sends to one queue concurrently. Without a key or a deadline, Inject writes no header for it, and it does not remove one
// that the carrier has already. An invalid key is not written. The deadline is written as an absolute time; pass a context
// without a deadline, such as that of [context.WithoutCancel], for a message that must be handled however late.
//
// Inject is safe for concurrent use with different carriers.
func Inject(ctx context.Context, queue string, carrier propagation.TextMapCarrier) {
	if key, ok := idempotency.ForCall(ctx, method(queue), true); ok && key.Validate() == nil {
		carrier.Set(keyHeader, string(key))
	}
	if d, ok := ctx.Deadline(); ok {
		carrier.Set(deadlineHeader, d.UTC().Format(time.RFC3339Nano))
	}
}

// method returns the name under which the messages of a queue have their keys.
func method(queue string) string { return "/queue/" + queue }

// The bounds of the deadline that a message carries, unless [Skew] or [MaxWait] says otherwise.
const (
	DefaultSkew    = time.Second
	DefaultMaxWait = 24 * time.Hour
)

// Option is an option of [Extract].
type Option func(*settings)

type settings struct {
	skew, maxWait time.Duration
	tenant        string
}

// Skew says by how much the clocks of the sender and of this machine may differ. The deadline of a message is later by d
// here, so that no message is given up too early. A negative d counts as zero. The default is [DefaultSkew].
func Skew(d time.Duration) Option { return func(s *settings) { s.skew = max(0, d) } }

// MaxWait limits how far from now the deadline of a message may be. A later deadline counts as d from now. If d is not
// positive, the deadline has passed. The default is [DefaultMaxWait].
func MaxWait(d time.Duration) Option { return func(s *settings) { s.maxWait = d } }

// Tenant says whom a message belongs to, if the senders of a queue are not all your own services: the keys of different
// tenants are different keys. The default is the empty string.
func Tenant(name string) Option { return func(s *settings) { s.tenant = name } }

// Extract returns the context in which a message of a queue is handled:
//
//   - Its deadline is that in the message, within the bounds of [Skew] and [MaxWait]. If it has passed, the error
//     of the context is [context.DeadlineExceeded], and the handler should drop the message. It should not drop one whose
//     context was cancelled, for example because the worker stops. A malformed deadline is ignored.
//   - The handler runs under the key of the message: its calls carry child keys, which are the same whenever the message is
//     delivered. A malformed key is ignored. Without a key, the handler runs under none, even if ctx does.
//   - It is the root of a request whose budget has the settings of b, which may be nil; see [budget.NewRoot].
//
// Call the returned function when the message has been handled. Extract is safe for concurrent use.
func Extract(ctx context.Context, queue string, carrier propagation.TextMapCarrier, b *budget.Budget, opts ...Option) (context.Context, func()) {
	s := settings{skew: DefaultSkew, maxWait: DefaultMaxWait}
	for _, opt := range opts {
		if opt != nil {
			opt(&s)
		}
	}
	cancel := func() {}
	if d, err := time.Parse(time.RFC3339Nano, carrier.Get(deadlineHeader)); err == nil {
		latest := time.Now().Add(s.maxWait)
		if d = d.Add(s.skew); d.After(latest) {
			d = latest
		}
		ctx, cancel = context.WithDeadline(ctx, d)
	}
	run := idempotency.HandlerRun{} // without a key, it hides the run of ctx
	if key, err := idempotency.ParseKey(carrier.Get(keyHeader)); err == nil {
		run = idempotency.HandlerRun{ID: idempotency.NewID(s.tenant, method(queue), key), Key: key}
	}
	ctx = idempotency.WithRun(ctx, run)
	ctx, end := budget.NewRoot(ctx, b)
	return ctx, func() {
		end(true)
		cancel()
	}
}
