package servers_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// chat is a stream in both directions.
func chat() harness.Kind { return harness.Kinds()[2] }

// quietStream is a server's side of a stream that costs nothing by itself.
type quietStream struct{ ctx context.Context }

func (quietStream) SetHeader(metadata.MD) error  { return nil }
func (quietStream) SendHeader(metadata.MD) error { return nil }
func (quietStream) SetTrailer(metadata.MD)       {}
func (s quietStream) Context() context.Context   { return s.ctx }
func (quietStream) SendMsg(any) error            { return nil }
func (quietStream) RecvMsg(any) error            { return nil }

var everyLimit = []interceptors.ServerOption{
	interceptors.WithDefaultDeadline(time.Hour), interceptors.WithStreamIdleLimit(time.Hour), interceptors.WithStreamSendTimeout(time.Hour),
}

func TestLimitsOfAStreamAllocateNothingForAMessage(t *testing.T) { //nolint:paralleltest // it counts all allocations of the process
	server := harness.NewServer(t, everyLimit...)
	info := &grpc.StreamServerInfo{FullMethod: chat().Method(), IsClientStream: true, IsServerStream: true}
	err := server.StreamInterceptor()(t, quietStream{t.Context()}, info, func(_ any, ss grpc.ServerStream) error {
		m := chat().Request("text")
		if got := testing.AllocsPerRun(100, func() {
			_ = ss.RecvMsg(m)
			_ = ss.SendMsg(m)
		}); got != 0 {
			t.Errorf("%v allocations for two messages", got)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// The client gets the status when the limit is reached, however long the handler goes
// on, and with it the report.
func TestClientOfAStreamThatIsCutIsNotifiedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		returned := make(chan error, 1)
		n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
			_, _ = s.Recv()
			time.Sleep(time.Hour)
			returned <- errors.Join(context.Cause(ss.Context()), s.Send("late"))
			return nil
		}, harness.NewServer(t, interceptors.WithStreamIdleLimit(time.Minute)).ServerOptions()...)
		s, err := chat().Open(t.Context(), n.Dial())
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Send("a")
		began := time.Now()
		_, err = s.Recv()
		if harness.Reason(err) != interceptors.ReasonStreamIdle || time.Since(began) != time.Minute {
			t.Errorf("%v after %v, want STREAM_IDLE after a minute", err, time.Since(began))
		}
		if reports := s.Trailer()[wire.ReportKey]; len(reports) != 1 || !strings.HasPrefix(reports[0], "1;u=0;e=60000000") {
			t.Errorf("reports %q, want one, of a minute", reports)
		}
		if err := <-returned; strings.Count(err.Error(), "STREAM_IDLE")+strings.Count(err.Error(), "no message was sent") != 2 {
			t.Errorf("the handler got %v, want the limit twice", err)
		}
	})
}

// A limit may end a stream whose handler has made calls that failed. The trailer then says
// whether the stream may be retried, as the trailer of a unary failure does.
func TestStreamThatIsCutIsMarkedAsAnyFailure(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		before  func(ctx context.Context, down harness.Call) // in the handler
		tokens  string                                       // leased to the handler
		push    string
		wanting bool
	}{
		"no failure below":            {func(context.Context, harness.Call) {}, "2", "[]", false},
		"given up":                    {func(ctx context.Context, down harness.Call) { _ = down(ctx) }, "2", "[-1]", false},
		"declined for want of tokens": {func(ctx context.Context, down harness.Call) { _ = down(ctx) }, "0", "[-1]", true},
		"the handler said when": {func(ctx context.Context, _ harness.Call) {
			_ = interceptors.Overloaded(ctx, codes.Unavailable, 300*ms)
		}, "2", "[300]", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
				down := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))
				n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
					tc.before(ss.Context(), down)
					_, err := s.Recv() // until the limit
					return err
				}, harness.NewServer(t, interceptors.WithStreamIdleLimit(time.Minute)).ServerOptions()...)
				ctx := metadata.AppendToOutgoingContext(t.Context(), wire.ContextKey, "1;b="+tc.tokens+";a=1")
				s, err := chat().Open(ctx, n.Dial())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Recv(); harness.Reason(err) != interceptors.ReasonStreamIdle {
					t.Errorf("got %v, want STREAM_IDLE", err)
				}
				if got := fmt.Sprint(s.Trailer()["grpc-retry-pushback-ms"]); got != tc.push {
					t.Errorf("pushback %s, want %s", got, tc.push)
				}
				reports := s.Trailer()[wire.ReportKey]
				if r, ok := wire.ParseReport(strings.Join(reports, ",")); !ok || r.NoTokens != tc.wanting {
					t.Errorf("reports %q, want one with n=1: %v", reports, tc.wanting)
				}
			})
		})
	}
}

// A deadline of the server's that passes while the handler works does not take its
// success from it, as on a unary call. It ends the next wait.
func TestDeadlineOfTheServerEndsWaitsAlone(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		waits bool
		want  codes.Code
	}{"works": {false, codes.OK}, "waits": {true, codes.DeadlineExceeded}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
					<-ss.Context().Done()
					time.Sleep(time.Second)
					if tc.waits {
						_, _ = s.Recv()
					}
					return nil
				}, harness.NewServer(t, interceptors.WithDefaultDeadline(time.Minute)).ServerOptions()...)
				s, err := chat().Open(t.Context(), n.Dial())
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				_, err = s.All()
				if status.Code(err) != tc.want || time.Since(began) != time.Minute+time.Second {
					t.Errorf("%v after %v, want %v after 61 s", err, time.Since(began), tc.want)
				}
			})
		})
	}
}

// Whether the limit or the handler is first, what the client gets is what interceptors
// before Hopbound see.
func TestLimitAndHandlerAgreeOnTheStatus(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		seen := make(chan error, 1)
		outer := func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			err := next(srv, ss)
			seen <- err
			return err
		}
		n := harness.ServeStreams(t, func(harness.Side, grpc.ServerStream) error {
			time.Sleep(time.Minute) // as long as the limit
			return nil
		}, append([]grpc.ServerOption{grpc.ChainStreamInterceptor(outer)},
			harness.NewServer(t, interceptors.WithStreamIdleLimit(time.Minute)).ServerOptions()...)...)
		cc := n.Dial()
		got := map[codes.Code]int{}
		for range 300 {
			s, err := chat().Open(t.Context(), cc)
			if err != nil {
				t.Fatal(err)
			}
			_, err = s.All()
			if inside := <-seen; status.Code(inside) != status.Code(err) {
				t.Errorf("the client got %v, the interceptor %v", err, inside)
			}
			got[status.Code(err)]++
		}
		t.Log(got)
	})
}

// Under net/http's server, a wait ends in the same way.
func TestLimitsEndWaitsUnderNetHTTP(t *testing.T) {
	t.Parallel()
	n := harness.NewNode(t, harness.NewServer(t, interceptors.WithStreamIdleLimit(10*time.Millisecond)).ServerOptions()...)
	returned := make(chan error, 1)
	n.Server.RegisterService(harness.StreamingService(func(s harness.Side, _ grpc.ServerStream) error {
		_, err := s.Recv()
		returned <- err
		return err
	}), nil)
	web := httptest.NewUnstartedServer(n.Server)
	web.Config.Protocols = new(http.Protocols)
	web.Config.Protocols.SetUnencryptedHTTP2(true)
	web.Start()
	t.Cleanup(web.Close)
	cc, err := grpc.NewClient("passthrough:///"+web.Listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	s, err := chat().Open(t.Context(), cc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); harness.Reason(err) != interceptors.ReasonStreamIdle {
		t.Errorf("the client got %v, want STREAM_IDLE", err)
	}
	if err := <-returned; harness.Reason(err) != interceptors.ReasonStreamIdle {
		t.Errorf("the handler got %v, want STREAM_IDLE", err)
	}
}

// replaced is a stream that another interceptor has put in the place of gRPC's own.
type replaced struct{ grpc.ServerTransportStream }

// A stream that cannot be ended from here is let alone: its context ends, and its
// client gets the status when the handler returns. The log says so once.
func TestStreamThatCannotBeCutIsLogged(t *testing.T) {
	t.Parallel()
	if os.Getenv("HOPBOUND_LOG_UNCUTTABLE") == "" { // the default logger is the process's
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), "HOPBOUND_LOG_UNCUTTABLE=1")
		out, err := cmd.CombinedOutput()
		if err != nil || bytes.Count(out, []byte("cannot end a pending RecvMsg")) != 1 {
			t.Errorf("%v, and not one line:\n%s", err, out)
		}
		return
	}
	replace := func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		ctx := grpc.NewContextWithServerTransportStream(ss.Context(), replaced{grpc.ServerTransportStreamFromContext(ss.Context())})
		return next(srv, inContext{ss, ctx})
	}
	var polls atomic.Int64
	n := harness.ServeStreams(t, func(_ harness.Side, ss grpc.ServerStream) error {
		<-ss.Context().Done()
		polls.Add(1)
		return nil
	}, append([]grpc.ServerOption{grpc.ChainStreamInterceptor(replace)},
		harness.NewServer(t, interceptors.WithStreamIdleLimit(time.Millisecond)).ServerOptions()...)...)
	for range 2 {
		s, err := chat().Open(t.Context(), n.Dial())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); harness.Reason(err) != interceptors.ReasonStreamIdle || errors.Is(err, io.EOF) {
			t.Errorf("got %v, want STREAM_IDLE", err)
		}
		if reports := s.Trailer()[wire.ReportKey]; len(reports) != 1 {
			t.Errorf("reports %q, want one", reports)
		}
	}
}

// A handler that waits for its context returns while the limit ends the stream.
func TestStreamThatIsCutWhileItsHandlerReturnsHasOneReport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := harness.ServeStreams(t, func(_ harness.Side, ss grpc.ServerStream) error {
			<-ss.Context().Done()
			return ss.Context().Err()
		}, harness.NewServer(t, interceptors.WithStreamIdleLimit(time.Minute)).ServerOptions()...)
		cc := n.Dial()
		for range 300 {
			s, err := chat().Open(t.Context(), cc)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Recv(); harness.Reason(err) != interceptors.ReasonStreamIdle {
				t.Errorf("got %v, want STREAM_IDLE", err)
			}
			if reports := s.Trailer()[wire.ReportKey]; len(reports) != 1 {
				t.Fatalf("reports %q, want one", reports)
			}
		}
	})
}

// inContext is a stream with another context.
type inContext struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // it is what the stream is for
}

func (s inContext) Context() context.Context { return s.ctx }

// panickyCodec panics when it encodes.
type panickyCodec struct{}

func (panickyCodec) Marshal(any) ([]byte, error) { panic("a bug") }
func (panickyCodec) Unmarshal([]byte, any) error { return nil }
func (panickyCodec) Name() string                { return "proto" }

func TestSendThatPanicsDoesNotTimeOutLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := harness.ServeStreams(t, func(s harness.Side, _ grpc.ServerStream) error {
			func() {
				defer func() { _ = recover() }()
				_ = s.Send("a")
			}()
			time.Sleep(2 * time.Minute) // and sends nothing
			return nil
		}, append(harness.NewServer(t, interceptors.WithStreamSendTimeout(time.Minute)).ServerOptions(), grpc.ForceServerCodec(panickyCodec{}))...)
		s, err := chat().Open(t.Context(), n.Dial())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.All(); err != nil {
			t.Error(err)
		}
	})
}
