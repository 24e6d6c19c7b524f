package interceptors_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// ledger sees what calls hold, and whether they give it back.
type ledger struct {
	spans    open
	finished atomic.Int64
	budget   *budget.Budget
}

func newLedger() *ledger {
	return &ledger{budget: budget.New(budget.Ratio(0), budget.MinPerSecond(0))}
}

func (l *ledger) client(t testing.TB, opts ...interceptors.ClientOption) []grpc.DialOption {
	t.Helper()
	tracer := interceptors.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(&l.spans)))
	return newClient(t, append(opts, tracer, interceptors.WithBudget(l.budget))...).DialOptions()
}

func (l *ledger) onFinish() grpc.CallOption {
	return grpc.OnFinish(func(error) { l.finished.Add(1) })
}

// settled checks that so many calls are over, with all their spans.
func (l *ledger) settled(t *testing.T, calls int64) {
	t.Helper()
	if started, ended := l.spans.started.Load(), l.spans.ended.Load(); l.finished.Load() != calls || started != ended {
		t.Errorf("%d calls have finished of %d, and %d spans of %d", l.finished.Load(), calls, ended, started)
	}
}

// An attempt that its timeout ends while nobody receives ends with the call, if
// that is cancelled before anybody looks, and lets go of what was kept.
func TestAttemptThatEndsUnseenEndsWithItsCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		var attempts atomic.Int64
		n := serveStreams(t, func(s side, ss grpc.ServerStream) error {
			if attempts.Add(1) > 1 {
				_, _ = s.all()
				return errUnavailable
			}
			<-ss.Context().Done()
			return ss.Context().Err()
		})
		p := interceptors.Policy{AttemptTimeout: time.Second, Retry: &interceptors.RetryPolicy{MaxAttempts: 3, Backoff: interceptors.Backoff{Base: 1, Max: 1}}}
		cc := n.dial(l.client(t, policy(p), interceptors.WithStreamBuffer(3000, 3000))...)
		ctx, cancel := context.WithCancel(t.Context())
		s, err := kinds()[2].open(ctx, cc, l.onFinish())
		if err != nil {
			t.Fatal(err)
		}
		_ = s.send(strings.Repeat("x", 2500))
		time.Sleep(5 * time.Second)
		cancel()
		synctest.Wait()
		l.settled(t, 1)
		// There is room for another to be kept.
		attempts.Store(1)
		_, _ = kinds()[2].exchange(t.Context(), cc, []string{strings.Repeat("x", 2500)}, l.onFinish())
		if attempts.Load() != 4 {
			t.Errorf("%d attempts of the next stream, want 3", attempts.Load()-1)
		}
	})
}

// Header comes while another goroutine waits for a message, and in OnFinish.
func TestHeaderComesWhileAnotherReceives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := serveStreams(t, func(s side, ss grpc.ServerStream) error {
			_ = ss.SendHeader(metadata.Pairs("x", "1"))
			if _, err := s.recv(); err != nil {
				return err
			}
			return s.send("answer")
		})
		cc := n.dial(newClient(t, quick()).DialOptions()...)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var s stream
		s, err := kinds()[2].open(ctx, cc, grpc.OnFinish(func(error) {
			if header, _ := s.Header(); len(header["x"]) != 1 {
				t.Errorf("in OnFinish the header is %v", header)
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan error)
		go func() {
			_, err := s.all()
			got <- err
		}()
		synctest.Wait()
		if header, err := s.Header(); len(header["x"]) != 1 {
			t.Errorf("header %v and %v", header, err)
		}
		_ = s.send("go")
		if err := <-got; err != nil {
			t.Error(err)
		}
	})
}

// A sender is told that the server has ended the stream, also if it has answered
// and nobody has looked, however little is sent.
func TestSenderIsToldThatTheServerHasEnded(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "x"} {
		synctest.Test(t, func(t *testing.T) {
			n := serveStreams(t, func(s side, _ grpc.ServerStream) error {
				_, _ = s.recv()
				return s.send("enough")
			})
			s, err := kinds()[1].open(t.Context(), n.dial(newClient(t, quick()).DialOptions()...))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.send(text); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if err := s.send(text); !errors.Is(err, io.EOF) {
				t.Errorf("got %v, want EOF", err)
			}
			if text, err := s.recv(); text != "enough" || err != nil {
				t.Errorf("received %q and %v", text, err)
			}
		})
	}
}

// Empty messages are not nothing: a stream of them is not kept for ever.
func TestEmptyMessagesAreCountedToo(t *testing.T) {
	t.Parallel()
	var attempts atomic.Int64
	n := serveStreams(t, func(s side, _ grpc.ServerStream) error {
		attempts.Add(1)
		for range 300 {
			if _, err := s.recv(); err != nil {
				return err
			}
		}
		return errUnavailable
	})
	cc := n.dial(newClient(t, quick(), interceptors.WithStreamBuffer(1000, 1000)).DialOptions()...)
	_, err := kinds()[1].exchange(t.Context(), cc, make([]string, 300))
	if status.Code(err) != codes.Unavailable || attempts.Load() != 1 {
		t.Errorf("%v after %d attempts, want one: 300 messages are 1,500 bytes", err, attempts.Load())
	}
}

// The time that an application takes to read a stream is not the way's.
func TestSlowReaderTeachesNothingOfTheWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := serveAll(t, func(context.Context) error { return status.Error(codes.NotFound, "") }, newServer(t).ServerOptions()...)
		cc := n.dial(newClient(t).DialOptions()...)
		for range 3 {
			s, err := kinds()[0].open(t.Context(), cc)
			if err != nil {
				t.Fatal(err)
			}
			_ = s.send("a")
			time.Sleep(8 * time.Second)
			_, _ = s.all()
		}
		for range 20 {
			if err := within(t, idempotent(cc), time.Second); status.Code(err) != codes.NotFound {
				t.Fatalf("got %v", err)
			}
		}
	})
}

// What gRPC tells of a stream that has ended is told, also if it failed before
// it answered: header, trailer, peer.
func TestStreamThatHasFailedTellsWhatItWas(t *testing.T) {
	t.Parallel()
	forKinds(t, func(t *testing.T, k kind, texts []string) {
		t.Helper()
		n := serveStreams(t, func(_ side, ss grpc.ServerStream) error {
			_ = ss.SetHeader(metadata.Pairs("h", "1"))
			ss.SetTrailer(metadata.Pairs("t", "1"))
			return status.Error(codes.NotFound, "")
		})
		s, err := k.open(t.Context(), n.dial(newClient(t, quick()).DialOptions()...))
		if err != nil {
			t.Fatal(err)
		}
		_ = s.send(texts[0])
		_, err = s.recv()
		header, _ := s.Header()
		_, known := peer.FromContext(s.Context())
		if status.Code(err) != codes.NotFound || len(header["h"]) != 1 || len(s.Trailer()["t"]) != 1 || !known {
			t.Errorf("%v, header %v, trailer %v, peer known %v", err, header, s.Trailer(), known)
		}
	})
}

// A stream whose last attempt found no server has no trailer, rather than that
// of the attempt before.
func TestTrailerIsNotThatOfAnEarlierAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var n *node
		n = serveStreams(t, func(_ side, ss grpc.ServerStream) error {
			ss.SetTrailer(metadata.Pairs("x", "first"))
			n.refused.Store(1 << 30)
			return errUnavailable
		})
		p := interceptors.Policy{Retry: &interceptors.RetryPolicy{MaxAttempts: 2, Backoff: interceptors.Backoff{Base: time.Second, Jitter: interceptors.NoJitter}}}
		var option metadata.MD
		s, err := kinds()[2].open(t.Context(), n.dial(newClient(t, policy(p)).DialOptions()...), grpc.Trailer(&option))
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(500*ms, n.cut)
		_, err = s.recv()
		if status.Code(err) != codes.Unavailable || len(s.Trailer()) != 0 || len(option) != 0 {
			t.Errorf("%v, trailer %v, option %v", err, s.Trailer(), option)
		}
	})
}

// hooked is a stream of an interceptor after Hopbound's that does something more.
type hooked struct {
	grpc.ClientStream
	send, header func()
}

func (h hooked) SendMsg(m any) error {
	if h.send != nil {
		h.send()
	}
	return h.ClientStream.SendMsg(m)
}

func (h hooked) Header() (metadata.MD, error) {
	header, err := h.ClientStream.Header()
	if h.header != nil {
		h.header()
	}
	return header, err
}

// below is an interceptor after Hopbound's, which makes what it does of the
// number of the attempt.
func below(hook func(attempt int64) hooked) grpc.DialOption {
	var attempts atomic.Int64
	return grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		h := hook(attempts.Add(1))
		cs, err := streamer(ctx, desc, cc, method, opts...)
		if err != nil {
			return nil, err
		}
		h.ClientStream = cs
		return h, nil
	})
}

// A panic of something below goes on in the application, and leaves nothing,
// wherever it strikes: in a recovered goroutine, the call is over.
func TestPanicBelowAStreamLeavesNothing(t *testing.T) {
	t.Parallel()
	boom := func() { panic("below") }
	fails := func(side, grpc.ServerStream) error { return errUnavailable }
	for name, tc := range map[string]struct {
		hook   func(attempt int64) hooked
		client interceptors.ClientOption
		kind   int
		handle streamHandler
	}{
		"as the first attempt is opened": {func(int64) hooked { panic("below") }, quick(), 2, fails},
		"as the second is opened": {func(n int64) hooked {
			if n == 2 {
				panic("below")
			}
			return hooked{}
		}, quick(), 2, fails},
		"as a message is sent": {func(int64) hooked { return hooked{send: boom} }, quick(), 2, fails},
		"as messages are sent again": {func(n int64) hooked {
			if n == 2 {
				return hooked{send: boom}
			}
			return hooked{}
		}, quick(), 2, func(s side, _ grpc.ServerStream) error { _, _ = s.all(); return errUnavailable }},
		"in a hedge that has lost": {func(n int64) hooked {
			if n == 1 {
				return hooked{header: boom}
			}
			return hooked{}
		}, hedging(interceptors.HedgePolicy{Delay: 10 * ms}), 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newLedger()
				handle := tc.handle
				var served atomic.Int64
				if handle == nil {
					handle = func(s side, ss grpc.ServerStream) error {
						if served.Add(1) == 1 {
							<-ss.Context().Done()
							return ss.Context().Err()
						}
						return joined(s, ss)
					}
				}
				n := serveStreams(t, handle)
				cc := n.dial(append(l.client(t, tc.client), below(tc.hook))...)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				func() {
					defer func() {
						if recover() != "below" {
							t.Error("the panic did not come up")
						}
					}()
					_, err := kinds()[tc.kind].exchange(ctx, cc, []string{"a"}, l.onFinish())
					t.Errorf("the call returned: %v", err)
				}()
				cancel()
				synctest.Wait()
				l.settled(t, 1)
			})
		})
	}
}

// A second response where there can be one fails the call while gRPC's stream goes on, so
// that there is no trailer that could be read.
func TestTrailerOfAStreamThatGoesOnIsNotRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := serveStreams(t, func(s side, ss grpc.ServerStream) error {
			_ = s.send("one")
			_ = s.send("two")
			<-ss.Context().Done()
			return nil
		})
		var read atomic.Int64
		spy := func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			cs, err := streamer(ctx, desc, cc, method, opts...)
			return trailerSpy{cs, &read}, err
		}
		s, err := kinds()[1].open(t.Context(), n.dial(append(newClient(t, quick()).DialOptions(), grpc.WithChainStreamInterceptor(spy))...))
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.recv()
		if trailer := s.Trailer(); status.Code(err) != codes.Internal || len(trailer) != 0 || read.Load() != 0 {
			t.Errorf("%v, trailer %v, read %d times", err, trailer, read.Load())
		}
	})
}

// trailerSpy is a stream that counts how often its trailer is read.
type trailerSpy struct {
	grpc.ClientStream
	read *atomic.Int64
}

func (s trailerSpy) Trailer() metadata.MD {
	s.read.Add(1)
	return s.ClientStream.Trailer()
}
