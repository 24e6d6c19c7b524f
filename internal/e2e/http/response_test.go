package http_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/hophttp"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestResponseThatIsStoredMayBeginWithInformationalOnes(t *testing.T) {
	t.Parallel()
	url := keyed(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusCreated)
		_, _ = fmt.Fprint(w, "made")
	})
	for range 2 {
		if r := post(t, http.DefaultTransport, url, "k", ""); r.status != http.StatusCreated || r.body != "made" {
			t.Errorf("status %d and body %q", r.status, r.body)
		}
	}
}

func TestConnectionCannotBeHijackedIfTheResponseIsToBeStored(t *testing.T) {
	t.Parallel()
	url := keyed(t, func(w http.ResponseWriter, _ *http.Request) {
		if _, _, err := http.NewResponseController(w).Hijack(); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("error %v", err)
		}
		_, _ = fmt.Fprint(w, "not taken")
	})
	for range 2 {
		if r := post(t, http.DefaultTransport, url, "k", ""); r.status != http.StatusOK || r.body != "not taken" {
			t.Errorf("status %d and body %q", r.status, r.body)
		}
	}
}

func TestEdgeThatAnswersEarlyReportsNoToken(t *testing.T) {
	t.Parallel()
	s := edge(t, func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
	}, nil)
	ctx, end := budget.NewRoot(t.Context(), budget.New(budget.PerRequest(10)))
	defer end(true)
	do(t, fast(t), newRequest(t, http.MethodGet, s.URL, "").WithContext(ctx))
	if a, _ := budget.FromContext(ctx); a.Used() != 0 {
		t.Errorf("the edge charges %d tokens to its caller", a.Used())
	}
}

func TestErrorReplacesTheLengthOfAResponseThatWasPrepared(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "5")
		hophttp.WriteError(w, status.Error(codes.NotFound, "no such order"))
	}, nil)
	if r := get(t, http.DefaultTransport, s.URL); !strings.Contains(r.body, "no such order") {
		t.Errorf("status %d and body %q", r.status, r.body)
	}
}

func TestFilesOfAFormAreRemovedAfterTheRequest(t *testing.T) {
	t.Parallel()
	names := make(chan string, 1)
	h, err := hophttp.NewHandler(harness.NewServer(t), http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if err := r.ParseMultipartForm(1); err != nil {
			t.Error(err)
		}
		f, err := r.MultipartForm.File["upload"][0].Open()
		if err != nil {
			t.Error(err)
			return
		}
		if f, ok := f.(*os.File); ok {
			names <- f.Name()
		}
		_ = f.Close()
	}))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	var body strings.Builder
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("upload", "a.bin")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = part.Write(make([]byte, 20<<20))
	_ = form.Close()
	request := newRequest(t, http.MethodPost, s.URL, body.String())
	request.Header.Set("Content-Type", form.FormDataContentType())
	do(t, http.DefaultTransport, request)
	s.Close() // waits for the end of the request
	if name := <-names; fileExists(name) {
		t.Error("the file is left")
		_ = os.Remove(name)
	}
}

func fileExists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// Callers can make up methods. A server that named them would fill its memory and its metrics.
func TestMethodsThatCallersMakeUpHaveOneName(t *testing.T) {
	t.Parallel()
	reader, metered := harness.Metered()
	s := edge(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusMethodNotAllowed) }, []interceptors.ServerOption{metered})
	for _, method := range []string{"MADE-UP", "INVENTED", "Get", "get"} {
		if r := do(t, http.DefaultTransport, newRequest(t, method, s.URL, "")); r.status != http.StatusMethodNotAllowed {
			t.Errorf("%s: status %d", method, r.status)
		}
	}
	metrics := harness.Collected(t, reader)
	for _, name := range []string{"MADE-UP", "INVENTED", "HTTPService/Get", "HTTPService/get"} {
		if strings.Contains(metrics, name) {
			t.Errorf("a metric names %s:\n%s", name, metrics)
		}
	}
}

// conflicting is a store whose first transaction is rolled back because of another one.
type conflicting struct {
	harness.TakeoverStore
	runs atomic.Int64
}

func (c *conflicting) Transact(ctx context.Context, claim idempotency.Claim, run func(context.Context, idempotency.BeginResult) idempotency.Verdict) (idempotency.BeginResult, error) {
	result, err := c.TakeoverStore.Transact(ctx, claim, run)
	if c.runs.Add(1) == 1 {
		err = idempotency.ErrConflict
	}
	return result, err
}

func TestHandlerThatRunsAgainAfterAConflictStartsAnew(t *testing.T) {
	t.Parallel()
	store := interceptors.WithIdempotency(&conflicting{TakeoverStore: harness.TakeoverStore{Memory: idempotency.NewMemory()}}, idempotency.Reruns(3))
	runs := 0
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if runs++; runs == 1 {
			w.Header().Set("X-First", "yes")
			w.WriteHeader(http.StatusAccepted)
		}
		_, _ = fmt.Fprintf(w, "paid %s", body)
	}, []interceptors.ServerOption{store}, hophttp.SharedKeys())
	r := post(t, http.DefaultTransport, s.URL, "k", "5 EUR")
	if runs != 2 || r.status != http.StatusOK || r.body != "paid 5 EUR" || r.header.Get("X-First") != "" {
		t.Errorf("after %d runs: status %d, body %q and header %v", runs, r.status, r.body, r.header)
	}
}

func TestMethodsThatShareANameDoNotShareKeys(t *testing.T) {
	t.Parallel()
	url := keyed(t, func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, r.Method) })
	as := func(method string) answered {
		request := newRequest(t, method, url, "")
		request.Header.Set("Idempotency-Key", "k")
		return do(t, http.DefaultTransport, request)
	}
	if first, again := as("LOCK"), as("LOCK"); first.body != "LOCK" || again.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("answers %+v and %+v", first, again)
	}
	wantProblem(t, as("UNLOCK"), http.StatusUnprocessableEntity, interceptors.ReasonKeyReused)
}

func TestProblemDoesNotShowTheAddressOfTheServiceBehind(t *testing.T) {
	t.Parallel()
	client := &http.Client{Transport: hophttp.NewTransport(harness.NewClient(t), nil)}
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), -1)
		defer cancel()
		response, err := client.Do(newRequest(t, http.MethodGet, "http://internal.test/secret", "").WithContext(ctx))
		if err == nil {
			_ = response.Body.Close()
		}
		hophttp.WriteError(w, err)
	}, nil)
	r := get(t, http.DefaultTransport, s.URL)
	wantProblem(t, r, http.StatusGatewayTimeout, interceptors.ReasonDeadlineExpired)
	if strings.Contains(r.body, "internal.test") {
		t.Errorf("answer %s", r.body)
	}
}

func TestStoredResponseAddsToTheListsOfTheMiddlewareBefore(t *testing.T) {
	t.Parallel()
	store := interceptors.WithIdempotency(idempotency.NewMemory())
	h, err := hophttp.NewHandler(harness.NewServer(t, store), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "own", Value: "1"})
		w.Header().Add("Vary", "Accept")
	}), hophttp.SharedKeys())
	if err != nil {
		t.Fatal(err)
	}
	url := plain(t, func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "session", Value: "2"})
		w.Header().Add("Vary", "Origin")
		h.ServeHTTP(w, r)
	})
	for _, key := range []string{"", "k", "k"} {
		header := post(t, http.DefaultTransport, url, key, "").header
		if cookies, vary := fmt.Sprint(header["Set-Cookie"]), fmt.Sprint(header["Vary"]); cookies != "[session=2 own=1]" || vary != "[Origin Accept]" {
			t.Errorf("key %q: cookies %s, Vary %s", key, cookies, vary)
		}
	}
}
