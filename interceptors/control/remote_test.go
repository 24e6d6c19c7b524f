package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors/control"
)

// get returns the status, the header and the body of a response.
func get(t *testing.T, url, etag string) (code int, header http.Header, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(all)
}

func TestHandlerServesTheTextInUseAndItsStatus(t *testing.T) {
	t.Parallel()
	file, path := open(t, text(1))
	server := httptest.NewServer(http.StripPrefix("/control", control.Handler(file)))
	defer server.Close()
	_, header, body := get(t, server.URL+"/control/", "")
	etag := header.Get("ETag")
	if body != text(1) || header.Get("Hopbound-Control-Version") != "v1" || header.Get("Content-Type") != "application/yaml" || etag == "" {
		t.Errorf("%s %v", body, header)
	}
	if code, _, body := get(t, server.URL+"/control/", etag); code != http.StatusNotModified || body != "" {
		t.Errorf("%d %s", code, body)
	}
	write(t, path, "mode: enforced")
	_ = file.Reload(t.Context())
	if _, _, body := get(t, server.URL+"/control/", ""); body != text(1) {
		t.Errorf("an invalid text is served: %s", body)
	}
	_, _, body = get(t, server.URL+"/control/status", "")
	var got struct {
		Version  string    `json:"version"`
		LoadedAt time.Time `json:"loadedAt"`
		Error    string    `json:"error"`
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil || got.Version != "v1" || !got.LoadedAt.Equal(file.Status().Loaded) ||
		!strings.HasSuffix(got.Error, "policies.yaml:1: mode: must be one of enforce, observe") {
		t.Errorf("%s %v", body, err)
	}
	write(t, path, text(2))
	_ = file.Reload(t.Context())
	_, header, body = get(t, server.URL+"/control/", etag)
	if body != text(2) || header.Get("ETag") == etag {
		t.Errorf("%v %s", header, body)
	}
	if _, _, body = get(t, server.URL+"/control/status", ""); strings.Contains(body, "error") {
		t.Error(body)
	}
	if code, _, _ := get(t, server.URL+"/control/else", ""); code != http.StatusNotFound {
		t.Error(code)
	}
	post, err := server.Client().Post(server.URL+"/control/", "text/plain", strings.NewReader("mode: observe")) //nolint:noctx // of a test
	if err != nil {
		t.Fatal(err)
	}
	_ = post.Body.Close()
	if post.StatusCode != http.StatusMethodNotAllowed {
		t.Error(post.Status)
	}
}

func TestFileIsReadFromAURL(t *testing.T) {
	t.Parallel()
	origin, path := open(t, text(1))
	handler := control.Handler(origin)
	var down, unchanged atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() > 0 {
			http.Error(w, "mode: observe", int(down.Load()))
			return
		}
		if r.Header.Get("If-None-Match") != "" {
			unchanged.Add(1)
		}
		handler.ServeHTTP(w, r)
	}))
	defer server.Close()
	const secret = "letmein"
	file, err := control.Open(strings.Replace(server.URL, "://", "://user:"+secret+"@", 1),
		control.WithHTTPClient(server.Client()), control.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil || timeout(file) != time.Second {
		t.Fatal(err)
	}
	reload := func() error { t.Helper(); return file.Reload(t.Context()) }
	if err := reload(); err != nil || unchanged.Load() != 1 {
		t.Errorf("%v, %d requests with If-None-Match", err, unchanged.Load())
	}
	write(t, path, text(2))
	_ = origin.Reload(t.Context())
	if err := reload(); err != nil || timeout(file) != 2*time.Second || file.Status().Version != "v2" {
		t.Errorf("%v %v", timeout(file), err)
	}
	for _, code := range []int64{http.StatusInternalServerError, http.StatusNoContent, http.StatusNotFound} {
		down.Store(code)
		if err := reload(); err == nil || !strings.Contains(err.Error(), http.StatusText(int(code))) || strings.Contains(err.Error(), secret) || timeout(file) != 2*time.Second {
			t.Errorf("%d: %v %v", code, err, timeout(file))
		}
	}
	down.Store(0)
	if err := reload(); err != nil || file.Status().Err != nil {
		t.Errorf("%v, status %v", err, file.Status().Err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := file.Reload(ctx); err == nil || file.Status().Err != nil {
		t.Errorf("a reload that was cancelled returned %v, and the status is %v", err, file.Status().Err)
	}
	server.Close()
	if err := reload(); err == nil || strings.Contains(err.Error(), secret) || timeout(file) != 2*time.Second {
		t.Errorf("%v %v", err, timeout(file))
	}
}

// roundTrip is a transport in a function.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A request that hangs must not keep the versions that follow from being read, even if the client has no timeout.
func TestReadThatHangsEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var hangs atomic.Bool
		var version atomic.Int64
		version.Store(1)
		client := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			if hangs.Load() {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(text(int(version.Load()))))}, nil
		})}
		var logged log
		file, err := control.Open("https://user:letmein@origin/policies?signature=letmein", control.WithHTTPClient(client), logged.option())
		if err != nil {
			t.Fatal(err)
		}
		hangs.Store(true)
		reload := make(chan error)
		go func() { reload <- file.Reload(t.Context()) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := file.Reload(ctx); !errors.Is(err, context.DeadlineExceeded) || file.Status().Err != nil {
			t.Errorf("a second reload returned %v, and the status is %v", err, file.Status().Err)
		}
		started := time.Now()
		err = <-reload
		if took := time.Since(started); !errors.Is(err, context.DeadlineExceeded) || took != 9*time.Second || file.Status().Err == nil {
			t.Errorf("%v after %v, and the status is %v", err, took, file.Status().Err)
		}
		for _, text := range []string{err.Error(), logged.take()} {
			if strings.Contains(text, "letmein") {
				t.Error(text)
			}
		}
		hangs.Store(false)
		version.Store(2)
		if err := file.Reload(t.Context()); err != nil || timeout(file) != 2*time.Second {
			t.Errorf("%v %v", timeout(file), err)
		}
	})
}
