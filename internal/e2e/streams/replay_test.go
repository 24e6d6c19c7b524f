package streams_test

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A server may want its responses read before it reads on: what is sent again
// does not wait for that, nor does it keep anybody from reading.
func TestReplayDoesNotBlockReceiving(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const messages, size = 60, 4000 // more than a window, less than is kept
		var attempts atomic.Int64
		n := harness.ServeStreams(t, func(s harness.Side, _ grpc.ServerStream) error {
			if attempts.Add(1) == 1 {
				for range messages {
					if _, err := s.Recv(); err != nil {
						return err
					}
				}
				return harness.ErrUnavailable
			}
			big := strings.Repeat("y", 100_000)
			for range 10 {
				if err := s.Send(big); err != nil {
					return err
				}
			}
			_, err := s.All()
			return err
		}, harness.NewServer(t).ServerOptions()...)
		k := harness.Kinds()[2]
		s, err := k.Open(t.Context(), n.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))
		if err != nil {
			t.Fatal(err)
		}
		var sending sync.WaitGroup
		sending.Go(func() {
			for range messages {
				if err := s.Send(strings.Repeat("x", size)); err != nil {
					t.Error(err)
				}
			}
			_ = s.CloseSend()
		})
		got, err := s.All()
		if err != nil || len(got) != 10 || attempts.Load() != 2 {
			t.Errorf("%d messages and %v after %d attempts, want 10 after 2", len(got), err, attempts.Load())
		}
		sending.Wait()
	})
}

// The attempt's timeout bounds the time until the first response, and not the
// stream.
func TestAttemptTimeoutOfAStreamEndsWithTheFirstResponse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var attempts atomic.Int64
		n := harness.ServeStreams(t, func(s harness.Side, _ grpc.ServerStream) error {
			if attempts.Add(1) == 1 {
				<-s.Stream.Context().Done()
				return s.Stream.Context().Err()
			}
			for i := range 3 {
				if err := s.Send(strconv.Itoa(i)); err != nil {
					return err
				}
				time.Sleep(time.Minute)
			}
			return nil
		}, harness.NewServer(t).ServerOptions()...)
		p := interceptors.Policy{AttemptTimeout: time.Second, Retry: &interceptors.RetryPolicy{Backoff: interceptors.Backoff{Base: ms, Max: ms}}}
		got, err := harness.Kinds()[0].Exchange(t.Context(), n.Dial(harness.NewClient(t, harness.Policy(p)).DialOptions()...), []string{"a"})
		if err != nil || len(got) != 3 || attempts.Load() != 2 {
			t.Errorf("%q and %v after %d attempts", got, err, attempts.Load())
		}
		hang := harness.ServeStreams(t, func(s harness.Side, _ grpc.ServerStream) error {
			<-s.Stream.Context().Done()
			return s.Stream.Context().Err()
		}, harness.NewServer(t).ServerOptions()...)
		p.Retry.MaxAttempts = 1 // the last attempt has its timeout too
		_, err = harness.Kinds()[0].Exchange(t.Context(), hang.Dial(harness.NewClient(t, harness.Policy(p)).DialOptions()...), []string{"a"})
		if status.Code(err) != codes.DeadlineExceeded || harness.Reason(err) != interceptors.ReasonDeadlineExpired {
			t.Errorf("got %v, want that the attempt's timeout has ended it", err)
		}
	})
}

// Down a chain of streams a failure is repeated once, next to it.
func TestFailureOfAStreamIsRepeatedByTheNearestHop(t *testing.T) {
	t.Parallel()
	harness.ForKinds(t, func(t *testing.T, k harness.Kind, texts []string) {
		t.Helper()
		var calls atomic.Int64
		n := harness.ServeStreams(t, func(harness.Side, grpc.ServerStream) error {
			calls.Add(1)
			return harness.ErrUnavailable
		}, harness.NewServer(t).ServerOptions()...)
		for range 4 {
			cc := n.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...)
			n = harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
				sent, err := s.Requests()
				if err != nil {
					return err
				}
				got, err := k.Exchange(ss.Context(), cc, sent)
				for _, text := range got {
					_ = s.Send(text)
				}
				return err
			}, harness.NewServer(t).ServerOptions()...)
		}
		cc := n.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...)
		if _, err := k.Exchange(t.Context(), cc, texts); status.Code(err) != codes.Unavailable {
			t.Errorf("got %v", err)
		}
		if calls.Load() != 3 {
			t.Errorf("%d calls of the leaf, want 3", calls.Load())
		}
	})
}

// Header, Trailer, Peer and OnFinish work as if there had been one attempt.
func TestCallOptionsOfAStreamSeeTheLastAttempt(t *testing.T) {
	t.Parallel()
	harness.ForKinds(t, func(t *testing.T, k harness.Kind, texts []string) {
		t.Helper()
		var attempts atomic.Int64
		n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
			attempt := strconv.FormatInt(attempts.Add(1), 10)
			ss.SetTrailer(metadata.Pairs("x-trailer", attempt))
			if attempt != "3" {
				return harness.ErrUnavailable
			}
			_ = ss.SetHeader(metadata.Pairs("x-header", attempt))
			return harness.ReplyJoined(s, ss)
		}, harness.NewServer(t).ServerOptions()...)
		var header, trailer metadata.MD
		var finished []error
		_, err := k.Exchange(t.Context(), n.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...), texts,
			grpc.Header(&header), grpc.Trailer(&trailer), grpc.OnFinish(func(err error) { finished = append(finished, err) }))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(header["x-header"], []string{"3"}) || !slices.Equal(trailer["x-trailer"], []string{"3"}) {
			t.Errorf("header %v, trailer %v; want those of the third attempt", header, trailer)
		}
		if len(finished) != 1 || finished[0] != nil {
			t.Errorf("OnFinish was told %v, want one success", finished)
		}
	})
}

// The trace of a stream: an attempt's span lasts as long as the stream, and
// counts its messages.
func TestTraceOfAStream(t *testing.T) {
	t.Parallel()
	recorder, tracer := harness.Traced()
	var attempts atomic.Int64
	n := harness.ServeStreams(t, func(s harness.Side, _ grpc.ServerStream) error {
		_, _ = s.Recv()
		if attempts.Add(1) == 1 {
			_, _ = s.Recv() // so that all has been sent
			return harness.ErrUnavailable
		}
		for _, text := range []string{"1", "2"} {
			_ = s.Send(text)
		}
		_, _ = s.All()
		return harness.ErrUnavailable
	}, harness.NewServer(t).ServerOptions()...)
	_, err := harness.Kinds()[2].Exchange(t.Context(), n.Dial(harness.NewClient(t, tracer, harness.Policy(interceptors.Policy{Retry: &interceptors.RetryPolicy{Backoff: interceptors.Backoff{Base: 1, Max: 1}}})).DialOptions()...), []string{"a", "b"})
	if status.Code(err) != codes.Unavailable {
		t.Fatal(err)
	}
	harness.Compare(t, harness.Tree(recorder.Ended()), `
hopbound.call Chat [internal] Error {attempts=2 decision=not_retryable reason=committed rpc.response.status_code=UNAVAILABLE}
  * hopbound.backoff {backoff_ms=0 reason=backoff rpc.response.status_code=UNAVAILABLE}
  Chat [client] Error {attempt=1 budget.leased=5 budget.used=0 decision=retried messages.received=0 messages.sent=2 rpc.response.status_code=UNAVAILABLE}
  Chat [client] Error {attempt=2 budget.leased=5 budget.used=0 committed=message decision=not_retryable messages.received=2 messages.sent=2 reason=committed rpc.response.status_code=UNAVAILABLE}
`)
}
