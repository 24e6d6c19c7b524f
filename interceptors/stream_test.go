package interceptors_test

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
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// joined answers with all that it was sent.
func joined(s side, _ grpc.ServerStream) error {
	texts, err := s.requests()
	if err != nil {
		return err
	}
	return s.send(strings.Join(texts, " "))
}

// forKinds runs a test for each kind of stream, with texts to send on one.
func forKinds(t *testing.T, run func(t *testing.T, k kind, texts []string)) {
	t.Helper()
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			texts := []string{"a", "b", "c"}
			if !k.desc.ClientStreams {
				texts = texts[:1]
			}
			run(t, k, texts)
		})
	}
}

// A stream that fails before it has answered is made again, with all that was
// sent on it, wherever it fails.
func TestStreamIsRepeatedUntilItAnswers(t *testing.T) {
	t.Parallel()
	forKinds(t, func(t *testing.T, k kind, texts []string) {
		t.Helper()
		for read := range len(texts) + 1 {
			var attempts atomic.Int64
			n := serveStreams(t, func(s side, ss grpc.ServerStream) error {
				if attempts.Add(1) < 3 {
					for range read {
						if _, err := s.recv(); err != nil {
							return err
						}
					}
					return errUnavailable
				}
				return joined(s, ss)
			}, newServer(t).ServerOptions()...)
			b := fixedBudget()
			got, err := k.exchange(t.Context(), n.dial(newClient(t, quick(), interceptors.WithBudget(b)).DialOptions()...), texts)
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
	forKinds(t, func(t *testing.T, k kind, texts []string) {
		t.Helper()
		for name, look := range map[string]func(s stream) error{
			"message": func(s stream) error { _, err := s.recv(); return err },
			"header":  func(s stream) error { _, err := s.Header(); return err },
		} {
			if name == "message" && !k.desc.ServerStreams {
				continue // its message comes with the end
			}
			var attempts atomic.Int64
			n := serveStreams(t, func(s side, ss grpc.ServerStream) error {
				attempts.Add(1)
				if err := ss.SendHeader(metadata.Pairs("x", "1")); err != nil {
					return err
				}
				if k.desc.ServerStreams {
					if err := s.send("one"); err != nil {
						return err
					}
				}
				_, _ = s.requests()
				return errUnavailable
			}, newServer(t).ServerOptions()...)
			b := fixedBudget()
			before := balance(b)
			s, err := k.open(t.Context(), n.dial(newClient(t, quick(), interceptors.WithBudget(b)).DialOptions()...))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.send(texts[0]); err != nil {
				t.Fatal(err)
			}
			if err := look(s); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			_ = s.CloseSend()
			rest, err := s.all()
			if status.Code(err) != codes.Unavailable || len(rest) > 1 || attempts.Load() != 1 {
				t.Errorf("%s: then %q and %v after %d attempts, want UNAVAILABLE after 1", name, rest, err, attempts.Load())
			}
			if got := balance(b); got != before {
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
		n := serveStreams(t, func(s side, ss grpc.ServerStream) error {
			attempts.Add(1)
			if fail.Load() {
				for range 3 {
					if _, err := s.recv(); err != nil {
						return err
					}
				}
				return errUnavailable
			}
			return joined(s, ss)
		}, newServer(t).ServerOptions()...)
		cc := n.dial(newClient(t, quick(), limit.client, interceptors.WithBudget(fixedBudget(budget.Burst(100)))).DialOptions()...)
		for _, k := range kinds()[1:] {
			fail.Store(false)
			texts := []string{long, long, long, long}
			if got, err := k.exchange(t.Context(), cc, texts, limit.call); err != nil || len(got) != 1 || len(got[0]) != 4*1000+3 {
				t.Errorf("limit %s, %s: %d texts and %v", name, k.name, len(got), err)
			}
			fail.Store(true)
			attempts.Store(0)
			if _, err := k.exchange(t.Context(), cc, texts, limit.call); status.Code(err) != codes.Unavailable || attempts.Load() != 1 {
				t.Errorf("limit %s, %s: %v after %d attempts, want UNAVAILABLE after 1", name, k.name, err, attempts.Load())
			}
			// What was kept of these is kept no more: there is room for another.
			attempts.Store(0)
			if _, err := k.exchange(t.Context(), cc, []string{long, "y", "z"}, limit.call); attempts.Load() != 3 {
				t.Errorf("limit %s, %s: %v after %d attempts of a short stream, want 3", name, k.name, err, attempts.Load())
			}
		}
	}
}

// A method that does not say it may be repeated is not, once its stream is open.
func TestUnsafeStreamIsNotRepeated(t *testing.T) {
	t.Parallel()
	var attempts atomic.Int64
	n := serveStreams(t, func(side, grpc.ServerStream) error {
		attempts.Add(1)
		return errUnavailable
	})
	unsafe := interceptors.WithPolicy(interceptors.MethodPolicies{"": {Idempotency: interceptors.NotIdempotent}})
	for _, k := range kinds() {
		attempts.Store(0)
		_, err := k.exchange(t.Context(), n.dial(newClient(t, unsafe).DialOptions()...), []string{"a"})
		if attempts.Load() != 1 || status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %d attempts, %v", k.name, attempts.Load(), err)
		}
	}
}

// However a stream ends, what it held is given back and its spans have ended:
// by its status, when it is cancelled, out of time, cut, closed or dropped.
func TestStreamLeavesNothingHoweverItEnds(t *testing.T) {
	t.Parallel()
	type end struct {
		name string
		do   func(s stream, n *node, cc *grpc.ClientConn, cancel context.CancelFunc)
	}
	ends := []end{
		{"with its status", func(s stream, _ *node, _ *grpc.ClientConn, _ context.CancelFunc) {
			_ = s.CloseSend()
			_, _ = s.all()
		}},
		{"cancelled and not looked at", func(_ stream, _ *node, _ *grpc.ClientConn, cancel context.CancelFunc) { cancel() }},
		{"out of time", func(stream, *node, *grpc.ClientConn, context.CancelFunc) { time.Sleep(2 * time.Minute) }},
		{"cut", func(s stream, n *node, _ *grpc.ClientConn, _ context.CancelFunc) {
			n.cut()
			_, _ = s.all()
		}},
		{"with its connection", func(_ stream, _ *node, cc *grpc.ClientConn, _ context.CancelFunc) { _ = cc.Close() }},
	}
	forKinds(t, func(t *testing.T, k kind, _ []string) {
		t.Helper()
		for _, end := range ends {
			for _, answered := range []bool{false, true} {
				if answered && !k.desc.ServerStreams {
					continue
				}
				synctest.Test(t, func(t *testing.T) {
					spans, tracer := traced()
					hold := func(s side, _ grpc.ServerStream) error {
						if answered {
							_ = s.send("answer")
						}
						_, err := s.all()
						if !k.desc.ClientStreams {
							<-s.grpcStream.Context().Done()
							return s.grpcStream.Context().Err()
						}
						return err
					}
					if end.name == "with its status" {
						hold = func(s side, _ grpc.ServerStream) error {
							if answered {
								_ = s.send("answer")
							}
							_, err := s.all()
							return err
						}
					}
					n := serveStreams(t, hold, newServer(t, tracer).ServerOptions()...)
					b := fixedBudget()
					cc := n.dial(newClient(t, tracer, quickly(1), interceptors.WithBudget(b)).DialOptions()...)
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					root, done := budget.NewRoot(ctx, b)
					s, err := k.open(root, cc)
					if err != nil {
						t.Fatal(err)
					}
					_ = s.send("a")
					if answered {
						if _, err := s.recv(); err != nil {
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
func TestStreamThatIsLetGoIsNotEnded(t *testing.T) {
	t.Parallel()
	for _, mode := range []interceptors.Mode{interceptors.Enforce, interceptors.Observe} {
		received, proceed, result := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		n := serveStreams(t, func(s side, ss grpc.ServerStream) error {
			_, _ = s.all()
			close(received)
			select {
			case <-proceed:
				result <- nil
			case <-ss.Context().Done():
				result <- ss.Context().Err()
			}
			return nil
		})
		cc := n.dial(newClient(t, interceptors.WithMode(mode)).DialOptions()...)
		collected := make(chan struct{})
		func() {
			s, err := kinds()[1].open(context.Background(), cc)
			if err != nil {
				t.Fatal(err)
			}
			_ = s.send("everything")
			_ = s.CloseSend()
			runtime.AddCleanup(&struct{ s stream }{s}, func(c chan struct{}) { close(c) }, collected)
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
