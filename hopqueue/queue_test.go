package hopqueue_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/hopqueue"
	"github.com/hopbound/hopbound/idempotency"
	"go.opentelemetry.io/otel/propagation"
)

func TestDeadlineIsTrustedWithinBounds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		header string // relative to now, or as it is
		opts   []hopqueue.Option
		want   time.Duration // from now; 0 is no deadline
	}{
		"as sent, and the skew":    {header: "1m", want: time.Minute + time.Second},
		"no skew":                  {header: "1m", opts: []hopqueue.Option{hopqueue.Skew(0)}, want: time.Minute},
		"a negative skew":          {header: "1m", opts: []hopqueue.Option{hopqueue.Skew(-time.Hour)}, want: time.Minute},
		"later than the bound":     {header: "1000h", want: hopqueue.DefaultMaxWait},
		"another bound":            {header: "1h", opts: []hopqueue.Option{hopqueue.MaxWait(time.Minute), nil}, want: time.Minute},
		"just passed, within skew": {header: "-500ms", want: 500 * time.Millisecond},
		"passed":                   {header: "-1h", want: -time.Hour + time.Second},
		"none":                     {},
		"malformed":                {header: "tomorrow"},
		"a number":                 {header: "1795244401500"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				carrier := propagation.MapCarrier{}
				if d, err := time.ParseDuration(c.header); err == nil {
					ctx, cancel := context.WithTimeout(t.Context(), d)
					hopqueue.Inject(ctx, "q", carrier)
					cancel()
				} else if c.header != "" {
					carrier["hop-deadline"] = c.header
				}
				ctx, end := hopqueue.Extract(t.Context(), "q", carrier, nil, c.opts...)
				defer end()
				d, ok := ctx.Deadline()
				if ok != (c.want != 0) || ok && time.Until(d) != c.want {
					t.Errorf("deadline in %v, %v; want %v", time.Until(d), ok, c.want)
				}
				if expired := ctx.Err() != nil; expired != (c.want < 0) {
					t.Errorf("the context has ended: %v", expired)
				}
			})
		})
	}
}

// A machine in another time zone compares the text, or parses it with a library that expects Z.
func TestDeadlineIsSentInUTC(t *testing.T) {
	t.Parallel()
	at := time.Now().Add(time.Hour).In(time.FixedZone("east", 3600))
	ctx, cancel := context.WithDeadline(t.Context(), at)
	defer cancel()
	carrier := propagation.MapCarrier{}
	hopqueue.Inject(ctx, "q", carrier)
	if want := at.UTC().Format(time.RFC3339Nano); carrier["hop-deadline"] != want {
		t.Errorf("the deadline is sent as %q, want %q", carrier["hop-deadline"], want)
	}
}

func TestContextOfAMessageEndsWhenItHasBeenHandled(t *testing.T) {
	t.Parallel()
	ctx, end := hopqueue.Extract(t.Context(), "q", propagation.MapCarrier{"hop-deadline": "9999-12-31T23:59:59Z"}, nil)
	end()
	if !errors.Is(ctx.Err(), context.Canceled) {
		t.Errorf("the error of the context is %v", ctx.Err())
	}
}

func TestMessageCarriesAKeyAndItsHandlerRunsUnderIt(t *testing.T) {
	t.Parallel()
	handler := idempotency.WithRun(t.Context(), idempotency.HandlerRun{ID: idempotency.NewID("", "/shop.Orders/Place", "k"), Key: "k"})
	retried := idempotency.WithRun(t.Context(), idempotency.HandlerRun{ID: idempotency.NewID("", "/shop.Orders/Place", "k"), Key: "k"})
	send := func(ctx context.Context, queue string) propagation.MapCarrier {
		carrier := propagation.MapCarrier{}
		hopqueue.Inject(ctx, queue, carrier)
		return carrier
	}
	first, second, again, other := send(handler, "q"), send(handler, "q"), send(retried, "q"), send(retried, "r")
	key := first["idempotency-key"]
	if key == "" || key == "k" || second["idempotency-key"] == key || again["idempotency-key"] != key || other["idempotency-key"] == key {
		t.Errorf("keys %v, %v, %v and %v: want a child key for each message, the same when the handler is retried", first, second, again, other)
	}
	call := func(opts ...hopqueue.Option) idempotency.Key {
		ctx, end := hopqueue.Extract(t.Context(), "q", first, budget.New(), opts...)
		defer end()
		if got, _ := idempotency.FromContext(ctx); string(got) != key {
			t.Errorf("the handler runs under %q, want %q", got, key)
		}
		child, _ := idempotency.ForCall(ctx, "/bank.Bank/Pay", true)
		return child
	}
	if a, b := call(), call(); a != b || a == "" {
		t.Errorf("the calls of two deliveries have the keys %q and %q", a, b)
	}
	if call() == call(hopqueue.Tenant("ann")) {
		t.Error("two tenants have the same keys")
	}
	own := send(idempotency.WithKey(t.Context(), "own"), "q")
	if own["idempotency-key"] != "own" {
		t.Errorf("the message has the key %q, want that of the application", own["idempotency-key"])
	}
	if invalid := send(idempotency.WithKey(t.Context(), "a,b"), "q"); len(invalid) > 0 {
		t.Errorf("an invalid key was sent: %v", invalid)
	}
	ctx, end := hopqueue.Extract(t.Context(), "q", propagation.MapCarrier{"idempotency-key": "a,b"}, nil)
	defer end()
	if key, ok := idempotency.FromContext(ctx); ok {
		t.Errorf("a malformed key was read: %q", key)
	}
}

func TestHandlerOfAMessageIsARoot(t *testing.T) {
	t.Parallel()
	above, endAbove := budget.NewRoot(t.Context(), budget.New(budget.PerRequest(3)))
	defer endAbove(true)
	carrier := propagation.MapCarrier{}
	hopqueue.Inject(above, "q", carrier)
	if len(carrier) > 0 {
		t.Errorf("the message has %v, although there is neither a key nor a deadline", carrier)
	}
	ctx, end := hopqueue.Extract(above, "q", carrier, budget.New(budget.PerRequest(7)))
	a, _ := budget.FromContext(ctx)
	if a.Free() != 7 {
		t.Errorf("%d tokens, want those of a new root", a.Free())
	}
	end()
	if !a.Closed() {
		t.Error("the root has not ended")
	}
}

// A worker may itself run under a key. That key has nothing to do with its messages.
func TestMessageWithoutAKeyDoesNotGetThatOfItsWorker(t *testing.T) {
	t.Parallel()
	worker := idempotency.WithRun(t.Context(), idempotency.HandlerRun{ID: idempotency.NewID("", "/queue.Worker/Poll", "k"), Key: "k"})
	for _, header := range []string{"", "a,b"} {
		ctx, end := hopqueue.Extract(worker, "q", propagation.MapCarrier{"idempotency-key": header}, nil)
		defer end()
		if key, ok := idempotency.FromContext(ctx); ok {
			t.Errorf("header %q: the handler runs under the key %q", header, key)
		}
		if key, ok := idempotency.ForCall(ctx, "/bank.Bank/Pay", true); ok {
			t.Errorf("header %q: a call has the key %q", header, key)
		}
		if idempotency.IsForwarded(ctx, []string{"k"}) {
			t.Errorf("header %q: the key of the worker is taken for that of the message", header)
		}
	}
}

func FuzzExtractStaysWithinItsBounds(f *testing.F) {
	f.Add("2026-01-02T03:04:05.678Z", "k", int64(time.Second), int64(time.Hour))
	f.Add("9999-12-31T23:59:59Z", `"k"`, int64(math.MaxInt64), int64(math.MaxInt64))
	f.Add("0000-01-01T00:00:00+23:59", "a,b", int64(math.MinInt64), int64(math.MinInt64))
	f.Fuzz(func(t *testing.T, deadline, key string, skew, maxWait int64) {
		carrier := propagation.MapCarrier{"hop-deadline": deadline, "idempotency-key": key}
		ctx, end := hopqueue.Extract(t.Context(), "q", carrier, nil, hopqueue.Skew(time.Duration(skew)), hopqueue.MaxWait(time.Duration(maxWait)))
		defer end()
		if d, ok := ctx.Deadline(); ok && time.Until(d) > max(0, time.Duration(maxWait)) {
			t.Errorf("the deadline is in %v", time.Until(d))
		}
		if key, ok := idempotency.FromContext(ctx); ok && key.Validate() != nil {
			t.Errorf("the handler runs under the key %q", key)
		}
	})
}
