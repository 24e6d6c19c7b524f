package http_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hopbound/hopbound/hophttp"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A handler in the middle answers with the error of the service below.
func TestErrorOfAResponseIsWhatWriteErrorHasWritten(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err    error
		code   codes.Code // if it is another one than that of err
		reason string
		delay  time.Duration
	}{
		"not found":               {err: status.Error(codes.NotFound, "no such order")},
		"malformed":               {err: status.Error(codes.InvalidArgument, "no amount")},
		"out of range":            {err: status.Error(codes.OutOfRange, "too far"), code: codes.InvalidArgument},
		"exists":                  {err: status.Error(codes.AlreadyExists, "there is one")},
		"aborted":                 {err: status.Error(codes.Aborted, "another transaction has won")},
		"unimplemented":           {err: status.Error(codes.Unimplemented, "not here")},
		"unavailable":             {err: status.Error(codes.Unavailable, "down")},
		"deadline":                {err: status.Error(codes.DeadlineExceeded, "late")},
		"not permitted":           {err: status.Error(codes.PermissionDenied, "no")},
		"data loss":               {err: status.Error(codes.DataLoss, "lost"), code: codes.Internal},
		"overloaded, wait":        {err: interceptors.TryLater(codes.ResourceExhausted, interceptors.ReasonRateLimited, "too many", 3*time.Second), reason: interceptors.ReasonRateLimited, delay: 3 * time.Second},
		"the store is full":       {err: interceptors.TryLater(codes.ResourceExhausted, interceptors.ReasonStoreFull, "full", 0), reason: interceptors.ReasonStoreFull},
		"the bulkhead is full":    {err: interceptors.TryLater(codes.ResourceExhausted, interceptors.ReasonBulkheadFull, "full", 0), reason: interceptors.ReasonBulkheadFull},
		"the response is omitted": {err: interceptors.TryLater(codes.AlreadyExists, interceptors.ReasonResponseOmitted, "too large", 0), reason: interceptors.ReasonResponseOmitted},
		"the breaker is open":     {err: interceptors.TryLater(codes.Unavailable, interceptors.ReasonBreakerOpen, "open", 0), reason: interceptors.ReasonBreakerOpen},
	} {
		w := httptest.NewRecorder()
		hophttp.WriteError(w, c.err)
		got := hophttp.ErrorOf(w.Result())
		if c.code == codes.OK {
			c.code = status.Code(c.err)
		}
		delay := max(0, harness.RetryDelay(got))
		if status.Code(got) != c.code || harness.Reason(got) != c.reason || delay != c.delay {
			t.Errorf("%s: error %v with reason %q and delay %v, want %v, %q and %v", name, got, harness.Reason(got), delay, c.code, c.reason, c.delay)
		}
	}
	w := httptest.NewRecorder()
	w.WriteHeader(http.StatusFound)
	if err := hophttp.ErrorOf(w.Result()); err != nil {
		t.Errorf("a redirect is the error %v", err)
	}
}

// As over gRPC: it is not retried, and the hop marks it, so that its callers do not retry it either.
func TestFullBulkheadIsNotRetriedOverHTTP(t *testing.T) {
	t.Parallel()
	leaf := &harness.Counter{Fail: harness.AlwaysFail(interceptors.TryLater(codes.ResourceExhausted, interceptors.ReasonBulkheadFull, "full", 0))}
	call := harness.Idempotent(harness.Serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...).Dial(harness.NewClient(t).DialOptions()...))
	hop := serve(t, func(w http.ResponseWriter, r *http.Request) { hophttp.WriteError(w, call(r.Context())) }, nil)
	r := get(t, fast(t), hop.URL)
	if r.status != http.StatusServiceUnavailable || r.header.Get("Grpc-Retry-Pushback-Ms") != "-1" || leaf.Calls.Load() != 1 {
		t.Errorf("answer %d with header %v after %d calls, want 503, marked, after one", r.status, r.header, leaf.Calls.Load())
	}
}

// Another run of the handler could not get the response either.
func TestOmittedResponseIsAnOutcome(t *testing.T) {
	t.Parallel()
	runs := 0
	h := stored(t, func(w http.ResponseWriter, _ *http.Request) {
		runs++
		hophttp.WriteError(w, interceptors.TryLater(codes.AlreadyExists, interceptors.ReasonResponseOmitted, "too large", 0))
	})
	for range 2 {
		if w := record(h, t.Context()); w.Code != http.StatusConflict || runs != 1 {
			t.Errorf("answer %d after %d runs", w.Code, runs)
		}
	}
}

func TestErrorsOfOtherLibrariesAreAnsweredToo(t *testing.T) {
	t.Parallel()
	foreign, err := status.New(codes.InvalidArgument, "no").WithDetails(&errdetails.ErrorInfo{Domain: "bank.test", Reason: "CARD_EXPIRED"})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		err  error
		code int
		want string // in the body
	}{
		"a deadline":                   {fmt.Errorf("the bank: %w", context.DeadlineExceeded), http.StatusGatewayTimeout, `"title":"Gateway Timeout"`},
		"a cancellation":               {fmt.Errorf("the bank: %w", context.Canceled), 499, `"title":"Client Closed Request"`},
		"the reason of another domain": {foreign.Err(), http.StatusBadRequest, `"type":"about:blank"`},
	} {
		w := httptest.NewRecorder()
		if hophttp.WriteError(w, c.err); w.Code != c.code || !strings.Contains(w.Body.String(), c.want) || strings.Contains(w.Body.String(), "CARD") {
			t.Errorf("%s: answer %d %s", name, w.Code, w.Body)
		}
	}
}

func TestPausesAreRoundedUpToSeconds(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	hophttp.WriteError(w, interceptors.TryLater(codes.Unavailable, interceptors.ReasonBreakerOpen, "open", 1200*time.Millisecond))
	if got := w.Header().Get("Retry-After"); got != "2" {
		t.Errorf("Retry-After %q, want 2", got)
	}
}

func TestErrorOfAPreconditionThatFailed(t *testing.T) {
	t.Parallel()
	for code, want := range map[int]codes.Code{http.StatusPreconditionFailed: codes.FailedPrecondition, http.StatusTeapot: codes.InvalidArgument} {
		w := httptest.NewRecorder()
		w.WriteHeader(code)
		if got := status.Code(hophttp.ErrorOf(w.Result())); got != want {
			t.Errorf("%d is %v, want %v", code, got, want)
		}
	}
}

func TestErrorOfARefusedConnectionHasAStatusAndWrapsTheNetworks(t *testing.T) {
	t.Parallel()
	transport := hophttp.NewTransport(harness.NewClient(t, interceptors.WithPolicy(shortPauses{})), roundTripper(func(*http.Request) (*http.Response, error) {
		return nil, &net.OpError{Op: "dial", Err: errors.New("refused")}
	}))
	_, err := (&http.Client{Transport: transport}).Do(newRequest(t, http.MethodGet, "http://orders.test/", "")) //nolint:bodyclose // there is none
	op := (*net.OpError)(nil)
	if status.Code(err) != codes.Unavailable || !errors.As(err, &op) {
		t.Errorf("error %v with code %v", err, status.Code(err))
	}
	w := httptest.NewRecorder()
	hophttp.WriteError(w, err)
	if w.Code != http.StatusServiceUnavailable || strings.Contains(w.Body.String(), "orders.test") {
		t.Errorf("answer %d %s", w.Code, w.Body)
	}
}

// A service that only observes serves a request as without Hopbound: it does not end it before its caller does.
func TestObservedRequestHasNoDeadline(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if _, ok := r.Context().Deadline(); ok {
			w.WriteHeader(http.StatusTeapot)
		}
	}, []interceptors.ServerOption{interceptors.WithMode(interceptors.Observe)}, hophttp.TimeoutHeader("X-Timeout", time.Minute))
	request := newRequest(t, http.MethodGet, s.URL, "")
	request.Header.Set("X-Timeout", "1000")
	request.Header.Set("Grpc-Timeout", "1S")
	if r := do(t, http.DefaultTransport, request); r.status != http.StatusOK {
		t.Error("the request has a deadline")
	}
}

func TestIgnoredKeyIsNamedInTheAnswerIfAKeyIsRequired(t *testing.T) {
	t.Parallel()
	s := serve(t, func(http.ResponseWriter, *http.Request) {}, []interceptors.ServerOption{
		interceptors.WithIdempotency(idempotency.NewMemory(), idempotency.RequireKey(), idempotency.SharedKeys()),
	})
	r := post(t, http.DefaultTransport, s.URL, "k", "")
	wantProblem(t, r, http.StatusBadRequest, interceptors.ReasonKeyMissing)
	if !strings.Contains(r.body, "its caller is unknown") {
		t.Errorf("the answer %s does not say that the key was ignored", r.body)
	}
}

func TestNamesOfPoliciesForHTTPAreChecked(t *testing.T) {
	t.Parallel()
	for name, valid := range map[string]bool{
		"/hopbound.v1.HTTPService/Get": true, "/hopbound.v1.HTTPService/Other": true, "/hopbound.v1.HTTPService/": true,
		"/hopbound.v1.HTTPService/GET": false, "/hopbound.v1.HTTPService/Checkout": false,
	} {
		_, err := interceptors.NewClient(interceptors.WithPolicy(interceptors.MethodPolicies{name: {Timeout: time.Second}}))
		if (err == nil) != valid {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
