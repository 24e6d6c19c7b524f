package streams_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// A handler that holds a stream has tokens for its other calls: the stream's server
// gives back what it does not need when it starts to answer, and says in the header
// what it has used.
func TestStreamThatAnswersLeavesItsTokensToTheOtherCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		leaf := &harness.Counter{Fail: harness.FailFirst(1)}
		down := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))
		late := make(chan int, 1)
		n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
			if err := down(ss.Context()); err != nil { // retried once before it answers
				return err
			}
			if err := s.Send("first"); err != nil {
				return err
			}
			a, _ := budget.FromContext(ss.Context())
			late <- a.Free()
			<-ss.Context().Done()
			return ss.Context().Err()
		}, harness.NewServer(t).ServerOptions()...)
		root, end := budget.NewRoot(t.Context(), harness.FixedBudget(budget.PerRequest(10)))
		ctx, cancel := context.WithCancel(root)
		watch, err := harness.Kinds()[0].Open(ctx, n.Dial(harness.NewClient(t, interceptors.WithBudget(harness.FixedBudget())).DialOptions()...))
		if err != nil {
			t.Fatal(err)
		}
		_ = watch.Send("request")
		if _, err := watch.Recv(); err != nil {
			t.Fatal(err)
		}
		header, _ := watch.Header()
		a, _ := budget.FromContext(root)
		if report := header[wire.ReportKey]; len(report) != 1 || report[0] != "1;u=1" || a.Free() != 8 || a.Used() != 0 {
			t.Errorf("the header reports %v, and %d tokens are free and %d used; want 1;u=1, 8 and 0", report, a.Free(), a.Used())
		}
		if left := <-late; left != 1 {
			t.Errorf("the stream's server keeps %d tokens, want 1", left)
		}
		cancel()
		_, _ = watch.All()
		end(false)
	})
}

// A header may come from somebody who knows nothing of tokens. The stream's server then
// still has all that it was lent.
func TestTokensAreTakenBackOnlyIfTheHeaderSaysSo(t *testing.T) {
	t.Parallel()
	const perRequest, streams = 10, 30
	for name, tc := range map[string]struct {
		opts []grpc.ServerOption
		send func(s harness.Side, ss grpc.ServerStream) error // before the handler's call
	}{
		"the handler sends the header by the stream": {harness.NewServer(t).ServerOptions(), func(_ harness.Side, ss grpc.ServerStream) error { return ss.SendHeader(metadata.Pairs("x", "1")) }},
		"the handler sends the header by its context": {harness.NewServer(t).ServerOptions(), func(_ harness.Side, ss grpc.ServerStream) error {
			return grpc.SendHeader(ss.Context(), metadata.Pairs("x", "1"))
		}},
		"an interceptor before sends the header": {append([]grpc.ServerOption{grpc.ChainStreamInterceptor(
			func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
				_ = ss.SendHeader(metadata.Pairs("x", "1"))
				return h(srv, ss)
			})}, harness.NewServer(t).ServerOptions()...), func(harness.Side, grpc.ServerStream) error { return nil }},
		"the server only observes": {harness.NewServer(t, interceptors.WithMode(interceptors.Observe)).ServerOptions(), func(_ harness.Side, ss grpc.ServerStream) error { return ss.SendHeader(metadata.Pairs("x", "1")) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
			b := harness.FixedBudget(budget.PerRequest(perRequest), budget.Burst(100_000))
			down := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(harness.NewClient(t, harness.FastRetryUpTo(20), interceptors.WithBudget(b)).DialOptions()...))
			n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
				if err := tc.send(s, ss); err != nil {
					return err
				}
				return down(ss.Context())
			}, tc.opts...)
			root, end := budget.NewRoot(t.Context(), b)
			defer end(false)
			cc := n.Dial(harness.NewClient(t, harness.FastRetryUpTo(1), interceptors.WithBudget(b)).DialOptions()...)
			for range streams {
				s, err := harness.Kinds()[0].Open(root, cc)
				if err != nil {
					t.Fatal(err)
				}
				_ = s.Send("request")
				_, _ = s.Header()
				_, _ = s.All()
			}
			if extra := leaf.Calls.Load() - streams; extra > perRequest {
				t.Errorf("%d extra attempts of a request with %d tokens", extra, perRequest)
			}
		})
	}
}

// A watch mostly ends by being cancelled. If it had answered, its target has served it.
func TestWatchThatAnsweredAndIsCancelledEarns(t *testing.T) {
	t.Parallel()
	for answers, want := range map[bool]float64{true: 2, false: 1} {
		n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
			if answers {
				_ = s.Send("first")
			}
			<-ss.Context().Done()
			return ss.Context().Err()
		})
		b := budget.New(budget.Ratio(1), budget.MinPerSecond(0))
		b.Take(time.Now(), harness.Target, budget.AfterFailure)
		b.Take(time.Now(), harness.Target, budget.AfterFailure)
		ctx, cancel := context.WithCancel(t.Context())
		s, err := harness.Kinds()[0].Open(ctx, n.Dial(harness.NewClient(t, interceptors.WithBudget(b)).DialOptions()...))
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Send("request")
		if answers {
			if _, err := s.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		_, _ = s.Recv()
		if got := harness.Balance(b); got != want {
			t.Errorf("answered %v: %v tokens, want %v", answers, got, want)
		}
	}
}
