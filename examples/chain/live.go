package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	chainv1 "github.com/hopbound/hopbound/examples/chain/proto/hopbound/examples/chain/v1"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

const (
	liveRate     = 10          // users' requests per second, for each stack
	liveTimeout  = time.Second // how long a user waits
	leafReplicas = 3
	liveWindow   = 10 // seconds over which the page computes rates and shares

	// One in nativeTraces of the native stack's traces is recorded, because each trace has hundreds of
	// spans while the last service is down.
	nativeTraces = 10
)

// requestSpan is the name of the root span of a user's request.
const requestSpan = "request"

const (
	outcomeOK     = "ok"
	outcomeFailed = "failed"
)

// live runs both stacks under load, and serves the page that shows them.
type live struct {
	cfg    *config
	stacks []*liveStack
	fault  atomic.Pointer[string]
}

// liveStack is one chain under load.
type liveStack struct {
	stack     stack
	chain     *chain
	telemetry *telemetry
	traces    *traceStore
	tracer    trace.Tracer
	waited    metric.Float64Histogram
	inFlight  chan struct{} // has an entry for each request in flight

	past []([]totals) // the totals of each hop, one entry per second
}

// serveLive runs the chains and the page until ctx ends.
func serveLive(ctx context.Context, cfg *config, stdout io.Writer) (err error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.ui)
	if err != nil {
		return fmt.Errorf("-ui: %w", err)
	}
	b, err := newBackend(ctx, cfg.otlp)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer func() { err = errors.Join(err, b.shutdown(ctx)) }()
	scraped := prometheus.NewRegistry()
	cfg.replicas = leafReplicas
	l := &live{cfg: cfg}
	l.choose("healthy")
	for _, s := range cfg.stacks {
		started, err := l.start(ctx, s, b, scraped)
		if err != nil {
			return errors.Join(err, listener.Close())
		}
		defer started.chain.close()
		l.stacks = append(l.stacks, started)
	}
	fmt.Fprintf(stdout, "The page is at http://%s, and metrics for Prometheus are at http://%[1]s/metrics. Press Ctrl-C to stop.\n", listener.Addr())
	return l.run(ctx, listener, scraped)
}

// start starts one chain.
func (l *live) start(ctx context.Context, s stack, b *backend, scraped *prometheus.Registry) (*liveStack, error) {
	share := 1.0
	if s == native {
		share = 1.0 / nativeTraces
	}
	ls := &liveStack{stack: s, traces: newTraceStore(l.cfg.depth), inFlight: make(chan struct{}, users)}
	var err error
	if ls.telemetry, err = newTelemetry(ctx, s, l.cfg.depth, share, ls.traces, b, scraped); err != nil {
		return nil, err
	}
	user := ls.telemetry.hops[0]
	ls.tracer = user.traces.Tracer("chain")
	ls.waited, err = user.metrics.Meter("chain").Float64Histogram(requestMetric, metric.WithUnit("s"),
		metric.WithDescription("Time until a user's request succeeded or failed."),
		metric.WithExplicitBucketBoundaries(waitBounds(l.cfg.timeout)...))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", requestMetric, err)
	}
	wasted, err := ls.telemetry.hops[l.cfg.depth].metrics.Meter("chain").Float64Counter(wasteMetric, metric.WithUnit("s"),
		metric.WithDescription("Time that the last service worked after its user had given up."))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", wasteMetric, err)
	}
	ls.chain, err = start(ctx, l.cfg, builder{
		stack: s, attempts: l.cfg.attempts, providers: ls.telemetry.providers,
	}, fault{})
	if err != nil {
		return nil, err
	}
	ls.chain.leaf.waste = func(ctx context.Context, d time.Duration) { wasted.Add(ctx, d.Seconds()) }
	return ls, nil
}

// waitBounds returns the histogram's bounds in seconds, for users who wait no longer than timeout.
func waitBounds(timeout time.Duration) []float64 {
	bounds := []float64{.001, .002, .003, .005, .007, .01, .015, .02, .03, .05, .07, .1, .15, .2, .3, .5, .7, 1, 1.5, 2, 5, 10}
	longest := timeout.Seconds()
	bounds = slices.DeleteFunc(bounds, func(b float64) bool { return b >= longest })
	return append(bounds, longest, 1.02*longest)
}

// run keeps the chains under load and serves the page until ctx ends.
func (l *live) run(ctx context.Context, listener net.Listener, scraped *prometheus.Registry) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	hub := newHub()
	server := &http.Server{
		Handler: l.handler(hub, scraped), ReadHeaderTimeout: 5 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	var wg sync.WaitGroup
	for _, s := range l.stacks {
		wg.Go(func() { s.load(ctx, l.cfg.timeout) })
	}
	wg.Go(func() { l.watch(ctx, hub) })
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("-ui: %w", err)
	}
	cancel()
	_ = server.Close() // Shutdown would wait for the pages that read the stream
	wg.Wait()
	return err
}

// choose sets the fault of both chains. It returns false if there is no fault with the name.
func (l *live) choose(name string) bool {
	f, ok := choices()[name]
	if !ok {
		return false
	}
	for _, s := range l.stacks {
		s.chain.leaf.choose(&f)
	}
	l.fault.Store(&name)
	return true
}

// load sends users' requests at a constant rate. It skips a request if too many are in flight.
func (s *liveStack) load(ctx context.Context, timeout time.Duration) {
	ticker := time.NewTicker(time.Second / liveRate)
	defer ticker.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		select {
		case s.inFlight <- struct{}{}:
			wg.Go(func() {
				defer func() { <-s.inFlight }()
				s.request(ctx, timeout)
				if s.stack == hopbound && n%liveRate == 0 {
					s.order(ctx, timeout, n/liveRate)
				}
			})
		default:
		}
	}
}

// request makes one request of a user, in a root span.
func (s *liveStack) request(ctx context.Context, timeout time.Duration) {
	if hurried := s.chain.leaf.fault.Load().timeout; hurried > 0 {
		timeout = hurried
	}
	ctx, span := s.tracer.Start(ctx, requestSpan)
	defer span.End()
	started, outcome := time.Now(), outcomeOK
	if err := s.chain.request(ctx, timeout); err != nil {
		outcome = outcomeFailed
		span.SetStatus(codes.Error, err.Error())
	}
	s.waited.Record(ctx, time.Since(started).Seconds(), metric.WithAttributes(attribute.String("outcome", outcome)))
}

// order orders an item under a new idempotency key. Every third order is sent twice, as by a user who has not
// received the reply. One order in two hundred is sent again with another item under the same key, which is a
// user's mistake, and one in a hundred has no time left.
func (s *liveStack) order(ctx context.Context, timeout time.Duration, n int) {
	items := []string{"tea"}
	switch {
	case n%100 == 7:
		timeout = time.Microsecond
	case n%200 == 1, s.chain.leaf.fault.Load().conflicts:
		items = append(items, "coffee")
	case n%3 == 0:
		items = append(items, "tea")
	}
	ctx, span := s.tracer.Start(ctx, "order")
	defer span.End()
	ctx, cancel := context.WithTimeout(idempotency.WithKey(ctx, idempotency.NewKey()), timeout)
	defer cancel()
	for _, item := range items {
		_, _ = s.chain.user.Order(ctx, &chainv1.OrderRequest{Item: item}) // metrics count the result
	}
}
