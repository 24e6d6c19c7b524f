package interceptors_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
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
		leaf := &counter{fail: failing(1)}
		down := idempotent(serve(t, leaf.handle).dial(newClient(t, quick()).DialOptions()...))
		late := make(chan int, 1)
		n := serveStreams(t, func(s side, ss grpc.ServerStream) error {
			if err := down(ss.Context()); err != nil { // retried once before it answers
				return err
			}
			if err := s.send("first"); err != nil {
				return err
			}
			a, _ := budget.FromContext(ss.Context())
			late <- a.Free()
			<-ss.Context().Done()
			return ss.Context().Err()
		}, newServer(t).ServerOptions()...)
		root, end := budget.NewRoot(t.Context(), fixedBudget(budget.PerRequest(10)))
		ctx, cancel := context.WithCancel(root)
		watch, err := kinds()[0].open(ctx, n.dial(newClient(t, interceptors.WithBudget(fixedBudget())).DialOptions()...))
		if err != nil {
			t.Fatal(err)
		}
		_ = watch.send("request")
		if _, err := watch.recv(); err != nil {
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
		_, _ = watch.all()
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
		send func(s side, ss grpc.ServerStream) error // before the handler's call
	}{
		"the handler sends the header by the stream": {newServer(t).ServerOptions(), func(_ side, ss grpc.ServerStream) error { return ss.SendHeader(metadata.Pairs("x", "1")) }},
		"the handler sends the header by its context": {newServer(t).ServerOptions(), func(_ side, ss grpc.ServerStream) error {
			return grpc.SendHeader(ss.Context(), metadata.Pairs("x", "1"))
		}},
		"an interceptor before sends the header": {append([]grpc.ServerOption{grpc.ChainStreamInterceptor(
			func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
				_ = ss.SendHeader(metadata.Pairs("x", "1"))
				return h(srv, ss)
			})}, newServer(t).ServerOptions()...), func(side, grpc.ServerStream) error { return nil }},
		"the server only observes": {newServer(t, interceptors.WithMode(interceptors.Observe)).ServerOptions(), func(_ side, ss grpc.ServerStream) error { return ss.SendHeader(metadata.Pairs("x", "1")) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leaf := &counter{fail: always(errUnavailable)}
			b := fixedBudget(budget.PerRequest(perRequest), budget.Burst(100_000))
			down := idempotent(serve(t, leaf.handle).dial(newClient(t, quickly(20), interceptors.WithBudget(b)).DialOptions()...))
			n := serveStreams(t, func(s side, ss grpc.ServerStream) error {
				if err := tc.send(s, ss); err != nil {
					return err
				}
				return down(ss.Context())
			}, tc.opts...)
			root, end := budget.NewRoot(t.Context(), b)
			defer end(false)
			cc := n.dial(newClient(t, quickly(1), interceptors.WithBudget(b)).DialOptions()...)
			for range streams {
				s, err := kinds()[0].open(root, cc)
				if err != nil {
					t.Fatal(err)
				}
				_ = s.send("request")
				_, _ = s.Header()
				_, _ = s.all()
			}
			if extra := leaf.calls.Load() - streams; extra > perRequest {
				t.Errorf("%d extra attempts of a request with %d tokens", extra, perRequest)
			}
		})
	}
}

// A watch mostly ends by being cancelled. If it had answered, its target has served it.
func TestWatchThatAnsweredAndIsCancelledEarns(t *testing.T) {
	t.Parallel()
	for answers, want := range map[bool]float64{true: 2, false: 1} {
		n := serveStreams(t, func(s side, ss grpc.ServerStream) error {
			if answers {
				_ = s.send("first")
			}
			<-ss.Context().Done()
			return ss.Context().Err()
		})
		b := budget.New(budget.Ratio(1), budget.MinPerSecond(0))
		b.Take(time.Now(), nodeTarget, budget.AfterFailure)
		b.Take(time.Now(), nodeTarget, budget.AfterFailure)
		ctx, cancel := context.WithCancel(t.Context())
		s, err := kinds()[0].open(ctx, n.dial(newClient(t, interceptors.WithBudget(b)).DialOptions()...))
		if err != nil {
			t.Fatal(err)
		}
		_ = s.send("request")
		if answers {
			if _, err := s.recv(); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		_, _ = s.recv()
		if got := balance(b); got != want {
			t.Errorf("answered %v: %v tokens, want %v", answers, got, want)
		}
	}
}
