package connect_test

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"sync"
	"syscall"
	"testing"

	"connectrpc.com/connect"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fails serves the method Write with a handler that always fails with err.
func fails(t *testing.T, err error, opts ...connect.HandlerOption) string {
	t.Helper()
	s := serve(t, unary[testv1.WriteRequest, testv1.WriteResponse](write, func(context.Context) error { return err }, opts...))
	return s.URL
}

const (
	read  = testv1.TestService_Read_FullMethodName
	write = testv1.TestService_Write_FullMethodName
)

// callWrite calls the method Write, and returns its error.
func callWrite(t *testing.T, url string, opts ...connect.ClientOption) *connect.Error {
	t.Helper()
	_, err := connect.NewClient[testv1.WriteRequest, testv1.WriteResponse](trusting(t), url+write, opts...).
		CallUnary(t.Context(), connect.NewRequest(&testv1.WriteRequest{}))
	failed := (*connect.Error)(nil)
	if !errors.As(err, &failed) {
		t.Fatalf("error %v", err)
	}
	return failed
}

func TestHandlersMayReturnOneErrorManyTimes(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		url := fails(t, connect.NewError(connect.CodeNotFound, errors.New("none")), server(t))
		opts := client(t, p)
		var calls sync.WaitGroup
		for range 4 {
			calls.Go(func() {
				if err := callWrite(t, url, opts...); err.Code() != connect.CodeNotFound {
					t.Error(err)
				}
			})
		}
		calls.Wait()
	})
}

func TestErrorOfACalleeIsReturnedWithoutItsMetadata(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		own := connect.NewError(connect.CodeNotFound, errors.New("none"))
		own.Meta().Set("X-Secret", "of the callee")
		callee := fails(t, own, server(t))
		opts := client(t, p)
		for _, copied := range []bool{false, true} { // the handler makes an error of its own with the metadata
			s := serve(t, unary[testv1.WriteRequest, testv1.WriteResponse](write, func(context.Context) error {
				err := callWrite(t, callee, opts...)
				if !copied {
					return err
				}
				made := connect.NewError(err.Code(), errors.New(err.Message()))
				maps.Copy(made.Meta(), err.Meta())
				return made
			}, server(t)))
			err := callWrite(t, s.URL, opts...)
			if got := err.Meta()["X-Secret"]; err.Code() != connect.CodeNotFound || err.Message() != "none" || len(got) > 0 != copied {
				t.Errorf("copied %v: error %v with metadata %v", copied, err, err.Meta())
			}
			if got := err.Meta()["Hop-Report"]; len(got) != 1 {
				t.Errorf("copied %v: reports %q, want one", copied, got)
			}
		}
	})
}

func TestStatusOfACalleeOfGRPCSurvives(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		st, err := status.New(codes.NotFound, "none").WithDetails(&errdetails.ErrorInfo{Domain: "shop", Reason: "GONE"})
		if err != nil {
			t.Fatal(err)
		}
		got := callWrite(t, fails(t, st.Err(), server(t)), client(t, p)...)
		if got.Code() != connect.CodeNotFound || got.Message() != "none" || len(got.Details()) != 1 {
			t.Errorf("error %v with details %v", got, got.Details())
		}
		got = callWrite(t, fails(t, connect.NewError(connect.CodeInternal, st.Err()), server(t)), client(t, p)...)
		if got.Code() != connect.CodeInternal {
			t.Errorf("error %v, although the handler has chosen another code", got)
		}
	})
}

func TestFinalFailureIsReplayedWithItsDetailsAndMetadata(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		runs := 0
		s := serve(t, route{pay, connect.NewUnaryHandlerSimple(pay, func(ctx context.Context, _ *testv1.PayRequest) (*testv1.PayResponse, error) {
			runs++
			info, _ := connect.CallInfoForHandlerContext(ctx)
			info.ResponseHeader().Set("X-Header", "h")
			info.ResponseTrailer().Set("X-Trailer", "t")
			err := connect.NewError(connect.CodeFailedPrecondition, errors.New("no money"))
			detail, _ := connect.NewErrorDetail(&errdetails.ErrorInfo{Domain: "bank", Reason: "BROKE"})
			err.AddDetail(detail)
			err.Meta().Set("X-Meta", "m")
			err.Meta().Set("Hop-Report", "1;u=9") // copied from a callee's error
			return nil, idempotency.Final(err)
		}, server(t, interceptors.WithIdempotency(idempotency.NewMemory())))})
		call := connect.NewClient[testv1.PayRequest, testv1.PayResponse](s.Client(), s.URL+pay, client(t, p)...)
		for i := range 2 {
			_, err := call.CallUnary(idempotency.WithKey(t.Context(), "k"), connect.NewRequest(&testv1.PayRequest{}))
			got := (*connect.Error)(nil)
			if !errors.As(err, &got) {
				t.Fatalf("error %v", err)
			}
			if got.Code() != connect.CodeFailedPrecondition || got.Message() != "no money" || len(got.Details()) != 1 || runs != 1 {
				t.Errorf("call %d: error %v with details %v, after %d runs", i+1, got, got.Details(), runs)
			}
			for _, name := range []string{"X-Header", "X-Trailer", "X-Meta", "Hop-Report"} {
				if len(got.Meta()[name]) != 1 {
					t.Errorf("call %d: %s is %q, want one value", i+1, name, got.Meta()[name])
				}
			}
		}
	})
}

func TestHeadersOfASimpleHandlerAreReplayed(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		s := serve(t, route{pay, connect.NewUnaryHandlerSimple(pay, func(ctx context.Context, _ *testv1.PayRequest) (*testv1.PayResponse, error) {
			info, _ := connect.CallInfoForHandlerContext(ctx)
			info.ResponseHeader().Add("X-Header", "h")
			info.ResponseTrailer().Add("X-Trailer", "t")
			return &testv1.PayResponse{Payment: "p"}, nil
		}, server(t, interceptors.WithIdempotency(idempotency.NewMemory())))})
		call := connect.NewClient[testv1.PayRequest, testv1.PayResponse](s.Client(), s.URL+pay, client(t, p)...)
		for i := range 2 {
			ctx, info := connect.NewClientContext(t.Context())
			info.RequestHeader().Set("Idempotency-Key", "k")
			if _, err := call.CallUnary(ctx, connect.NewRequest(&testv1.PayRequest{})); err != nil {
				t.Fatal(err)
			}
			if h, tr := info.ResponseHeader()["X-Header"], info.ResponseTrailer()["X-Trailer"]; len(h) != 1 || len(tr) != 1 {
				t.Errorf("call %d: header %q, trailer %q", i+1, h, tr)
			}
		}
	})
}

func TestPanicThatIsRecoveredIsReported(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		recovers := connect.WithRecover(func(context.Context, connect.Spec, http.Header, any) error {
			return connect.NewError(connect.CodeInternal, errors.New("recovered"))
		})
		s := serve(t, unary[testv1.WriteRequest, testv1.WriteResponse](write, func(context.Context) error { panic("oh") }, recovers, server(t)))
		if err := callWrite(t, s.URL, client(t, p)...); err.Message() != "recovered" || len(err.Meta()["Hop-Report"]) != 1 {
			t.Errorf("error %v with metadata %v", err, err.Meta())
		}
	})
}

func TestNotModifiedIsAServersReply(t *testing.T) {
	t.Parallel()
	s := serve(t, route{read, connect.NewUnaryHandler(read, func(_ context.Context, r *connect.Request[testv1.ReadRequest]) (*connect.Response[testv1.ReadResponse], error) {
		if r.HTTPMethod() != http.MethodGet || r.Header().Get("If-None-Match") != "e" {
			t.Errorf("%s with header %v", r.HTTPMethod(), r.Header())
		}
		return nil, connect.NewNotModifiedError(http.Header{"Etag": {"e"}})
	}, connect.WithIdempotency(connect.IdempotencyNoSideEffects), server(t))})
	b := harness.FixedBudget()
	call := connect.NewClient[testv1.ReadRequest, testv1.ReadResponse](s.Client(), s.URL+read, append(client(t, protocols()[0], interceptors.WithBudget(b)),
		connect.WithHTTPGet(), connect.WithIdempotency(connect.IdempotencyNoSideEffects))...)
	ctx, used := root(t, b)
	for range 2 {
		request := connect.NewRequest(&testv1.ReadRequest{Text: "t"})
		request.Header().Set("If-None-Match", "e")
		_, err := call.CallUnary(ctx, request)
		if failed := (*connect.Error)(nil); !connect.IsNotModifiedError(err) || !errors.As(err, &failed) || failed.Meta().Get("ETag") != "e" {
			t.Errorf("error %v", err)
		}
	}
	if used() != 0 {
		t.Errorf("%d tokens were used", used())
	}
}

// A handler of grpc-go, and hophttp, see the code of a failed call of connect-go.
func TestErrorOfACallHasAGRPCStatus(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		s := serve(t, unary[testv1.IdempotentRequest, testv1.IdempotentResponse](idempotent, func(context.Context) error {
			return connect.NewError(connect.CodeNotFound, errors.New("no such order"))
		}, server(t)))
		_, err := connect.NewClient[testv1.IdempotentRequest, testv1.IdempotentResponse](s.Client(), s.URL+idempotent, client(t, p)...).
			CallUnary(t.Context(), connect.NewRequest(&testv1.IdempotentRequest{}))
		if st, ok := status.FromError(err); !ok || st.Code() != codes.NotFound || st.Message() != "no such order" || connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("error %v with the status %v", err, st)
		}
	})
}

// connect-go takes a connection that a server has reset for a cancellation by the client.
func TestResetConnectionIsRetried(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		attempts := 0
		reset := &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			attempts++
			return nil, &net.OpError{Op: "read", Err: syscall.ECONNRESET}
		})}
		_, err := connect.NewClient[testv1.IdempotentRequest, testv1.IdempotentResponse](reset, "http://orders.test"+idempotent, client(t, p)...).
			CallUnary(t.Context(), connect.NewRequest(&testv1.IdempotentRequest{}))
		if connect.CodeOf(err) != connect.CodeUnavailable || attempts != 3 {
			t.Errorf("error %v after %d attempts, want UNAVAILABLE after three", err, attempts)
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A handler that copies the trailer of its callee's response must not forward the callee's report.
func TestReportInTheTrailerOfAResponseIsNotForwarded(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		s := serve(t, route{read, connect.NewUnaryHandler(read, func(context.Context, *connect.Request[testv1.ReadRequest]) (*connect.Response[testv1.ReadResponse], error) {
			response := connect.NewResponse(&testv1.ReadResponse{})
			response.Trailer().Set("Hop-Report", "1;u=7")
			response.Trailer().Set("X-Own", "yes")
			return response, nil
		}, server(t))})
		response, err := connect.NewClient[testv1.ReadRequest, testv1.ReadResponse](s.Client(), s.URL+read, p.options...).
			CallUnary(t.Context(), connect.NewRequest(&testv1.ReadRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		for _, value := range response.Trailer().Values("Hop-Report") {
			if value == "1;u=7" {
				t.Errorf("the trailer is %v", response.Trailer())
			}
		}
		if response.Trailer().Get("X-Own") != "yes" {
			t.Errorf("the trailer %v lacks that of the handler", response.Trailer())
		}
	})
}
