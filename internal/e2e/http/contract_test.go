package http_test

import (
	"io"
	"net/http"
	"testing"
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
