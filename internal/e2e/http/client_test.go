package http_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// answered is a response that was read.
type answered struct {
	status int
	header http.Header
	body   string
}

func newRequest(t *testing.T, method, url, body string) *http.Request {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, url, reader)
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// do makes a request through a transport, and reads the response.
func do(t *testing.T, transport http.RoundTripper, request *http.Request) answered {
	t.Helper()
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		t.Error(err)
		return answered{}
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	return answered{response.StatusCode, response.Header, string(body)}
}

func get(t *testing.T, transport http.RoundTripper, url string) answered {
	t.Helper()
	return do(t, transport, newRequest(t, http.MethodGet, url, ""))
}

// post posts with an idempotency key, if it is not empty.
func post(t *testing.T, transport http.RoundTripper, url, key, body string) answered {
	t.Helper()
	request := newRequest(t, http.MethodPost, url, body)
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	return do(t, transport, request)
}

// wantProblem checks an answer in the form of RFC 9457.
func wantProblem(t *testing.T, got answered, status int, reason string) {
	t.Helper()
	var p struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
		Reason string `json:"reason"`
	}
	if err := json.Unmarshal([]byte(got.body), &p); err != nil {
		t.Errorf("answer %d %q is not JSON: %v", got.status, got.body, err)
		return
	}
	if got.status != status || p.Status != status || p.Reason != reason || got.header.Get("Content-Type") != "application/problem+json" ||
		p.Title == "" || p.Detail == "" || !strings.HasSuffix(p.Type, strings.ToLower(reason)) {
		t.Errorf("answer %d %+v, want %d with reason %s", got.status, p, status, reason)
	}
}
