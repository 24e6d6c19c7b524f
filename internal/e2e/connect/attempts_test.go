package connect_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/hopbound/hopbound/hopconnect"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
)

// slowTransport still reads the header of a request after it has failed, as a transport may.
type slowTransport struct{ reading sync.WaitGroup }

func (s *slowTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	started := make(chan struct{})
	s.reading.Go(func() {
		close(started)
		for range 1000 {
			for range r.Header {
			}
		}
	})
	<-started
	return nil, errors.New("broken")
}

func TestEachAttemptHasAHeaderOfItsOwn(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		transport := &slowTransport{}
		request := connect.NewRequest(&testv1.IdempotentRequest{})
		_, err := connect.NewClient[testv1.IdempotentRequest, testv1.IdempotentResponse](&http.Client{Transport: transport}, "http://a.test"+idempotent, client(t, p)...).
			CallUnary(t.Context(), request)
		if connect.CodeOf(err) != connect.CodeUnavailable {
			t.Error(err)
		}
		transport.reading.Wait()
	})
}

// counter is an interceptor that sets a header with its count, and counts the streams that are not closed.
type counter struct {
	count atomic.Int64
	open  atomic.Int64
}

func (c *counter) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		r.Header().Add("X-Count", string(rune('a'-1+c.count.Add(1))))
		return next(ctx, r)
	}
}

func (c *counter) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

func (c *counter) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, s connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, s)
		conn.RequestHeader().Add("X-Count", string(rune('a'-1+c.count.Add(1))))
		c.open.Add(1)
		return &countedConn{StreamingClientConn: conn, counter: c}
	}
}

type countedConn struct {
	connect.StreamingClientConn
	counter *counter
	close   sync.Once
}

func (c *countedConn) CloseResponse() error {
	c.close.Do(func() { c.counter.open.Add(-1) })
	return c.StreamingClientConn.CloseResponse()
}

// after returns the options of a client whose interceptor runs after Hopbound's.
func after(t *testing.T, p protocol, inner connect.Interceptor, opts ...interceptors.ClientOption) []connect.ClientOption {
	t.Helper()
	c := harness.NewClient(t, append([]interceptors.ClientOption{harness.FastRetry()}, opts...)...)
	return append([]connect.ClientOption{connect.WithInterceptors(hopconnect.NewClientInterceptor(c), inner)}, p.options...)
}

func TestInterceptorsAfterHopboundsSetTheHeadersOfEachAttempt(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		var counts []string
		s := serve(t, route{idempotent, connect.NewUnaryHandler(idempotent, func(_ context.Context, r *connect.Request[testv1.IdempotentRequest]) (*connect.Response[testv1.IdempotentResponse], error) {
			counts = append(counts, r.Header()["X-Count"]...)
			return nil, errUnavailable
		}, server(t))}, route{watch, connect.NewServerStreamHandler(watch, func(_ context.Context, r *connect.Request[testv1.WatchRequest], _ *connect.ServerStream[testv1.WatchResponse]) error {
			counts = append(counts, r.Header()["X-Count"]...)
			if r.Header().Get("X-Own") != "yes" || r.Header().Get("X-Info") != "yes" {
				t.Errorf("header %v", r.Header())
			}
			return errUnavailable
		}, server(t))})
		inner := &counter{}
		opts := after(t, p, inner)
		_, _ = connect.NewClient[testv1.IdempotentRequest, testv1.IdempotentResponse](s.Client(), s.URL+idempotent, opts...).
			CallUnary(t.Context(), connect.NewRequest(&testv1.IdempotentRequest{}))
		request := connect.NewRequest(&testv1.WatchRequest{})
		request.Header().Set("X-Own", "yes")
		call := connect.NewClient[testv1.WatchRequest, testv1.WatchResponse](s.Client(), s.URL+watch, opts...)
		ctx, info := connect.NewClientContext(t.Context())
		info.RequestHeader().Set("X-Info", "yes")
		stream, err := call.CallServerStream(ctx, request)
		if err != nil {
			t.Fatal(err)
		}
		for stream.Receive() {
			t.Error("a message")
		}
		if !slices.Equal(counts, []string{"a", "b", "c", "e", "f"}) || inner.open.Load() != 0 {
			t.Errorf("counts %q (d is that of the stream that only has headers), %d streams are not closed", counts, inner.open.Load())
		}
		_ = stream.Close()
	})
}

func TestForwardedKeyIsNotSent(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		var got []string
		callee := serve(t, route{read, connect.NewUnaryHandler(read, func(_ context.Context, r *connect.Request[testv1.ReadRequest]) (*connect.Response[testv1.ReadResponse], error) {
			got = append(got, r.Header()["Idempotency-Key"]...)
			return connect.NewResponse(&testv1.ReadResponse{}), nil
		}, server(t))})
		call := connect.NewClient[testv1.ReadRequest, testv1.ReadResponse](callee.Client(), callee.URL+read, client(t, p)...)
		s := serve(t, route{pay, connect.NewUnaryHandler(pay, func(ctx context.Context, r *connect.Request[testv1.PayRequest]) (*connect.Response[testv1.PayResponse], error) {
			request := connect.NewRequest(&testv1.ReadRequest{})
			request.Header().Set("Idempotency-Key", r.Header().Get("Idempotency-Key"))
			_, err := call.CallUnary(ctx, request)
			return connect.NewResponse(&testv1.PayResponse{}), err
		}, server(t, interceptors.WithIdempotency(idempotency.NewMemory())))})
		_, err := connect.NewClient[testv1.PayRequest, testv1.PayResponse](s.Client(), s.URL+pay, client(t, p)...).
			CallUnary(idempotency.WithKey(t.Context(), "parent"), connect.NewRequest(&testv1.PayRequest{}))
		if err != nil || len(got) > 0 {
			t.Errorf("error %v, keys %q", err, got)
		}
	})
}

func TestMessageThatIsTooLargeFailsAtOnce(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		s := serve(t, route{upload, connect.NewClientStreamHandler(upload, func(_ context.Context, stream *connect.ClientStream[testv1.UploadRequest]) (*connect.Response[testv1.UploadResponse], error) {
			for stream.Receive() {
			}
			return connect.NewResponse(&testv1.UploadResponse{}), stream.Err()
		}, server(t))})
		stream := connect.NewClient[testv1.UploadRequest, testv1.UploadResponse](s.Client(), s.URL+upload,
			append(client(t, p), connect.WithSendMaxBytes(10))...).CallClientStream(t.Context())
		if err := stream.Send(&testv1.UploadRequest{Text: "a"}); err != nil {
			t.Error(err)
		}
		if err := stream.Send(&testv1.UploadRequest{Text: "more than ten bytes"}); connect.CodeOf(err) != connect.CodeResourceExhausted {
			t.Errorf("error %v", err)
		}
		_, _ = stream.CloseAndReceive()
	})
}

func TestTimeoutOfAnAttemptOfAServerStreamIsRetried(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		var calls atomic.Int64
		s := serve(t, route{watch, connect.NewServerStreamHandler(watch, func(ctx context.Context, _ *connect.Request[testv1.WatchRequest], stream *connect.ServerStream[testv1.WatchResponse]) error {
			if calls.Add(1) == 1 {
				<-ctx.Done()
				return ctx.Err()
			}
			return stream.Send(&testv1.WatchResponse{Text: "m"})
		}, server(t))})
		stream, err := connect.NewClient[testv1.WatchRequest, testv1.WatchResponse](s.Client(), s.URL+watch,
			client(t, p, harness.Policy(interceptors.Policy{AttemptTimeout: 200 * time.Millisecond}))...).
			CallServerStream(t.Context(), connect.NewRequest(&testv1.WatchRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		if !stream.Receive() || stream.Msg().GetText() != "m" || calls.Load() != 2 {
			t.Errorf("error %v after %d calls", stream.Err(), calls.Load())
		}
		_ = stream.Close()
	})
}
