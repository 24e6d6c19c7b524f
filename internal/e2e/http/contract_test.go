package http_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/hophttp"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
)

// trailing is a body that sets the trailer of its request when it has been read.
type trailing struct{ request *http.Request }

func (b trailing) Read([]byte) (int, error) {
	b.request.Trailer.Set("X-Sum", "7")
	return 0, io.EOF
}

func (trailing) Close() error { return nil }

func TestTrailerOfARequestIsSent(t *testing.T) {
	t.Parallel()
	got := ""
	url := plain(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		got = r.Trailer.Get("X-Sum")
	})
	request := newRequest(t, http.MethodPut, url, "")
	request.Trailer = http.Header{"X-Sum": nil}
	request.Body, request.ContentLength = trailing{request}, -1
	if do(t, fast(t), request); got != "7" {
		t.Errorf("the trailer is %q", got)
	}
}

// As with net/http, code that asks whether an error is a timeout gets the same answer.
func TestErrorOfADeadlineThatHasPassedIsATimeout(t *testing.T) {
	t.Parallel()
	waits := roundTripper(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	late := interceptors.Policy{Timeout: time.Minute}
	for name, c := range map[string]struct {
		timeout time.Duration // of the request; 0 means no timeout
		policy  interceptors.Policy
	}{
		"before the call":      {timeout: -time.Second},
		"during the call":      {timeout: time.Second},
		"that of the policy":   {policy: late},
		"that of the attempts": {policy: interceptors.Policy{AttemptTimeout: time.Second, Timeout: time.Minute}},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx := t.Context()
			if c.timeout != 0 {
				limited, cancel := context.WithTimeout(ctx, c.timeout)
				defer cancel()
				ctx = limited
			}
			transport := hophttp.NewTransport(harness.NewClient(t, harness.Policy(c.policy)), waits)
			_, err := (&http.Client{Transport: transport}).Do(newRequest(t, http.MethodGet, "http://a.test/", "").WithContext(ctx)) //nolint:bodyclose // an error has no body
			if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("%s: the error %v is no timeout", name, err)
			}
			if c.timeout != 0 && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: the error %v is not that of the context", name, err)
			}
		})
	}
}

func TestErrorOfACancelledRequestIsNoTimeout(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := (&http.Client{Transport: fast(t)}).Do(newRequest(t, http.MethodGet, "http://a.test/", "").WithContext(ctx)) //nolint:bodyclose // an error has no body
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() || !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
