package interceptors

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// attrCause is why a lease was lost.
const attrCause = attribute.Key("hopbound.idempotency.cause")

// Causes of lost leases.
const (
	causeLate       = "not_renewed"  // this process did not renew it in time: it stood still
	causeStoreError = "renew_failed" // the store did not answer when it was to be renewed
	causeTakenOver  = "record_lost"  // it was renewed: the store lost the record, or an operator freed it
	storeLogPause   = int64(time.Second)
)

// storeCounters count what becomes of the records of a store, by the store alone.
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

// runStarted counts a handler that starts to run under a key. The function that it returns
// counts its end.
func (c *claim) runStarted() (ended func()) {
	if c.count == nil {
		return func() {}
	}
	n := &c.count.store
	n.pending.Add(&c.request, 1, n.labels.add...)
	if c.takenOver {
		n.takenOver.Add(&c.request, 1, n.labels.add...)
	}
	return func() { n.pending.Add(&c.request, -1, n.labels.add...) }
}

// outcomeStored counts an outcome that was stored.
func (c *claim) outcomeStored() {
	if c.count != nil {
		c.count.store.stored.Add(&c.request, 1, c.count.store.labels.add...)
	}
}

// leaseWasLost counts and logs a lease that was lost.
func (c *claim) leaseWasLost(cause string) {
	if c.count != nil {
		c.count.store.lost.Add(&c.request, 1, newLabels(c.count.store.kind, attrCause.String(cause)).add...)
	}
	c.storeLog.warn(c, "hopbound: a lease of the idempotency store was lost while its handler ran", "cause", cause)
}

// storeFailed logs that a step of the store has failed, and shows it in the trace.
func (c *claim) storeFailed(step string, err error) {
	c.traceStoreError(err)
	c.storeLog.warn(c, "hopbound: a step of the idempotency store has failed", "step", step, "error", err)
}

// isStoreFailure reports whether an error of a step is one that an operator should know of.
func isStoreFailure(step string, err error) bool {
	ended := step == stepWait && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled))
	return err != nil && !ended && !errors.Is(err, idempotency.ErrLeaseLost)
}

// storeLog logs what happens to the store, at most once a second: a store that is down fails
// for each call.
type storeLog struct {
	last       atomic.Int64 // in nanoseconds of the server's time
	suppressed atomic.Int64
}

func (l *storeLog) warn(c *claim, message string, args ...any) {
	now, last := int64(time.Since(c.begun))+storeLogPause, l.last.Load()
	if now-last < storeLogPause || !l.last.CompareAndSwap(last, now) {
		l.suppressed.Add(1)
		return
	}
	args = append(args, "store", c.storeKind, "method", c.method.full, "key_hash", c.key.Hash(), "suppressed", l.suppressed.Swap(0))
	c.log().WarnContext(&c.request, message, args...)
}

// observeStore lets the meter ask a store that counts, as long as there is the server.
func (s *Server) observeStore() error {
	store, ok := s.store.(idempotency.Measured)
	i := newInstruments(&s.settings)
	if !ok || i == nil {
		return nil
	}
	records := i.gauge("hopbound.idempotency.store.records", "{record}", "Records of a bounded store.")
	fill := i.gauge("hopbound.idempotency.store.fill", "1", "How full a bounded store is, in records or bytes, whichever is more: it refuses new keys at 1, and those of one tenant earlier.")
	purged := i.total("hopbound.idempotency.store.purged", "{record}", "Records that this process has deleted because their retention had ended.")
	failures := i.total("hopbound.idempotency.store.purge_failures", "{failure}", "Attempts of this process to delete expired records that have failed.")
	kind := metric.WithAttributes(attrStore.String(s.storeKind))
	return observe(i, s, func(_ context.Context, o metric.Observer) error {
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
