package modes_test

import (
	"context"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
)

// The retention of Pay is one hour, counted from when its outcome would have been stored.
func TestObservingServerCountsReplaysUntilTheRetentionEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reader, meter := harness.Metered()
		b := &harness.Bank{OnPay: func(_ context.Context, n int64, _ *testv1.PayRequest) error {
			if n == 1 {
				time.Sleep(time.Minute)
			}
			return nil
		}}
		c := b.OpenWith(t, interceptors.WithIdempotency(idempotency.NewMemory()), observing(), meter).Customer()
		for i, step := range []struct {
			pause time.Duration
			want  map[string]int64 // so far
		}{
			{0, map[string]int64{"executed": 1}},
			{time.Hour - 1, map[string]int64{"executed": 1, "replayed": 1}}, // which does not extend the retention
			{1, map[string]int64{"executed": 2, "replayed": 1}},
			{time.Hour - 1, map[string]int64{"executed": 2, "replayed": 2}},
		} {
			time.Sleep(step.pause)
			if _, err := c.PayWithKey(t.Context(), "k", harness.Rent()); err != nil {
				t.Fatal(err)
			}
			if got := outcomes(t, reader); !maps.Equal(got, step.want) {
				t.Errorf("counted %v after call %d, want %v", got, i+1, step.want)
			}
		}
	})
}

// The key belongs to the first request from its start, whether or not its outcome will be
// stored.
func TestObservingServerCountsAKeyAsReusedWhileItsFirstCallRuns(t *testing.T) {
	t.Parallel()
	reader, meter := harness.Metered()
	running, release := make(chan struct{}), make(chan struct{})
	b := &harness.Bank{OnPay: func(_ context.Context, _ int64, req *testv1.PayRequest) error {
		if req.GetAccount() == "rent" {
			close(running)
			<-release
		}
		return nil
	}}
	c := b.OpenWith(t, interceptors.WithIdempotency(idempotency.NewMemory()), observing(), meter).Customer()
	first := make(chan error)
	go func() {
		_, err := c.PayWithKey(t.Context(), "k", harness.Rent())
		first <- err
	}()
	<-running
	_, second := c.PayWithKey(t.Context(), "k", &testv1.PayRequest{Account: "food"})
	close(release)
	if err := <-first; err != nil || second != nil {
		t.Errorf("got %v and %v, want two payments", err, second)
	}
	want := map[string]int64{"executed": 1, "reused": 1}
	if got := outcomes(t, reader); !maps.Equal(got, want) || refusals(t, reader, interceptors.ReasonKeyReused) != 1 {
		t.Errorf("counted %v, want %v, and one refusal", got, want)
	}
}

// A handler that runs under a key gives child keys to its writes alone. Where its server
// only observes, the calls that would have had a child key say so in the hop-context.
func TestWritesAloneSayThatTheyWouldCarryAChildKey(t *testing.T) {
	t.Parallel()
	for _, mode := range []interceptors.Mode{interceptors.Enforce, interceptors.Observe} {
		var said []string // in the field k
		leaf := harness.Serve(t, func(ctx context.Context) error {
			said = append(said, harness.HeaderField(ctx, "k"))
			return nil
		})
		down := testv1.NewTestServiceClient(leaf.Dial(harness.NewClient(t, harness.FastRetry(), interceptors.WithMode(mode)).DialOptions()...))
		notIdempotent := interceptors.UsePolicy(interceptors.Policy{Idempotency: interceptors.NotIdempotent})
		shop := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
			_, _ = down.Read(ctx, &testv1.ReadRequest{})
			_, _ = down.Write(ctx, &testv1.WriteRequest{}, notIdempotent)
			_, _ = down.Write(ctx, &testv1.WriteRequest{})
			_, _ = down.Idempotent(ctx, &testv1.IdempotentRequest{})
			return nil
		}}
		n := shop.OpenWith(t, interceptors.WithIdempotency(idempotency.NewMemory()), observing())
		if _, err := n.Customer().PayWithKey(t.Context(), "k", harness.Rent()); err != nil {
			t.Fatal(err)
		}
		if want := []string{"", "", "1", "1"}; !slices.Equal(said, want) {
			t.Errorf("%v: the calls said k=%q, want %q", mode, said, want)
		}
	}
}
