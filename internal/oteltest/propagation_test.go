package oteltest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A server receives one trace context with each attempt, from the first on, whatever stats handler the
// connection has.
func TestEachAttemptCarriesOneTraceContext(t *testing.T) {
	t.Parallel()
	for name := range instrumentations(sdktrace.NewTracerProvider()) {
		for _, fold := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, folded %v", name, fold), func(t *testing.T) {
				t.Parallel()
				provider := sdktrace.NewTracerProvider()
				opts := []interceptors.ClientOption{interceptors.WithTracerProvider(provider)}
				if fold {
					opts = append(opts, interceptors.WithFoldedAttempts())
				}
				var mu sync.Mutex
				var got []int
				cc := serve(t, func(ctx context.Context) error {
					mu.Lock()
					defer mu.Unlock()
					got = append(got, len(metadata.ValueFromIncomingContext(ctx, "traceparent")))
					if len(got) == 2 {
						return errOnce
					}
					return nil
				})(append(client(t, opts...), instrumentations(provider)[name].dial)...)
				for range 3 {
					if err := calls()["unary"](t.Context(), cc); err != nil {
						t.Fatal(err)
					}
				}
				if want := []int{1, 1, 1, 1}; fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("the attempts carried %v trace contexts, want %v", got, want)
				}
			})
		}
	}
}

var errOnce = status.Error(codes.Unavailable, "once")

// token is a credential that an interceptor adds to each call.
type token struct{}

func (token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "token"}, nil
}
func (token) RequireTransportSecurity() bool { return false }

// secret is a token that must not be sent in plain text.
type secret struct{ token }

func (secret) RequireTransportSecurity() bool { return true }

// A credential that requires an encrypted connection is never sent without one.
func TestSecretsOfCallsAreNotSentInPlainText(t *testing.T) {
	t.Parallel()
	for _, opts := range [][]interceptors.ClientOption{nil, {interceptors.WithFoldedAttempts()}} {
		cc := serve(t, func(context.Context) error {
			t.Error("the call was sent")
			return nil
		})(client(t, append(opts, interceptors.WithTracerProvider(sdktrace.NewTracerProvider()))...)...)
		for range 2 {
			_, err := testv1.NewTestServiceClient(cc).Idempotent(t.Context(), &testv1.IdempotentRequest{}, grpc.PerRPCCredentials(secret{}))
			if status.Code(err) != codes.Unauthenticated {
				t.Error(err)
			}
		}
	}
}

// A credential that the application gives a call is sent with it. One that an interceptor after Hopbound
// gives it hides the stats handlers; from the second call on, traces are whole again.
func TestCredentialsOfCallsAreSent(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		inner bool // an interceptor adds it
		fold  bool
	}{
		"of the application":                  {false, false},
		"of the application, folded":          {false, true},
		"of a later interceptor":              {true, false},
		"of a later interceptor, and folding": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			recorder := tracetest.NewSpanRecorder()
			provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
			spans := interceptors.WithTracerProvider(provider)
			opts := []interceptors.ClientOption{spans}
			if tc.fold {
				opts = append(opts, interceptors.WithFoldedAttempts())
			}
			dial, own := client(t, opts...), []grpc.CallOption{grpc.PerRPCCredentials(token{})}
			if tc.inner {
				dial = append(dial, grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
					return invoker(ctx, method, req, reply, cc, append(opts, own...)...)
				}))
			}
			var tokens []string
			t.Run("", func(t *testing.T) { // whose end closes all, so that all spans have ended
				cc := serve(t, func(ctx context.Context) error {
					tokens = append(tokens, metadata.ValueFromIncomingContext(ctx, "authorization")...)
					return nil
				}, server(t, spans)...)(dial...)
				for range 2 {
					var opts []grpc.CallOption
					if !tc.inner {
						opts = own
					}
					if _, err := testv1.NewTestServiceClient(cc).Idempotent(t.Context(), &testv1.IdempotentRequest{}, opts...); err != nil {
						t.Fatal(err)
					}
				}
			})
			if fmt.Sprint(tokens) != "[token token]" {
				t.Errorf("the server received %v", tokens)
			}
			last := recorder.Ended()[len(recorder.Ended())-1] // the second call's, the root
			count := 0
			for _, s := range recorder.Ended() {
				if s.SpanContext().TraceID() == last.SpanContext().TraceID() {
					count++
				}
			}
			if count != 3 {
				t.Errorf("the second call has %d spans in its trace, want the call's, the attempt's and the server's", count)
			}
		})
	}
}
