package streams_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// An attempt that its timeout ends while nobody receives ends with the call, if
// that is cancelled before anybody looks, and lets go of what was kept.
func TestAttemptThatEndsUnseenEndsWithItsCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := harness.NewLeaks()
		var attempts atomic.Int64
		n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
			if attempts.Add(1) > 1 {
				_, _ = s.All()
				return harness.ErrUnavailable
			}
			<-ss.Context().Done()
			return ss.Context().Err()
		})
		p := interceptors.Policy{AttemptTimeout: time.Second, Retry: &interceptors.RetryPolicy{MaxAttempts: 3, Backoff: interceptors.Backoff{Base: 1, Max: 1}}}
		cc := n.Dial(l.Client(t, harness.Policy(p), interceptors.WithStreamBuffer(3000, 3000))...)
		ctx, cancel := context.WithCancel(t.Context())
		s, err := harness.Kinds()[2].Open(ctx, cc, l.OnFinish())
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Send(strings.Repeat("x", 2500))
		time.Sleep(5 * time.Second)
		cancel()
		synctest.Wait()
		l.CheckNoneLeft(t, 1)
		// There is room for another to be kept.
		attempts.Store(1)
		_, _ = harness.Kinds()[2].Exchange(t.Context(), cc, []string{strings.Repeat("x", 2500)}, l.OnFinish())
		if attempts.Load() != 4 {
			t.Errorf("%d attempts of the next stream, want 3", attempts.Load()-1)
		}
	})
}

// Header comes while another goroutine waits for a message, and in OnFinish.
func TestHeaderComesWhileAnotherReceives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
			_ = ss.SendHeader(metadata.Pairs("x", "1"))
			if _, err := s.Recv(); err != nil {
				return err
			}
			return s.Send("answer")
		})
		cc := n.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var s harness.Stream
		s, err := harness.Kinds()[2].Open(ctx, cc, grpc.OnFinish(func(error) {
			if header, _ := s.Header(); len(header["x"]) != 1 {
				t.Errorf("in OnFinish the header is %v", header)
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan error)
		go func() {
			_, err := s.All()
			got <- err
		}()
		synctest.Wait()
		if header, err := s.Header(); len(header["x"]) != 1 {
			t.Errorf("header %v and %v", header, err)
		}
		_ = s.Send("go")
		if err := <-got; err != nil {
			t.Error(err)
		}
	})
}

// A sender is told that the server has ended the stream, also if it has answered
// and nobody has looked, however little is sent.
func TestSendReturnsEOFOnceTheServerHasEnded(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "x"} {
		synctest.Test(t, func(t *testing.T) {
			n := harness.ServeStreams(t, func(s harness.Side, _ grpc.ServerStream) error {
				_, _ = s.Recv()
				return s.Send("enough")
			})
			s, err := harness.Kinds()[1].Open(t.Context(), n.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Send(text); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if err := s.Send(text); !errors.Is(err, io.EOF) {
				t.Errorf("got %v, want EOF", err)
			}
			if text, err := s.Recv(); text != "enough" || err != nil {
				t.Errorf("received %q and %v", text, err)
			}
		})
	}
}

// Empty messages are not nothing: a stream of them is not kept for ever.
func TestEmptyMessagesAreCountedToo(t *testing.T) {
	t.Parallel()
	var attempts atomic.Int64
	n := harness.ServeStreams(t, func(s harness.Side, _ grpc.ServerStream) error {
		attempts.Add(1)
		for range 300 {
			if _, err := s.Recv(); err != nil {
				return err
			}
		}
		return harness.ErrUnavailable
	})
	cc := n.Dial(harness.NewClient(t, harness.FastRetry(), interceptors.WithStreamBuffer(1000, 1000)).DialOptions()...)
	_, err := harness.Kinds()[1].Exchange(t.Context(), cc, make([]string, 300))
	if status.Code(err) != codes.Unavailable || attempts.Load() != 1 {
		t.Errorf("%v after %d attempts, want one: 300 messages are 1,500 bytes", err, attempts.Load())
	}
}

// The time that an application takes to read a stream is not the way's.
func TestSlowReaderDoesNotRaiseTheMeasuredRoundTrip(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := harness.ServeAll(t, func(context.Context) error { return status.Error(codes.NotFound, "") }, harness.NewServer(t).ServerOptions()...)
		cc := n.Dial(harness.NewClient(t).DialOptions()...)
		for range 3 {
			s, err := harness.Kinds()[0].Open(t.Context(), cc)
			if err != nil {
				t.Fatal(err)
			}
			_ = s.Send("a")
			time.Sleep(8 * time.Second)
			_, _ = s.All()
		}
		for range 20 {
			if err := harness.Within(t, harness.Idempotent(cc), time.Second); status.Code(err) != codes.NotFound {
				t.Fatalf("got %v", err)
			}
		}
	})
}

// What gRPC tells of a stream that has ended is told, also if it failed before
// it answered: header, trailer, peer.
func TestFailedStreamHasHeaderTrailerAndPeer(t *testing.T) {
	t.Parallel()
	harness.ForKinds(t, func(t *testing.T, k harness.Kind, texts []string) {
		t.Helper()
		n := harness.ServeStreams(t, func(_ harness.Side, ss grpc.ServerStream) error {
			_ = ss.SetHeader(metadata.Pairs("h", "1"))
			ss.SetTrailer(metadata.Pairs("t", "1"))
			return status.Error(codes.NotFound, "")
		})
		s, err := k.Open(t.Context(), n.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Send(texts[0])
		_, err = s.Recv()
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
		var n *harness.Node
		n = harness.ServeStreams(t, func(_ harness.Side, ss grpc.ServerStream) error {
			ss.SetTrailer(metadata.Pairs("x", "first"))
			n.Refused.Store(1 << 30)
			return harness.ErrUnavailable
		})
		p := interceptors.Policy{Retry: &interceptors.RetryPolicy{MaxAttempts: 2, Backoff: interceptors.Backoff{Base: time.Second, Jitter: interceptors.NoJitter}}}
		var option metadata.MD
		s, err := harness.Kinds()[2].Open(t.Context(), n.Dial(harness.NewClient(t, harness.Policy(p)).DialOptions()...), grpc.Trailer(&option))
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(500*ms, n.Cut)
		_, err = s.Recv()
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
	fails := func(harness.Side, grpc.ServerStream) error { return harness.ErrUnavailable }
	for name, tc := range map[string]struct {
		hook   func(attempt int64) hooked
		client interceptors.ClientOption
		kind   int
		handle harness.StreamHandler
	}{
		"as the first attempt is opened": {func(int64) hooked { panic("below") }, harness.FastRetry(), 2, fails},
		"as the second is opened": {func(n int64) hooked {
			if n == 2 {
				panic("below")
			}
			return hooked{}
		}, harness.FastRetry(), 2, fails},
		"as a message is sent": {func(int64) hooked { return hooked{send: boom} }, harness.FastRetry(), 2, fails},
		"as messages are sent again": {func(n int64) hooked {
			if n == 2 {
				return hooked{send: boom}
			}
			return hooked{}
		}, harness.FastRetry(), 2, func(s harness.Side, _ grpc.ServerStream) error { _, _ = s.All(); return harness.ErrUnavailable }},
		"in a hedge that has lost": {func(n int64) hooked {
			if n == 1 {
				return hooked{header: boom}
			}
			return hooked{}
		}, harness.Hedging(interceptors.HedgePolicy{Delay: 10 * ms}), 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := harness.NewLeaks()
				handle := tc.handle
				var served atomic.Int64
				if handle == nil {
					handle = func(s harness.Side, ss grpc.ServerStream) error {
						if served.Add(1) == 1 {
							<-ss.Context().Done()
							return ss.Context().Err()
						}
						return harness.ReplyJoined(s, ss)
					}
				}
				n := harness.ServeStreams(t, handle)
				cc := n.Dial(append(l.Client(t, tc.client), below(tc.hook))...)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				func() {
					defer func() {
						if recover() != "below" {
							t.Error("the panic did not come up")
						}
					}()
					_, err := harness.Kinds()[tc.kind].Exchange(ctx, cc, []string{"a"}, l.OnFinish())
					t.Errorf("the call returned: %v", err)
				}()
				cancel()
				synctest.Wait()
				l.CheckNoneLeft(t, 1)
			})
		})
	}
}

// A second response where there can be one fails the call while gRPC's stream goes on, so
// that there is no trailer that could be read.
func TestTrailerOfAStreamThatGoesOnIsNotRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
			_ = s.Send("one")
			_ = s.Send("two")
			<-ss.Context().Done()
			return nil
		})
		var read atomic.Int64
		spy := func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			cs, err := streamer(ctx, desc, cc, method, opts...)
			return trailerSpy{cs, &read}, err
		}
		s, err := harness.Kinds()[1].Open(t.Context(), n.Dial(append(harness.NewClient(t, harness.FastRetry()).DialOptions(), grpc.WithChainStreamInterceptor(spy))...))
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Recv()
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
