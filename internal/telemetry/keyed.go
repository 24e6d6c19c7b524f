package telemetry

import (
	"context"
	"errors"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// storeCounters count what happens to the records of a store, by the store alone.
type storeCounters struct {
	pending   metric.Int64UpDownCounter
	stored    metric.Int64Counter
	takenOver metric.Int64Counter
	lost      metric.Int64Counter
	labels    *labels
	kind      attribute.KeyValue
}

func newStoreCounters(i *instruments, kind string) storeCounters {
	pending, err := i.meter.Int64UpDownCounter("hopbound.idempotency.store.pending", metric.WithUnit("{write}"),
		metric.WithDescription("Writes under a key whose handler is running in this process."))
	i.errs = append(i.errs, err)
	c := storeCounters{
		pending:   pending,
		stored:    i.counter("hopbound.idempotency.store.stored", "{outcome}", "Outcomes that were stored."),
		takenOver: i.counter("hopbound.idempotency.store.taken_over", "{run}", "Runs that were told of a possible effect of an earlier run, whose lease had expired or which had failed."),
		lost:      i.counter("hopbound.idempotency.store.lost_leases", "{lease}", "Leases that were lost while their handler ran, by cause."),
		kind:      attrStore.String(kind),
	}
	c.labels = newLabels(c.kind)
	return c
}

// KeyedCall records what became of a call with a key. The argument
// takenOver says that an earlier run may have had an effect.
func (in *Incoming) KeyedCall(ctx context.Context, key idempotency.Key, outcome KeyOutcome, takenOver bool) {
	if n := in.server.count; n != nil {
		failed := outcome != KeyExecuted && outcome != KeyReplayed && outcome != KeyJoined
		n.keyed.Add(ctx, 1, n.own.keyed.by(failed, attrGRPCMethod, in.method.Label(), attrKeyOutcome.String(string(outcome)),
			attrMode.String(modeName(in.observed))).add...)
	}
	if in.span == nil {
		return
	}
	in.span.SetAttributes(AttrKeyHash.String(key.Hash()), attrKeyOutcome.String(string(outcome)))
	if takenOver {
		in.span.SetAttributes(attrTakenOver.Bool(true))
	}
}

// Span returns the identifiers of the call's trace and span, which are zero if it is not recorded.
func (in *Incoming) Span() (trace.TraceID, trace.SpanID) {
	if in.span == nil || !in.span.SpanContext().IsSampled() {
		return trace.TraceID{}, trace.SpanID{}
	}
	return in.span.SpanContext().TraceID(), in.span.SpanContext().SpanID()
}

// Replays links the call to the run that produced its outcome, unless it is unknown.
func (in *Incoming) Replays(traceID trace.TraceID, spanID trace.SpanID) {
	run := trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: spanID, TraceFlags: trace.FlagsSampled, Remote: true})
	if in.span != nil && run.IsValid() {
		in.span.AddLink(trace.Link{SpanContext: run})
	}
}

// Waits records that from now on the call waits for another call with its key.
func (in *Incoming) Waits() {
	if in.span != nil {
		in.span.AddEvent("hopbound.idempotency.wait")
	}
}

// RunStarted counts a handler that starts to run under a key. The function that it returns counts
// its end.
func (in *Incoming) RunStarted(ctx context.Context, takenOver bool) (ended func()) {
	if in.server.count == nil {
		return func() {}
	}
	n := &in.server.count.store
	n.pending.Add(ctx, 1, n.labels.add...)
	if takenOver {
		n.takenOver.Add(ctx, 1, n.labels.add...)
	}
	return func() { n.pending.Add(ctx, -1, n.labels.add...) }
}

// OutcomeStored counts an outcome that was stored.
func (in *Incoming) OutcomeStored(ctx context.Context) {
	if in.server.count != nil {
		n := &in.server.count.store
		n.stored.Add(ctx, 1, n.labels.add...)
	}
}

// LeaseLost counts and logs a lease that was lost while its handler ran.
func (in *Incoming) LeaseLost(ctx context.Context, key idempotency.Key, cause string) {
	if in.server.count != nil {
		n := &in.server.count.store
		n.lost.Add(ctx, 1, newLabels(n.kind, attrCause.String(cause)).add...)
	}
	in.warnOfStore(ctx, key, "a lease of the idempotency store was lost while its handler ran", "cause", cause)
}

// StoreStep measures a step of the store, and logs its failure. The context is the caller's if the
// caller's end ends the step.
func (in *Incoming) StoreStep(ctx context.Context, key idempotency.Key, step Step, took time.Duration, err error) {
	in.MeasureStep(ctx, step, took, err)
	if err != nil && !endedByCaller(ctx, step, err) && !errors.Is(err, idempotency.ErrLeaseLost) {
		in.StoreFailed(ctx, key, step, err)
	}
}

// endedByCaller reports whether a step has failed because its caller had no more time, or was gone. That
// is no failure of the store. All waits end so.
func endedByCaller(ctx context.Context, step Step, err error) bool {
	d, ok := ctx.Deadline()
	over := step == StepWait || ctx.Err() != nil || ok && time.Until(d) < time.Millisecond
	return over && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled))
}

// MeasureStep measures a step of the store. The context is that of StoreStep.
func (in *Incoming) MeasureStep(ctx context.Context, step Step, took time.Duration, err error) {
	n := in.server.count
	if n == nil {
		return
	}
	result := "ok"
	switch {
	case err == nil:
	case errors.Is(err, idempotency.ErrLeaseLost):
		result = string(KeyLeaseLost)
	case errors.Is(err, idempotency.ErrFull):
		result = string(KeyStoreFull)
	case errors.Is(err, idempotency.ErrCorrupt):
		result = string(KeyCorrupt)
	case endedByCaller(ctx, step, err):
		result = "ended"
	default:
		result = "error"
	}
	n.steps.Record(ctx, took.Seconds(), newLabels(n.store.kind, attrStep.String(string(step)), attrResult.String(result)).record...)
}

// StoreFailed logs that a step of the store has failed, and records it in the trace. The caller is
// not told the error.
func (in *Incoming) StoreFailed(ctx context.Context, key idempotency.Key, step Step, err error) {
	if in.span != nil {
		in.span.AddEvent("hopbound.idempotency.store_error", trace.WithAttributes(semconv.ExceptionMessage(err.Error())))
	}
	in.warnOfStore(ctx, key, "a step of the idempotency store has failed", "step", string(step), "error", err)
}

func (in *Incoming) warnOfStore(ctx context.Context, key idempotency.Key, message string, args ...any) {
	s := in.server
	if !s.storeFailures.ready() {
		return
	}
	s.storeFailures.warn(ctx, s.settings.Log(), message,
		append(args, "store", s.storeKind, "method", "/"+in.method.Name, "key_hash", key.Hash())...)
}

// ObserveStore lets the meter read the statistics of a store. The store must not refer to owner.
func ObserveStore[T any](s *Settings, owner *T, storeKind string, store idempotency.Measured) error {
	i := newInstruments(s)
	if i == nil {
		return nil
	}
	records := i.gauge("hopbound.idempotency.store.records", "{record}", "Records of a bounded store.")
	fill := i.gauge("hopbound.idempotency.store.fill", "1", "How full a bounded store is, by records or bytes, whichever is more. At 1 it rejects new keys; those of one tenant it rejects earlier.")
	purged := i.total("hopbound.idempotency.store.purged", "{record}", "Records that this process has deleted because their retention had ended.")
	failures := i.total("hopbound.idempotency.store.purge_failures", "{failure}", "Failed attempts of this process to delete expired records.")
	kind := metric.WithAttributes(attrStore.String(storeKind))
	return observe(i, owner, func(_ context.Context, o metric.Observer) error {
		st := store.Stats()
		if st.MaxRecords > 0 {
			o.ObserveFloat64(records, float64(st.Records), kind)
			o.ObserveFloat64(fill, max(float64(st.Records)/float64(st.MaxRecords), float64(st.Bytes)/float64(max(1, st.MaxBytes))), kind)
		}
		o.ObserveInt64(purged, st.Purged, kind)
		o.ObserveInt64(failures, st.PurgeFailures, kind)
		return nil
	}, records, fill, purged, failures)
}
