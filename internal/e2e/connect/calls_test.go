package connect_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
)

const (
	idempotent = testv1.TestService_Idempotent_FullMethodName
	pay        = testv1.TestService_Pay_FullMethodName
)

var errUnavailable = connect.NewError(connect.CodeUnavailable, errors.New("down"))

func TestUnaryCallsAreRetried(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		var calls atomic.Int64
		s := serve(t, unary[testv1.IdempotentRequest, testv1.IdempotentResponse](idempotent, func(context.Context) error {
			if calls.Add(1) < 3 {
				return errUnavailable
			}
			return nil
		}, server(t)))
		b := harness.FixedBudget()
		ctx, end := budget.NewRoot(t.Context(), b)
		defer end(true)
		request := connect.NewRequest(&testv1.IdempotentRequest{})
		request.Header().Set("X-Own", "yes")
		_, err := connect.NewClient[testv1.IdempotentRequest, testv1.IdempotentResponse](s.Client(), s.URL+idempotent,
			client(t, p, interceptors.WithBudget(b))...).CallUnary(ctx, request)
		a, _ := budget.FromContext(ctx)
		if err != nil || calls.Load() != 3 || a.Used() != 2 {
			t.Errorf("error %v after %d calls with %d tokens, want three calls with two", err, calls.Load(), a.Used())
		}
		if left := b.Balance(strings.TrimPrefix(s.URL, "https://")); left != 8 {
			t.Errorf("%v of ten tokens are left for the target, want 8", left)
		}
		for name := range request.Header() {
			if strings.HasPrefix(name, "Hop-") || name == "Grpc-Previous-Rpc-Attempts" {
				t.Errorf("the request of the application still has the header %s", name)
			}
		}
	})
}

func TestFailureKeepsItsCodeMessageDetailsAndMetadata(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		detail, err := connect.NewErrorDetail(&errdetails.ErrorInfo{Domain: "shop", Reason: "SOLD_OUT"})
		if err != nil {
			t.Fatal(err)
		}
		own := connect.NewError(connect.CodeFailedPrecondition, errors.New("sold out"))
		own.AddDetail(detail)
		own.Meta().Set("X-Own", "yes")
		s := serve(t, unary[testv1.IdempotentRequest, testv1.IdempotentResponse](idempotent, func(context.Context) error { return own }, server(t)))
		_, err = connect.NewClient[testv1.IdempotentRequest, testv1.IdempotentResponse](s.Client(), s.URL+idempotent, client(t, p)...).
			CallUnary(t.Context(), connect.NewRequest(&testv1.IdempotentRequest{}))
		got := (*connect.Error)(nil)
		if !errors.As(err, &got) || got.Code() != own.Code() || got.Message() != "sold out" || len(got.Details()) != 1 || got.Meta().Get("X-Own") != "yes" {
			t.Errorf("error %+v", err)
		}
		if len(own.Meta()) != 1 {
			t.Errorf("the handler's error was changed: %v", own.Meta())
		}
	})
}

func TestDeadlineCrossesAndErrorsOfHopboundAreConnectErrors(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		left := make(chan time.Duration, 1)
		s := serve(t, unary[testv1.IdempotentRequest, testv1.IdempotentResponse](idempotent, func(ctx context.Context) error {
			d, _ := deadline.Remaining(ctx)
			left <- d
			return nil
		}, server(t)))
		call := connect.NewClient[testv1.IdempotentRequest, testv1.IdempotentResponse](s.Client(), s.URL+idempotent, client(t, p)...)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := call.CallUnary(ctx, connect.NewRequest(&testv1.IdempotentRequest{})); err != nil {
			t.Fatal(err)
		}
		if d := <-left; d <= 30*time.Second || d > time.Minute {
			t.Errorf("%v left at the server", d)
		}
		late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
		defer cancel()
		_, err := call.CallUnary(late, connect.NewRequest(&testv1.IdempotentRequest{}))
		if connect.CodeOf(err) != connect.CodeDeadlineExceeded || reason(err) != interceptors.ReasonDeadlineExpired {
			t.Errorf("error %v with reason %q", err, reason(err))
		}
	})
}

// reason returns the reason of an error of Hopbound.
func reason(err error) string {
	failed := (*connect.Error)(nil)
	if !errors.As(err, &failed) {
		return ""
	}
	for _, d := range failed.Details() {
		if m, err := d.Value(); err == nil {
			if info, ok := m.(*errdetails.ErrorInfo); ok && info.GetDomain() == interceptors.Domain {
				return info.GetReason()
			}
		}
	}
	return ""
}

func TestKeyedCallIsMadeOnceAndReplayedWithItsMetadata(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		var runs atomic.Int64
		s := serve(t, route{pay, connect.NewUnaryHandler(pay, func(_ context.Context, r *connect.Request[testv1.PayRequest]) (*connect.Response[testv1.PayResponse], error) {
			response := connect.NewResponse(&testv1.PayResponse{Payment: fmt.Sprintf("payment %d of %s", runs.Add(1), r.Msg.GetAccount())})
			response.Header().Set("X-Header", "h")
			response.Trailer().Set("X-Trailer", "t")
			return response, nil
		}, server(t, interceptors.WithIdempotency(idempotency.NewMemory())))})
		call := connect.NewClient[testv1.PayRequest, testv1.PayResponse](s.Client(), s.URL+pay, client(t, p)...)
		payment := func(key, account string) (*connect.Response[testv1.PayResponse], error) {
			request := connect.NewRequest(&testv1.PayRequest{Account: account})
			request.Header().Set("Idempotency-Key", key)
			return call.CallUnary(t.Context(), request)
		}
		for i, replayed := range []string{"", "true"} {
			r, err := payment("k", "rent")
			if err != nil {
				t.Fatal(err)
			}
			if r.Msg.GetPayment() != "payment 1 of rent" || r.Header().Get("X-Header") != "h" || r.Trailer().Get("X-Trailer") != "t" || r.Header().Get("Idempotency-Replayed") != replayed {
				t.Errorf("call %d: %v with header %v and trailer %v", i+1, r.Msg, r.Header(), r.Trailer())
			}
		}
		if _, err := payment("k", "food"); connect.CodeOf(err) != connect.CodeFailedPrecondition || reason(err) != interceptors.ReasonKeyReused {
			t.Errorf("another request with the key: %v", err)
		}
	})
}

func TestCallWithoutAServerCostsNothing(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		dials := 0
		refused := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			dials++
			return nil, &net.OpError{Op: "dial", Err: errors.New("refused")}
		}}}
		b := harness.FixedBudget()
		_, err := connect.NewClient[testv1.WriteRequest, testv1.WriteResponse](refused, "http://orders.test"+testv1.TestService_Write_FullMethodName,
			client(t, p, interceptors.WithBudget(b))...).CallUnary(t.Context(), connect.NewRequest(&testv1.WriteRequest{}))
		if connect.CodeOf(err) != connect.CodeUnavailable || dials != 3 || b.Balance("orders.test") != 10 {
			t.Errorf("error %v after %d dials, %v tokens left; want three dials and all tokens, although a write is not safe to repeat", err, dials, b.Balance("orders.test"))
		}
	})
}
