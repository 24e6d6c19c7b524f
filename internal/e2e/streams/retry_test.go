package streams_test

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A stream that fails before it has answered is made again, with all that was
// sent on it, wherever it fails.
func TestStreamIsRepeatedUntilItAnswers(t *testing.T) {
	t.Parallel()
	harness.ForKinds(t, func(t *testing.T, k harness.Kind, texts []string) {
		t.Helper()
		for read := range len(texts) + 1 {
			var attempts atomic.Int64
			n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
				if attempts.Add(1) < 3 {
					for range read {
						if _, err := s.Recv(); err != nil {
							return err
						}
					}
					return harness.ErrUnavailable
				}
				return harness.ReplyJoined(s, ss)
			}, harness.NewServer(t).ServerOptions()...)
			b := harness.FixedBudget()
			got, err := k.Exchange(t.Context(), n.Dial(harness.NewClient(t, harness.FastRetry(), interceptors.WithBudget(b)).DialOptions()...), texts)
			if want := []string{strings.Join(texts, " ")}; err != nil || !slices.Equal(got, want) {
				t.Errorf("failing after %d messages: got %q and %v, want %q", read, got, err, want)
			}
			if attempts.Load() != 3 {
				t.Errorf("failing after %d messages: %d attempts, want 3", read, attempts.Load())
			}
		}
	})
}

// Once a message or a header has reached the application, the stream is not
// made again, and no message comes twice.
func TestStreamIsNotRepeatedAfterItHasAnswered(t *testing.T) {
	t.Parallel()
	harness.ForKinds(t, func(t *testing.T, k harness.Kind, texts []string) {
		t.Helper()
		for name, look := range map[string]func(s harness.Stream) error{
			"message": func(s harness.Stream) error { _, err := s.Recv(); return err },
			"header":  func(s harness.Stream) error { _, err := s.Header(); return err },
		} {
			if name == "message" && !k.Desc.ServerStreams {
				continue // its message comes with the end
			}
			var attempts atomic.Int64
			n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
				attempts.Add(1)
				if err := ss.SendHeader(metadata.Pairs("x", "1")); err != nil {
					return err
				}
				if k.Desc.ServerStreams {
					if err := s.Send("one"); err != nil {
						return err
					}
				}
				_, _ = s.Requests()
				return harness.ErrUnavailable
			}, harness.NewServer(t).ServerOptions()...)
			b := harness.FixedBudget()
			before := harness.Balance(b)
			s, err := k.Open(t.Context(), n.Dial(harness.NewClient(t, harness.FastRetry(), interceptors.WithBudget(b)).DialOptions()...))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Send(texts[0]); err != nil {
				t.Fatal(err)
			}
			if err := look(s); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			_ = s.CloseSend()
			rest, err := s.All()
			if status.Code(err) != codes.Unavailable || len(rest) > 1 || attempts.Load() != 1 {
				t.Errorf("%s: then %q and %v after %d attempts, want UNAVAILABLE after 1", name, rest, err, attempts.Load())
			}
			if got := harness.Balance(b); got != before {
				t.Errorf("%s: balance %v, was %v", name, got, before)
			}
		}
	})
}

// A stream that sends more than is kept of it goes on, and is not made again.
func TestStreamThatIsTooLongToKeepGoesOn(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1000)
	for name, limit := range map[string]struct {
		client interceptors.ClientOption
		call   grpc.CallOption
	}{
		"of the call":    {interceptors.WithStreamBuffer(2500, 1<<20), grpc.EmptyCallOption{}},
		"of the client":  {interceptors.WithStreamBuffer(1<<20, 2500), grpc.EmptyCallOption{}},
		"of gRPC's own":  {interceptors.WithStreamBuffer(1<<20, 1<<20), grpc.MaxRetryRPCBufferSize(2500)},
		"that is raised": {interceptors.WithStreamBuffer(10, 1<<20), grpc.MaxRetryRPCBufferSize(2500)},
	} {
		var attempts atomic.Int64
		var fail atomic.Bool
		n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
			attempts.Add(1)
			if fail.Load() {
				for range 3 {
					if _, err := s.Recv(); err != nil {
						return err
					}
				}
				return harness.ErrUnavailable
			}
			return harness.ReplyJoined(s, ss)
		}, harness.NewServer(t).ServerOptions()...)
		cc := n.Dial(harness.NewClient(t, harness.FastRetry(), limit.client, interceptors.WithBudget(harness.FixedBudget(budget.Burst(100)))).DialOptions()...)
		for _, k := range harness.Kinds()[1:] {
			fail.Store(false)
			texts := []string{long, long, long, long}
			if got, err := k.Exchange(t.Context(), cc, texts, limit.call); err != nil || len(got) != 1 || len(got[0]) != 4*1000+3 {
				t.Errorf("limit %s, %s: %d texts and %v", name, k.Name, len(got), err)
			}
			fail.Store(true)
			attempts.Store(0)
			if _, err := k.Exchange(t.Context(), cc, texts, limit.call); status.Code(err) != codes.Unavailable || attempts.Load() != 1 {
				t.Errorf("limit %s, %s: %v after %d attempts, want UNAVAILABLE after 1", name, k.Name, err, attempts.Load())
			}
			// What was kept of these is kept no more: there is room for another.
			attempts.Store(0)
			if _, err := k.Exchange(t.Context(), cc, []string{long, "y", "z"}, limit.call); attempts.Load() != 3 {
				t.Errorf("limit %s, %s: %v after %d attempts of a short stream, want 3", name, k.Name, err, attempts.Load())
			}
		}
	}
}

// A method that does not say it may be repeated is not, once its stream is open.
func TestUnsafeStreamIsNotRepeated(t *testing.T) {
	t.Parallel()
	var attempts atomic.Int64
	n := harness.ServeStreams(t, func(harness.Side, grpc.ServerStream) error {
		attempts.Add(1)
		return harness.ErrUnavailable
	})
	unsafe := interceptors.WithPolicy(interceptors.MethodPolicies{"": {Idempotency: interceptors.NotIdempotent}})
	for _, k := range harness.Kinds() {
		attempts.Store(0)
		_, err := k.Exchange(t.Context(), n.Dial(harness.NewClient(t, unsafe).DialOptions()...), []string{"a"})
		if attempts.Load() != 1 || status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %d attempts, %v", k.Name, attempts.Load(), err)
		}
	}
}

// However a stream ends, what it held is given back and its spans have ended:
// by its status, when it is cancelled, out of time, cut, closed or dropped.
func TestStreamLeavesNothingHoweverItEnds(t *testing.T) {
	t.Parallel()
	type end struct {
		name string
		do   func(s harness.Stream, n *harness.Node, cc *grpc.ClientConn, cancel context.CancelFunc)
	}
	ends := []end{
		{"with its status", func(s harness.Stream, _ *harness.Node, _ *grpc.ClientConn, _ context.CancelFunc) {
			_ = s.CloseSend()
			_, _ = s.All()
		}},
		{"cancelled and not looked at", func(_ harness.Stream, _ *harness.Node, _ *grpc.ClientConn, cancel context.CancelFunc) { cancel() }},
		{"out of time", func(harness.Stream, *harness.Node, *grpc.ClientConn, context.CancelFunc) { time.Sleep(2 * time.Minute) }},
		{"cut", func(s harness.Stream, n *harness.Node, _ *grpc.ClientConn, _ context.CancelFunc) {
			n.Cut()
			_, _ = s.All()
		}},
		{"with its connection", func(_ harness.Stream, _ *harness.Node, cc *grpc.ClientConn, _ context.CancelFunc) { _ = cc.Close() }},
	}
	harness.ForKinds(t, func(t *testing.T, k harness.Kind, _ []string) {
		t.Helper()
		for _, end := range ends {
			for _, answered := range []bool{false, true} {
				if answered && !k.Desc.ServerStreams {
					continue
				}
				synctest.Test(t, func(t *testing.T) {
					spans, tracer := harness.Traced()
					hold := func(s harness.Side, _ grpc.ServerStream) error {
						if answered {
							_ = s.Send("answer")
						}
						_, err := s.All()
						if !k.Desc.ClientStreams {
							<-s.Stream.Context().Done()
							return s.Stream.Context().Err()
						}
						return err
					}
					if end.name == "with its status" {
						hold = func(s harness.Side, _ grpc.ServerStream) error {
							if answered {
								_ = s.Send("answer")
							}
							_, err := s.All()
							return err
						}
					}
					n := harness.ServeStreams(t, hold, harness.NewServer(t, tracer).ServerOptions()...)
					b := harness.FixedBudget()
					cc := n.Dial(harness.NewClient(t, tracer, harness.FastRetryUpTo(1), interceptors.WithBudget(b)).DialOptions()...)
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					root, done := budget.NewRoot(ctx, b)
					s, err := k.Open(root, cc)
					if err != nil {
						t.Fatal(err)
					}
					_ = s.Send("a")
					if answered {
						if _, err := s.Recv(); err != nil {
							t.Fatal(err)
						}
					}
					end.do(s, n, cc, cancel)
					synctest.Wait()
					a, _ := budget.FromContext(root)
					if a.Free()+a.Used() != 3 {
						t.Errorf("%s, answered %v: %d tokens free and %d used of 3: some are leased yet", end.name, answered, a.Free(), a.Used())
					}
					client := 0
					for _, span := range spans.Ended() {
						if span.SpanKind().String() != "server" {
							client++
						}
					}
					if client != 2 {
						t.Errorf("%s, answered %v: %d spans have ended, want the call's and the attempt's", end.name, answered, client)
					}
					done(false)
				})
			}
		}
	})
}

// A client that has sent everything and closed its side may let go of the stream: the
// server's work goes on, whatever the garbage collector does, as with gRPC alone.
func TestStreamThatIsGarbageIsNotEnded(t *testing.T) {
	t.Parallel()
	for _, mode := range []interceptors.Mode{interceptors.Enforce, interceptors.Observe} {
		received, proceed, result := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
			_, _ = s.All()
			close(received)
			select {
			case <-proceed:
				result <- nil
			case <-ss.Context().Done():
				result <- ss.Context().Err()
			}
			return nil
		})
		cc := n.Dial(harness.NewClient(t, interceptors.WithMode(mode)).DialOptions()...)
		collected := make(chan struct{})
		func() {
			s, err := harness.Kinds()[1].Open(context.Background(), cc)
			if err != nil {
				t.Fatal(err)
			}
			_ = s.Send("everything")
			_ = s.CloseSend()
			runtime.AddCleanup(&struct{ s harness.Stream }{s}, func(c chan struct{}) { close(c) }, collected)
		}()
		<-received
		for done := false; !done; {
			runtime.GC()
			select {
			case <-collected:
				done = true
			default:
				runtime.Gosched()
			}
		}
		close(proceed)
		if err := <-result; err != nil {
			t.Errorf("%v: the handler was cancelled: %v", mode, err)
		}
	}
}
