package streams_test

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// What the user does when a call has finished may use the stream, and may wait
// for whoever sends on it.
func TestOnFinishMayUseTheStream(t *testing.T) {
	t.Parallel()
	none := func(harness.Side, grpc.ServerStream) error { return status.Error(codes.NotFound, "") }
	for name, tc := range map[string]struct {
		client   interceptors.ClientOption
		kind     int
		onFinish func(s *harness.Stream, sender <-chan struct{})
	}{
		"it looks at the header":           {harness.FastRetry(), 2, func(s *harness.Stream, _ <-chan struct{}) { _, _ = s.Header() }},
		"it looks at a hedged header":      {harness.Hedging(interceptors.HedgePolicy{Delay: time.Second}), 0, func(s *harness.Stream, _ <-chan struct{}) { _, _ = s.Header() }},
		"it closes the application's side": {harness.FastRetry(), 2, func(s *harness.Stream, _ <-chan struct{}) { _ = s.CloseSend() }},
		"it waits for the sender":          {harness.FastRetry(), 2, func(_ *harness.Stream, sender <-chan struct{}) { <-sender }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var s harness.Stream
				sender := make(chan struct{})
				k := harness.Kinds()[tc.kind]
				s, err := k.Open(t.Context(), harness.ServeStreams(t, none).Dial(harness.NewClient(t, tc.client).DialOptions()...),
					grpc.OnFinish(func(error) { tc.onFinish(&s, sender) }))
				if err != nil {
					t.Fatal(err)
				}
				go func() {
					defer close(sender)
					for s.Send("a") == nil && k.Desc.ClientStreams {
						time.Sleep(ms)
					}
				}()
				synctest.Wait()
				if _, err := s.Recv(); status.Code(err) != codes.NotFound {
					t.Errorf("got %v", err)
				}
				<-sender
			})
		})
	}
}

// If a sender finds that the call has ended, OnFinish is called, as in gRPC, before RecvMsg returns
// the status, or when the context ends.
func TestOnFinishIsLeftToTheReceiver(t *testing.T) {
	t.Parallel()
	none := func(harness.Side, grpc.ServerStream) error { return status.Error(codes.NotFound, "") }
	for name, native := range map[string]bool{"gRPC": true, "Hopbound": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var opts []grpc.DialOption
				if !native {
					opts = harness.NewClient(t, harness.FastRetry()).DialOptions()
				}
				cc := harness.ServeStreams(t, none).Dial(opts...)
				for _, received := range []bool{true, false} {
					ctx, cancel := context.WithCancel(t.Context())
					var finished atomic.Int64
					s, err := harness.Kinds()[2].Open(ctx, cc, grpc.OnFinish(func(error) { finished.Add(1) }))
					if err != nil {
						t.Fatal(err)
					}
					synctest.Wait() // the server has answered
					if err := s.Send("a"); !errors.Is(err, io.EOF) {
						t.Errorf("Send returned %v", err)
					}
					if finished.Load() != 0 {
						t.Error("the sender has called OnFinish")
					}
					if received {
						_, _ = s.Recv()
					} else {
						cancel()
						synctest.Wait()
					}
					if finished.Load() != 1 {
						t.Errorf("received %v: OnFinish was called %d times", received, finished.Load())
					}
					cancel()
				}
			})
		})
	}
}

// Header looks at whichever attempt is under way, also beside a receiver that
// has replaced one, and in the pause between two.
func TestHeaderFollowsTheAttempts(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]int64{"the second is answered": 0, "the second finds no server": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var attempts atomic.Int64
				var n *harness.Node
				n = harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
					if attempts.Add(1) == 1 {
						time.Sleep(time.Second)
						n.Refused.Store(refused)
						return harness.ErrUnavailable
					}
					_ = ss.SendHeader(metadata.Pairs("x", "1"))
					_, err := s.Recv()
					return err
				})
				p := interceptors.Policy{Retry: &interceptors.RetryPolicy{MaxAttempts: 5, Backoff: interceptors.Backoff{Base: 2 * time.Second, Jitter: interceptors.NoJitter}}}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				s, err := harness.Kinds()[2].Open(ctx, n.Dial(harness.NewClient(t, harness.Policy(p)).DialOptions()...))
				if err != nil {
					t.Fatal(err)
				}
				if refused > 0 {
					time.AfterFunc(1500*ms, n.Cut)
				}
				got := make(chan error)
				go func() {
					_, err := s.All()
					got <- err
				}()
				synctest.Wait()
				if header, err := s.Header(); len(header["x"]) != 1 || err != nil {
					t.Errorf("header %v and %v after %d attempts", header, err, attempts.Load())
				}
				_ = s.Send("go on")
				if err := <-got; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A stream that was answered in time is not ended by its attempt's timeout,
// however late its application looks, and what it was answered stays so.
func TestAttemptTimeoutIsForTheServerAndNotForTheReader(t *testing.T) {
	t.Parallel()
	p := harness.Policy(interceptors.Policy{AttemptTimeout: 1500 * ms, Retry: &interceptors.RetryPolicy{MaxAttempts: 3, Backoff: interceptors.Backoff{Base: ms, Max: ms}}})
	synctest.Test(t, func(t *testing.T) {
		var attempts atomic.Int64
		answer := func(s harness.Side, _ grpc.ServerStream) error {
			attempts.Add(1)
			for range 5 {
				if err := s.Send("x"); err != nil {
					return err
				}
				time.Sleep(time.Second)
			}
			return nil
		}
		refuse := func(harness.Side, grpc.ServerStream) error {
			attempts.Add(1)
			return status.Error(codes.NotFound, "")
		}
		for want, handle := range map[codes.Code]harness.StreamHandler{codes.OK: answer, codes.NotFound: refuse} {
			attempts.Store(0)
			s, err := harness.Kinds()[0].Open(t.Context(), harness.ServeStreams(t, handle).Dial(harness.NewClient(t, p).DialOptions()...))
			if err != nil {
				t.Fatal(err)
			}
			_ = s.Send("a")
			time.Sleep(3 * time.Second)
			if got, err := s.All(); status.Code(err) != want || want == codes.OK && len(got) != 5 || attempts.Load() != 1 {
				t.Errorf("%d messages and %v after %d attempts, want %v", len(got), err, attempts.Load(), want)
			}
		}
	})
}

// A server-streaming call whose time is over as it is made says so where gRPC
// does, in generated code too.
func TestServerStreamThatEndsAsItIsMade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := harness.ServeStreams(t, func(_ harness.Side, ss grpc.ServerStream) error { <-ss.Context().Done(); return ss.Context().Err() })
		slow := below(func(int64) hooked { return hooked{send: func() { time.Sleep(50 * ms) }} })
		ctx, cancel := context.WithTimeout(t.Context(), 20*ms)
		defer cancel()
		stream, err := testv1.NewTestServiceClient(n.Dial(append(harness.NewClient(t, harness.FastRetry()).DialOptions(), slow)...)).Watch(ctx, &testv1.WatchRequest{})
		if err != nil {
			t.Fatalf("opening it: %v", err)
		}
		if _, err := stream.Recv(); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("receiving: %v, want DEADLINE_EXCEEDED", err)
		}
	})
}

// A hedged call goes on while an attempt is under way, whatever else has run out
// of time, and an error of this side ends it at once.
func TestWhatEndsAHedgedCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var served atomic.Int64
		n := harness.Serve(t, func(ctx context.Context) error {
			if served.Add(1) == 1 {
				time.Sleep(600 * ms)
				return status.Error(codes.DeadlineExceeded, "of the server's own")
			}
			time.Sleep(500 * ms)
			return ctx.Err()
		})
		lenient := harness.Hedging(interceptors.HedgePolicy{Delay: 200 * ms, NonFatal: []codes.Code{codes.DeadlineExceeded, codes.ResourceExhausted}})
		if err := harness.Within(t, harness.Idempotent(n.Dial(harness.NewClient(t, lenient).DialOptions()...)), time.Second); err != nil {
			t.Errorf("got %v, want the hedge's success", err)
		}
		var opened atomic.Int64
		streams := harness.ServeStreams(t, func(harness.Side, grpc.ServerStream) error { opened.Add(1); return nil })
		_, err := harness.Kinds()[0].Exchange(t.Context(), streams.Dial(harness.NewClient(t, lenient).DialOptions()...), []string{"too long"}, grpc.MaxCallSendMsgSize(3))
		if status.Code(err) != codes.ResourceExhausted || opened.Load() > 1 {
			t.Errorf("a request that is too long: %v after %d attempts", err, opened.Load())
		}
	})
}

// A call whose options an interceptor has dropped ends all the same.
func TestStreamWhoseOptionsAreDroppedEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := harness.NewLeaks()
		n := harness.ServeStreams(t, func(_ harness.Side, ss grpc.ServerStream) error { <-ss.Context().Done(); return nil })
		drops := grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, _ ...grpc.CallOption) (grpc.ClientStream, error) {
			return streamer(ctx, desc, cc, method)
		})
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := harness.Kinds()[2].Open(ctx, n.Dial(append(l.Client(t, harness.FastRetry()), drops)...), l.OnFinish()); err != nil {
			t.Fatal(err)
		}
		cancel()
		time.Sleep(time.Minute)
		l.CheckNoneLeft(t, 1)
	})
}
