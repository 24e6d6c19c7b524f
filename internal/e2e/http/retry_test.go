package http_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/hophttp"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// answering is a transport whose attempts receive responses that a function makes.
func answering(answer func(attempt int, r *http.Request) *http.Response) roundTripper {
	attempt := 0
	return func(r *http.Request) (*http.Response, error) {
		attempt++
		return answer(attempt, r), nil
	}
}

func TestRetryDoesNotWaitForTheBodyOfTheFailedAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		never, _ := io.Pipe()
		started := time.Now()
		base := answering(func(attempt int, r *http.Request) *http.Response {
			if attempt == 1 {
				context.AfterFunc(r.Context(), func() { _ = never.CloseWithError(r.Context().Err()) })
				return &http.Response{StatusCode: http.StatusServiceUnavailable, Body: never}
			}
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader("done"))}
		})
		r := get(t, hophttp.NewTransport(harness.NewClient(t), base), "http://orders.test/")
		if r.body != "done" || time.Since(started) > time.Second {
			t.Errorf("body %q after %v", r.body, time.Since(started))
		}
	})
}

func TestRequestThatIsCancelledDuringAPauseReturnsTheContextsError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var attempts atomic.Int64
		base := answering(func(int, *http.Request) *http.Response {
			attempts.Add(1)
			time.AfterFunc(time.Second, cancel)
			return &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {"60"}}, Body: http.NoBody}
		})
		transport := hophttp.NewTransport(harness.NewClient(t), base)
		_, err := transport.RoundTrip(newRequest(t, http.MethodGet, "http://orders.test/", "").WithContext(ctx)) //nolint:bodyclose // there is none
		if !errors.Is(err, context.Canceled) || attempts.Load() != 1 {
			t.Errorf("error %v after %d attempts", err, attempts.Load())
		}
	})
}

func TestRequestWhoseTimeIsOverReturnsTheContextsError(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		release := make(chan struct{})
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/body" {
				_ = http.NewResponseController(w).Flush()
			}
			<-release
		}))
		s.EnableHTTP2 = http2
		s.StartTLS()
		for _, c := range []struct {
			path            string
			request, policy time.Duration
		}{{"/", 50 * time.Millisecond, 0}, {"/body", 50 * time.Millisecond, 0}, {"/", time.Minute, 50 * time.Millisecond}} {
			ctx, cancel := context.WithTimeout(t.Context(), c.request)
			transport := hophttp.NewTransport(harness.NewClient(t, harness.Policy(interceptors.Policy{Timeout: c.policy})), s.Client().Transport)
			response, err := transport.RoundTrip(newRequest(t, http.MethodGet, s.URL+c.path, "").WithContext(ctx))
			if err == nil {
				_, err = io.ReadAll(response.Body)
				_ = response.Body.Close()
			}
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("HTTP/2 %v, %+v: error %v", http2, c, err)
			}
			cancel()
		}
		close(release)
		s.Close()
	}
}

func TestDeadlineThatIsFarAwayIsSentAsSuch(t *testing.T) {
	t.Parallel()
	for name, deadline := range map[string]time.Time{
		"of another age":          time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC),
		"of the longest duration": time.Now().Add(math.MaxInt64),
		"of a century":            time.Now().AddDate(100, 0, 0),
	} {
		ctx, cancel := context.WithDeadline(t.Context(), deadline)
		base := answering(func(_ int, r *http.Request) *http.Response {
			if v := r.Header.Get("Grpc-Timeout"); len(v) < 4 || !strings.HasSuffix(v, "H") && !strings.HasSuffix(v, "M") {
				t.Errorf("a deadline %s is sent as %q", name, v)
			}
			return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}
		})
		do(t, hophttp.NewTransport(harness.NewClient(t), base), newRequest(t, http.MethodGet, "http://orders.test/", "").WithContext(ctx))
		cancel()
	}
}

func TestServerThatAsksForAVeryLongPauseIsNotCalledAgain(t *testing.T) {
	t.Parallel()
	for _, after := range []string{"5184000", "99999999999999999999", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat)} {
		attempts := 0
		base := answering(func(attempt int, _ *http.Request) *http.Response {
			attempts = attempt
			return &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {after}}, Body: http.NoBody}
		})
		if r := get(t, hophttp.NewTransport(harness.NewClient(t), base), "http://orders.test/"); r.status != http.StatusServiceUnavailable || attempts != 1 {
			t.Errorf("Retry-After %s: status %d after %d attempts", after, r.status, attempts)
		}
	}
}

func TestConnectionOfAFailedAttemptIsUsedAgain(t *testing.T) {
	t.Parallel()
	attempts := 0
	url := plain(t, func(w http.ResponseWriter, _ *http.Request) {
		if attempts++; attempts < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprint(w, strings.Repeat("x", 30000))
		}
	})
	var reused []bool
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = append(reused, i.Reused) }}
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	transport := hophttp.NewTransport(harness.NewClient(t, interceptors.WithPolicy(shortPauses{})), base)
	do(t, transport, newRequest(t, http.MethodGet, url, "").WithContext(httptrace.WithClientTrace(t.Context(), trace)))
	if fmt.Sprint(reused) != "[false true true]" {
		t.Errorf("connections used again: %v", reused)
	}
}

// countedBody counts how often it was closed.
type countedBody struct {
	io.Reader
	closed *atomic.Int64
}

func (b countedBody) Close() error {
	b.closed.Add(1)
	return nil
}

func TestBodiesOfAllAttemptsAreClosed(t *testing.T) {
	t.Parallel()
	url := plain(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	for key, attempts := range map[string]int64{"k": 3, "invalid, because of the comma": 1} {
		var opened, closed atomic.Int64
		request := newRequest(t, http.MethodPut, url, "body")
		request.GetBody = func() (io.ReadCloser, error) {
			opened.Add(1)
			return countedBody{strings.NewReader("body"), &closed}, nil
		}
		request.Body, _ = request.GetBody()
		request.Header.Set("Idempotency-Key", key)
		if response, err := fast(t).RoundTrip(request); err == nil {
			_ = response.Body.Close()
		}
		if opened.Load() != attempts || closed.Load() != attempts {
			t.Errorf("key %q: %d bodies were opened and %d closed, want %d", key, opened.Load(), closed.Load(), attempts)
		}
	}
}

// The answer says that an earlier attempt with the same key is still running.
func TestRequestWhoseKeyIsInProgressIsRetried(t *testing.T) {
	t.Parallel()
	var attempts atomic.Int64
	url := plain(t, func(w http.ResponseWriter, _ *http.Request) {
		if attempts.Add(1) == 1 {
			st, err := status.New(codes.Aborted, "running").WithDetails(&errdetails.ErrorInfo{Domain: interceptors.Domain, Reason: interceptors.ReasonInProgress})
			if err != nil {
				t.Error(err)
			}
			hophttp.WriteError(w, st.Err())
		}
	})
	if r := post(t, fast(t), url, "k", ""); r.status != http.StatusOK || attempts.Load() != 2 {
		t.Errorf("status %d after %d attempts", r.status, attempts.Load())
	}
}
