package trust_test

import (
	"context"
	"strings"
	"testing"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestMalformedHeaderBreaksNothingAndIsCounted(t *testing.T) {
	t.Parallel()
	for name, values := range map[string][]string{
		"nonsense":        {"hello"},
		"unknown version": {"2;d=5;s=10"},
		"too long":        {"1;x=" + strings.Repeat("x", 300)},
		"sent twice":      {"1;d=5;s=10;c=000000000000000a", "1;b=3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reader, meter := harness.Metered()
			leaf := &harness.Counter{Fail: harness.FailFirst(1)}
			down := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))
			n := harness.Serve(t, func(ctx context.Context) error { return down(ctx) }, harness.NewServer(t, meter).ServerOptions()...)
			ctx := t.Context()
			for _, v := range values {
				ctx = metadata.AppendToOutgoingContext(ctx, wire.ContextKey, v)
			}
			if err := harness.Idempotent(n.Dial())(ctx); err != nil || leaf.Calls.Load() != 2 {
				t.Errorf("%v after %d calls; want a root that retries", err, leaf.Calls.Load())
			}
			want := "grpc.method=hopbound.test.v1.TestService/Idempotent,hopbound.header=hop-context,hopbound.side=server"
			if got := harness.Sums(t, reader, "hopbound.malformed"); got[want] != 1 {
				t.Errorf("counted %v, want one %s", got, want)
			}
		})
	}
}

func TestMalformedReportBreaksNothingAndIsCounted(t *testing.T) {
	t.Parallel()
	reader, meter := harness.Metered()
	n := harness.Serve(t, func(ctx context.Context) error {
		_ = grpc.SetTrailer(ctx, metadata.Pairs(wire.ReportKey, "1;u=100000"))
		return nil
	})
	b := harness.FixedBudget()
	if err := harness.Idempotent(n.Dial(harness.NewClient(t, interceptors.WithBudget(b), meter).DialOptions()...))(t.Context()); err != nil || harness.Balance(b) != 10 {
		t.Errorf("%v, balance %v; want success and 10", err, harness.Balance(b))
	}
	if got := harness.Sums(t, reader, "hopbound.malformed"); len(got) != 1 {
		t.Errorf("counted %v, want one", got)
	}
}

// What a server used below is unknown if its report on a failure cannot be read: all
// that it was lent.
func TestUnreadableReportOfAFailureCostsAllThatWasLent(t *testing.T) {
	t.Parallel()
	for report, want := range map[string]int{"1;u=nonsense": 2, "1;u=0;e=1": 0} {
		n := harness.Serve(t, func(ctx context.Context) error {
			_ = grpc.SetTrailer(ctx, metadata.Pairs(wire.ReportKey, report))
			return status.Error(codes.NotFound, "")
		})
		b := harness.FixedBudget()
		do := harness.Idempotent(n.Dial(harness.NewClient(t, interceptors.WithBudget(b)).DialOptions()...))
		ctx, end := budget.NewRoot(t.Context(), b)
		_ = do(ctx)
		root, _ := budget.FromContext(ctx)
		if got := root.Used(); got != want {
			t.Errorf("%q: %d charged, want %d", report, got, want)
		}
		end(false)
	}
}
