package connect_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
)

func TestTraceCrossesToTheServerOfEachAttempt(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		spans, traced := harness.Traced()
		var calls atomic.Int64
		s := serve(t, unary[testv1.IdempotentRequest, testv1.IdempotentResponse](idempotent, func(context.Context) error {
			if calls.Add(1) == 1 {
				return errUnavailable
			}
			return nil
		}, server(t, traced)), route{watch, connect.NewServerStreamHandler(watch, func(_ context.Context, _ *connect.Request[testv1.WatchRequest], s *connect.ServerStream[testv1.WatchResponse]) error {
			return s.Send(&testv1.WatchResponse{})
		}, server(t, traced))})
		opts := client(t, p, traced)
		if _, err := connect.NewClient[testv1.IdempotentRequest, testv1.IdempotentResponse](s.Client(), s.URL+idempotent, opts...).
			CallUnary(t.Context(), connect.NewRequest(&testv1.IdempotentRequest{})); err != nil {
			t.Fatal(err)
		}
		stream, err := connect.NewClient[testv1.WatchRequest, testv1.WatchResponse](s.Client(), s.URL+watch, opts...).
			CallServerStream(t.Context(), connect.NewRequest(&testv1.WatchRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		for stream.Receive() {
		}
		_ = stream.Close()
		byID := map[trace.SpanID]sdktrace.ReadOnlySpan{}
		for _, span := range spans.Ended() {
			byID[span.SpanContext().SpanID()] = span
		}
		servers, attempts := 0, map[sdktrace.ReadOnlySpan]bool{}
		for _, span := range spans.Ended() {
			if span.SpanKind() != trace.SpanKindServer {
				continue
			}
			servers++
			parent := byID[span.Parent().SpanID()]
			if parent == nil || parent.SpanKind() != trace.SpanKindClient || attempts[parent] || byID[parent.Parent().SpanID()] == nil {
				t.Errorf("the parent of the server's span is no attempt of its own:\n%s", harness.Tree(spans.Ended()))
			}
			attempts[parent] = true
		}
		if servers != 3 {
			t.Errorf("%d spans of the server, of\n%s", servers, harness.Tree(spans.Ended()))
		}
	})
}

func TestCompressedJSONIsRetried(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		var calls atomic.Int64
		s := serve(t, route{upload, connect.NewClientStreamHandler(upload, func(_ context.Context, s *connect.ClientStream[testv1.UploadRequest]) (*connect.Response[testv1.UploadResponse], error) {
			n := 0
			for s.Receive() {
				n += len(s.Msg().GetText())
			}
			if calls.Add(1) == 1 {
				return nil, errUnavailable
			}
			return connect.NewResponse(&testv1.UploadResponse{Text: strings.Repeat("r", n)}), s.Err()
		}, server(t))}, route{idempotent, connect.NewUnaryHandler(idempotent, func(_ context.Context, r *connect.Request[testv1.IdempotentRequest]) (*connect.Response[testv1.IdempotentResponse], error) {
			if calls.Add(1)%2 == 0 {
				return nil, errUnavailable
			}
			return connect.NewResponse(&testv1.IdempotentResponse{Text: r.Msg.GetText()}), nil
		}, server(t))})
		opts := append(client(t, p), connect.WithProtoJSON(), connect.WithSendGzip())
		stream := connect.NewClient[testv1.UploadRequest, testv1.UploadResponse](s.Client(), s.URL+upload, opts...).CallClientStream(t.Context())
		for range 3 {
			if err := stream.Send(&testv1.UploadRequest{Text: strings.Repeat("s", 5000)}); err != nil {
				t.Fatal(err)
			}
		}
		r, err := stream.CloseAndReceive()
		if err != nil || len(r.Msg.GetText()) != 15000 {
			t.Errorf("error %v", err)
		}
		calls.Store(1)
		u, err := connect.NewClient[testv1.IdempotentRequest, testv1.IdempotentResponse](s.Client(), s.URL+idempotent, opts...).
			CallUnary(t.Context(), connect.NewRequest(&testv1.IdempotentRequest{Text: strings.Repeat("u", 5000)}))
		if err != nil || len(u.Msg.GetText()) != 5000 || calls.Load() != 3 {
			t.Errorf("error %v after %d calls", err, calls.Load())
		}
	})
}

func TestRejectionsOfKeysAreConnectErrors(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		s := serve(t, unary[testv1.PayRequest, testv1.PayResponse](pay, func(context.Context) error { return nil },
			server(t, interceptors.WithIdempotency(idempotency.NewMemory()))))
		call := connect.NewClient[testv1.PayRequest, testv1.PayResponse](s.Client(), s.URL+pay, p.options...)
		for want, keys := range map[string][]string{
			interceptors.ReasonKeyMissing: nil,
			interceptors.ReasonKeyInvalid: {"a", "b"},
		} {
			request := connect.NewRequest(&testv1.PayRequest{})
			for _, key := range keys {
				request.Header().Add("Idempotency-Key", key)
			}
			if _, err := call.CallUnary(t.Context(), request); connect.CodeOf(err) != connect.CodeInvalidArgument || reason(err) != want {
				t.Errorf("keys %q: %v", keys, err)
			}
		}
	})
}

func TestInterceptorsDoNotSeeTheMetadataOfAttempts(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		var seen metadata.MD
		inner := connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
			return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
				seen, _ = metadata.FromOutgoingContext(ctx)
				return next(ctx, r)
			}
		})
		s := serve(t, unary[testv1.IdempotentRequest, testv1.IdempotentResponse](idempotent, func(context.Context) error { return nil }, server(t)))
		request := connect.NewRequest(&testv1.IdempotentRequest{})
		request.Header().Set("Authorization", "secret")
		ctx := metadata.NewOutgoingContext(t.Context(), metadata.Pairs("for", "grpc"))
		if _, err := connect.NewClient[testv1.IdempotentRequest, testv1.IdempotentResponse](s.Client(), s.URL+idempotent, after(t, p, inner)...).
			CallUnary(ctx, request); err != nil || seen.Len() != 1 || len(seen["for"]) != 1 {
			t.Errorf("error %v, %d keys of metadata", err, seen.Len())
		}
	})
}

// Calls of gRPC that forward the metadata of their handler would send them to other services.
func TestCredentialsAreNotMetadataOfTheHandler(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		var md metadata.MD
		s := serve(t, unary[testv1.IdempotentRequest, testv1.IdempotentResponse](idempotent, func(ctx context.Context) error {
			md, _ = metadata.FromIncomingContext(ctx)
			return nil
		}, server(t)))
		request := connect.NewRequest(&testv1.IdempotentRequest{})
		for _, name := range []string{"Authorization", "Cookie", "X-Own"} {
			request.Header().Set(name, "a=b")
		}
		if _, err := connect.NewClient[testv1.IdempotentRequest, testv1.IdempotentResponse](s.Client(), s.URL+idempotent, client(t, p)...).
			CallUnary(t.Context(), request); err != nil {
			t.Error(err)
		}
		if len(md["x-own"]) != 1 || len(md["authorization"])+len(md["cookie"]) > 0 {
			t.Errorf("metadata %v", md)
		}
	})
}

func TestServerAtTheEdgeTrustsTheKeyOnly(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		var b *budget.Allotment
		s := serve(t, unary[testv1.IdempotentRequest, testv1.IdempotentResponse](idempotent, func(ctx context.Context) error {
			b, _ = budget.FromContext(ctx)
			return errUnavailable
		}, server(t, interceptors.AtEdge())))
		fixed := harness.FixedBudget()
		ctx, used := root(t, fixed)
		_, err := connect.NewClient[testv1.IdempotentRequest, testv1.IdempotentResponse](s.Client(), s.URL+idempotent, client(t, p, interceptors.WithBudget(fixed))...).
			CallUnary(ctx, connect.NewRequest(&testv1.IdempotentRequest{}))
		if connect.CodeOf(err) != connect.CodeUnavailable || b == nil || used() != 2 {
			t.Errorf("error %v, %d tokens used", err, used())
		}
	})
}
