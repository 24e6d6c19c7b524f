package servers_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A stream without a deadline gets the server's default, and a handler that
// waits for a message is let go when it has passed.
func TestStreamWithoutADeadlineGetsTheDefault(t *testing.T) {
	t.Parallel()
	harness.ForKinds(t, func(t *testing.T, k harness.Kind, _ []string) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			left := make(chan time.Duration, 1)
			n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
				d, _ := deadline.Remaining(ss.Context())
				left <- d
				if !k.Desc.ClientStreams {
					<-ss.Context().Done()
					return ss.Context().Err()
				}
				_, err := s.All()
				return err
			}, harness.NewServer(t, interceptors.WithDefaultDeadline(time.Minute)).ServerOptions()...)
			s, err := k.Open(t.Context(), n.Dial())
			if err != nil {
				t.Fatal(err)
			}
			_ = s.Send("a")
			began := time.Now()
			_, err = s.Recv()
			if <-left != time.Minute || status.Code(err) != codes.DeadlineExceeded || time.Since(began) != time.Minute {
				t.Errorf("%v after %v, want DEADLINE_EXCEEDED after a minute", err, time.Since(began))
			}
		})
	})
}

// A stream on which nothing goes either way ends; one that is used now and then
// does not.
func TestIdleStreamEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := harness.ServeStreams(t, func(s harness.Side, _ grpc.ServerStream) error {
			for {
				text, err := s.Recv()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return errors.New("what the handler makes of it")
				}
				if err := s.Send(text); err != nil {
					return err
				}
			}
		}, harness.NewServer(t, interceptors.WithStreamIdleLimit(time.Minute)).ServerOptions()...)
		s, err := harness.Kinds()[2].Open(t.Context(), n.Dial())
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			time.Sleep(50 * time.Second)
			if err := s.Send("still here"); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		_, err = s.Recv()
		if harness.Reason(err) != interceptors.ReasonStreamIdle || time.Since(began) != time.Minute {
			t.Errorf("%v after %v, want STREAM_IDLE after a minute", err, time.Since(began))
		}
	})
}

// A stream whose client does not read ends, rather than to hold its handler.
func TestStreamThatTheClientDoesNotReadEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan time.Time, 1)
		n := harness.ServeStreams(t, func(s harness.Side, _ grpc.ServerStream) error {
			big := strings.Repeat("x", 20_000)
			for {
				if err := s.Send(big); err != nil {
					ended <- time.Now()
					return err
				}
			}
		}, harness.NewServer(t, interceptors.WithStreamSendTimeout(10*time.Second)).ServerOptions()...)
		s, err := harness.Kinds()[2].Open(t.Context(), n.Dial())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if took := (<-ended).Sub(began); took != 10*time.Second {
			t.Errorf("the handler was held for %v, want 10s", took)
		}
		if _, err := s.All(); harness.Reason(err) != interceptors.ReasonSendTimeout {
			t.Errorf("got %v, want SEND_TIMEOUT", err)
		}
	})
}

// The client obeys what a server under load says, within its deadline.
func TestOverloadedServerIsObeyed(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err   func(ctx context.Context) error
		calls int64
		took  time.Duration
		code  codes.Code
	}{
		"come back in 300 ms": {func(ctx context.Context) error { return interceptors.Overloaded(ctx, codes.Unavailable, 300*ms) }, 2, 300 * ms, codes.OK},
		"exhausted, 300 ms":   {func(ctx context.Context) error { return interceptors.Overloaded(ctx, codes.ResourceExhausted, 300*ms) }, 2, 300 * ms, codes.OK},
		"rounded up": {func(ctx context.Context) error {
			return interceptors.Overloaded(ctx, codes.Unavailable, time.Microsecond)
		}, 2, ms, codes.OK},
		"at once":           {func(ctx context.Context) error { return interceptors.Overloaded(ctx, codes.Unavailable, -1) }, 2, 0, codes.OK},
		"past the deadline": {func(ctx context.Context) error { return interceptors.Overloaded(ctx, codes.Unavailable, time.Hour) }, 1, 0, codes.Unavailable},
		"another code":      {func(ctx context.Context) error { return interceptors.Overloaded(ctx, codes.OK, 0) }, 2, 0, codes.OK},
		"do not retry":      {func(ctx context.Context) error { return interceptors.DoNotRetry(ctx, harness.ErrUnavailable) }, 1, 0, codes.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				leaf := &harness.Counter{}
				n := harness.Serve(t, func(ctx context.Context) error {
					if leaf.Calls.Add(1) == 1 {
						return tc.err(ctx)
					}
					return nil
				}, harness.NewServer(t).ServerOptions()...)
				client := harness.NewClient(t, harness.Policy(interceptors.Policy{Retry: &interceptors.RetryPolicy{Codes: []codes.Code{codes.Unavailable, codes.ResourceExhausted}}}))
				began := time.Now()
				err := harness.Within(t, harness.Idempotent(n.Dial(client.DialOptions()...)), time.Minute)
				if status.Code(err) != tc.code || leaf.Calls.Load() != tc.calls || time.Since(began) != tc.took {
					t.Errorf("%v after %d calls and %v, want %v after %d and %v", err, leaf.Calls.Load(), time.Since(began), tc.code, tc.calls, tc.took)
				}
			})
		})
	}
	if err := interceptors.DoNotRetry(t.Context(), nil); err != nil {
		t.Errorf("DoNotRetry(nil) = %v", err)
	}
}

// Native callers obey it as well, and the status tells those who do not.
func TestOverloadedServerTellsOthersToo(t *testing.T) {
	t.Parallel()
	var trailer metadata.MD
	n := harness.Serve(t, func(ctx context.Context) error {
		return interceptors.Overloaded(ctx, codes.ResourceExhausted, 1500*time.Microsecond)
	})
	err := harness.Idempotent(n.Dial())(t.Context(), grpc.Trailer(&trailer))
	if got := trailer["grpc-retry-pushback-ms"]; len(got) != 1 || got[0] != "2" {
		t.Errorf("pushback %q, want 2", got)
	}
	if harness.Reason(err) != interceptors.ReasonOverloaded || harness.RetryDelay(err) != 2*ms {
		t.Errorf("status %v with a delay of %v, want 2 ms", err, harness.RetryDelay(err))
	}
}

func sendUntilItFails(s harness.Side) {
	for s.Send(strings.Repeat("x", 20_000)) == nil {
		continue
	}
}

// A stream that a limit cut short is no success, whatever its handler makes of
// it.
func TestStreamCutShortIsNoSuccess(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		opt    interceptors.ServerOption
		reason string
	}{
		"idle":     {interceptors.WithStreamIdleLimit(time.Minute), interceptors.ReasonStreamIdle},
		"not read": {interceptors.WithStreamSendTimeout(time.Minute), interceptors.ReasonSendTimeout},
		"late":     {interceptors.WithDefaultDeadline(time.Minute), interceptors.ReasonDeadlineExpired},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := harness.ServeStreams(t, func(s harness.Side, _ grpc.ServerStream) error {
					if name != "idle" {
						sendUntilItFails(s)
					}
					_, _ = s.Recv()
					return nil
				}, harness.NewServer(t, tc.opt).ServerOptions()...)
				s, err := harness.Kinds()[2].Open(t.Context(), n.Dial())
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour)
				if _, err := s.All(); harness.Reason(err) != tc.reason {
					t.Errorf("got %v, want %s", err, tc.reason)
				}
			})
		})
	}
}

// bomb is a message that cannot be marshalled.
type bomb struct{}

func (bomb) ProtoReflect() protoreflect.Message { panic("a bomb") }

// A panic in a stream with limits can be recovered from, as one without can.
func TestPanicInALimitedStreamCanBeRecovered(t *testing.T) {
	t.Parallel()
	recovered := grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) (err error) {
		defer func() {
			if v := recover(); v != nil {
				err = status.Errorf(codes.Internal, "recovered: %v", v)
			}
		}()
		return h(srv, ss)
	})
	n := harness.ServeStreams(t, func(_ harness.Side, ss grpc.ServerStream) error { return ss.SendMsg(bomb{}) },
		append([]grpc.ServerOption{recovered}, harness.NewServer(t, interceptors.WithStreamIdleLimit(time.Hour)).ServerOptions()...)...)
	_, err := harness.Kinds()[2].Exchange(t.Context(), n.Dial(), []string{"a"})
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "a bomb") {
		t.Errorf("got %v", err)
	}
}
