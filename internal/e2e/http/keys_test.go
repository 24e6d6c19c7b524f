package http_test

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hopbound/hopbound/hophttp"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// tenant is the caller's name, which a test may send in clear.
func tenant(r *http.Request) string {
	if name := r.Header.Values("X-Tenant"); len(name) > 0 {
		return name[0]
	}
	return "ann"
}

// keyed serves a handler at the edge with a store.
func keyed(t *testing.T, next http.HandlerFunc, opts ...idempotency.Option) string {
	t.Helper()
	opts = append(opts, idempotency.Tenant(interceptors.TransportIdentity))
	return edge(t, next, []interceptors.ServerOption{interceptors.WithIdempotency(idempotency.NewMemory(), opts...)}, hophttp.Tenant(tenant)).URL
}

func TestRepeatedRequestReceivesTheStoredResponse(t *testing.T) {
	t.Parallel()
	var runs atomic.Int64
	url := keyed(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Location", fmt.Sprint("/payments/", runs.Add(1)))
		w.WriteHeader(http.StatusCreated)
		_, _ = fmt.Fprintf(w, "paid %s", body)
	})
	first := post(t, http.DefaultTransport, url, "k1", "5 EUR")
	again := post(t, http.DefaultTransport, url, `"k1"`, "5 EUR") // quoted, as in the draft
	if first.status != http.StatusCreated || first.body != "paid 5 EUR" || first.header.Get("Location") != "/payments/1" || first.header.Get("Idempotency-Replayed") != "" {
		t.Errorf("first response %+v", first)
	}
	if again.status != first.status || again.body != first.body || again.header.Get("Location") != "/payments/1" || again.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("repeated response %+v, want that of the first with a marker", again)
	}
	post(t, http.DefaultTransport, url, "k2", "5 EUR")
	post(t, http.DefaultTransport, url, "", "5 EUR")
	if runs.Load() != 3 {
		t.Errorf("%d runs, want one for each key and one without a key", runs.Load())
	}
}

func TestKeyedRequestsThatAreRejected(t *testing.T) {
	t.Parallel()
	url := keyed(t, func(http.ResponseWriter, *http.Request) {}, idempotency.RequireKey())
	post(t, http.DefaultTransport, url, "used", "5 EUR")
	wantProblem(t, post(t, http.DefaultTransport, url, "used", "6 EUR"), http.StatusUnprocessableEntity, interceptors.ReasonKeyReused)
	wantProblem(t, post(t, http.DefaultTransport, url+"/other", "used", "5 EUR"), http.StatusUnprocessableEntity, interceptors.ReasonKeyReused)
	wantProblem(t, post(t, http.DefaultTransport, url, "", "5 EUR"), http.StatusBadRequest, interceptors.ReasonKeyMissing)
	wantProblem(t, post(t, http.DefaultTransport, url, "a,b", "5 EUR"), http.StatusBadRequest, interceptors.ReasonKeyInvalid)
	json := newRequest(t, http.MethodPost, url, "5 EUR")
	json.Header.Set("Idempotency-Key", "used")
	json.Header.Set("Content-Type", "application/json")
	wantProblem(t, do(t, http.DefaultTransport, json), http.StatusUnprocessableEntity, interceptors.ReasonKeyReused)
	twice := newRequest(t, http.MethodPost, url, "5 EUR")
	twice.Header["Idempotency-Key"] = []string{"a", "b"}
	wantProblem(t, do(t, http.DefaultTransport, twice), http.StatusBadRequest, interceptors.ReasonKeyInvalid)
	if large := post(t, http.DefaultTransport, url, "large", strings.Repeat("x", 1<<20+1)); large.status != http.StatusRequestEntityTooLarge {
		t.Errorf("answer to a large body: %d", large.status)
	}
	if r := get(t, http.DefaultTransport, url); r.status != http.StatusOK {
		t.Errorf("a GET without a key is answered with %d", r.status)
	}
}

// One handler may serve several paths whose prefix was removed before it. A caller may repeat a request at another host.
func TestKeyOfARemovedPrefixIsReused(t *testing.T) {
	t.Parallel()
	h := stored(t, func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, r.Host, r.URL.Path) })
	mux := http.NewServeMux()
	mux.Handle("/pay/", http.StripPrefix("/pay", h))
	mux.Handle("/refund/", http.StripPrefix("/refund", h))
	url := plain(t, mux.ServeHTTP)
	at := func(path, host string) answered {
		request := newRequest(t, http.MethodPost, url+path, "5 EUR")
		request.Header.Set("Idempotency-Key", "k")
		request.Host = host
		return do(t, http.DefaultTransport, request)
	}
	if first, again := at("/pay/1", "a.test"), at("/pay/1", "a.test"); first.body != "a.test/1" || again.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("answers %+v and %+v", first, again)
	}
	wantProblem(t, at("/refund/1", "a.test"), http.StatusUnprocessableEntity, interceptors.ReasonKeyReused)
	if elsewhere := at("/pay/1", "b.test"); elsewhere.body != "a.test/1" {
		t.Errorf("another host answers %+v", elsewhere)
	}
}

func TestKeysOfOtherTenantsAreOtherKeys(t *testing.T) {
	t.Parallel()
	var runs atomic.Int64
	url := keyed(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, runs.Add(1)) })
	as := func(who string) answered {
		request := newRequest(t, http.MethodPost, url, "5 EUR")
		request.Header.Set("Idempotency-Key", "k")
		request.Header.Set("X-Tenant", who)
		return do(t, http.DefaultTransport, request)
	}
	if a, b, c := as("ann"), as("bob"), as("ann"); a.body != "1" || b.body != "2" || c.body != "1" {
		t.Errorf("responses %s, %s and %s", a.body, b.body, c.body)
	}
	if a, b := as(""), as(""); a.body != "3" || b.body != "4" {
		t.Errorf("responses %s and %s to callers that are not known, want two runs", a.body, b.body)
	}
}

// With mutual TLS, a caller is known by its certificate. One that is not verified is nobody's.
func TestKeysBelongToTheCertificatesOfCallers(t *testing.T) {
	t.Parallel()
	ann, bob, eve := selfSigned(t, "ann"), selfSigned(t, "bob"), selfSigned(t, "eve")
	trusted := x509.NewCertPool()
	trusted.AddCert(ann.Leaf)
	trusted.AddCert(bob.Leaf)
	var runs atomic.Int64
	h, err := hophttp.NewHandler(harness.NewServer(t, interceptors.WithIdempotency(idempotency.NewMemory())),
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, runs.Add(1)) }))
	if err != nil {
		t.Fatal(err)
	}
	for mode, verifies := range map[tls.ClientAuthType]bool{tls.VerifyClientCertIfGiven: true, tls.RequestClientCert: false} {
		s := httptest.NewUnstartedServer(h)
		s.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: mode}
		if verifies {
			s.TLS.ClientCAs = trusted // clients do not send certificates of others
		}
		s.StartTLS()
		t.Cleanup(s.Close)
		as := func(certificates ...tls.Certificate) string {
			transport := s.Client().Transport.(*http.Transport).Clone() //nolint:errcheck // it is httptest's
			transport.TLSClientConfig.Certificates = certificates
			defer transport.CloseIdleConnections()
			return post(t, transport, s.URL, "k", "").body
		}
		runs.Store(0)
		if verifies {
			if a, b, again := as(ann), as(bob), as(ann); a != "1" || b != "2" || again != "1" {
				t.Errorf("responses %s, %s and %s", a, b, again)
			}
		} else if a, b := as(eve), as(eve); a != "1" || b != "2" {
			t.Errorf("responses %s and %s to a certificate that is not verified, want two runs", a, b)
		}
		runs.Store(10)
		if a, b := as(), as(); a != "11" || b != "12" {
			t.Errorf("responses %s and %s without a certificate, want two runs", a, b)
		}
	}
}

// Tenant decides alone. A certificate may be that of a proxy, which all callers share.
func TestCallerThatTenantDoesNotKnowIsUnknownWhateverItsCertificate(t *testing.T) {
	t.Parallel()
	runs := 0
	h, err := hophttp.NewHandler(harness.NewServer(t, interceptors.WithIdempotency(idempotency.NewMemory())),
		http.HandlerFunc(func(http.ResponseWriter, *http.Request) { runs++ }), hophttp.Tenant(func(*http.Request) string { return "" }))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
		request.Header.Set("Idempotency-Key", "k")
		request.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{selfSigned(t, "proxy").Leaf}}}
		h.ServeHTTP(httptest.NewRecorder(), request)
	}
	if runs != 2 {
		t.Errorf("%d runs, want two", runs)
	}
}

// selfSigned returns the certificate of a client.
func selfSigned(t *testing.T, name string) tls.Certificate {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(nil, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private, Leaf: leaf}
}

// Without a tenant, callers could read each other's responses. Their keys are therefore ignored.
func TestKeyOfAnUnknownCallerIsIgnored(t *testing.T) {
	t.Parallel()
	var runs atomic.Int64
	store := interceptors.WithIdempotency(idempotency.NewMemory())
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, runs.Add(1)) }, []interceptors.ServerOption{store})
	shared := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "own ", runs.Add(1)) }, []interceptors.ServerOption{store}, hophttp.SharedKeys())
	if a, b := post(t, http.DefaultTransport, s.URL, "k", ""), post(t, http.DefaultTransport, s.URL, "k", ""); a.body != "1" || b.body != "2" {
		t.Errorf("responses %s and %s, want two runs", a.body, b.body)
	}
	if a, b := post(t, http.DefaultTransport, shared.URL, "k2", ""), post(t, http.DefaultTransport, shared.URL, "k2", ""); a.body != "own 3" || b.body != "own 3" {
		t.Errorf("responses %s and %s, want one run among services of our own", a.body, b.body)
	}
}

func TestFailuresAreNotStoredAndOtherResponsesAre(t *testing.T) {
	t.Parallel()
	for code, stored := range map[int]bool{
		200: true, 201: true, 204: true, 302: true, 400: true, 404: true, 409: true, 422: true,
		401: false, 403: false, 408: false, 425: false, 429: false, 499: false,
		500: false, 501: false, 502: false, 503: false, 504: false, 599: false,
	} {
		var runs atomic.Int64
		url := keyed(t, func(w http.ResponseWriter, _ *http.Request) { runs.Add(1); w.WriteHeader(code) })
		client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		for range 2 {
			request := newRequest(t, http.MethodPost, url, "")
			request.Header.Set("Idempotency-Key", "k")
			response, err := client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != code {
				t.Errorf("answer %d, want %d", response.StatusCode, code)
			}
		}
		if (runs.Load() == 1) != stored {
			t.Errorf("status %d: %d runs, want it stored: %v", code, runs.Load(), stored)
		}
	}
}

// A service behind may fail with any code. Over HTTP, the same failures are stored as over gRPC, except UNIMPLEMENTED, whose
// status is 5xx.
func TestErrorsThatAreNotStoredOverGRPCAreNotStoredOverHTTP(t *testing.T) {
	t.Parallel()
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		var runs atomic.Int64
		url := keyed(t, func(w http.ResponseWriter, _ *http.Request) {
			hophttp.WriteError(w, status.Error(code, fmt.Sprint("run ", runs.Add(1))))
		})
		first, again := post(t, http.DefaultTransport, url, "k", ""), post(t, http.DefaultTransport, url, "k", "")
		stored := slices.Contains(idempotency.DefaultCodes(), code) && code != codes.Unimplemented
		if first.status != again.status || (runs.Load() == 1) != stored || (first.body == again.body && !stored && first.status < 500) {
			t.Errorf("%v: %d runs, answers %+v and %+v, want them stored: %v", code, runs.Load(), first, again, stored)
		}
	}
}

func TestConcurrentRequestsWithOneKeyAreOneRun(t *testing.T) {
	t.Parallel()
	var runs atomic.Int64
	release := make(chan struct{})
	url := keyed(t, func(w http.ResponseWriter, _ *http.Request) {
		<-release
		_, _ = fmt.Fprint(w, "run ", runs.Add(1))
		w.(http.Flusher).Flush() //nolint:errcheck // it has no effect, because the outcome is to be stored
		_, _ = fmt.Fprint(w, strings.Repeat(".", 20<<10))
	})
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if r := post(t, http.DefaultTransport, url, "k", "b"); !strings.HasPrefix(r.body, "run 1.") || len(r.body) != 5+20<<10 {
				t.Errorf("answer %d with %d bytes", r.status, len(r.body))
			}
		})
	}
	close(release)
	wg.Wait()
}

func TestCallerThatDoesNotWaitLongEnoughIsToldWhenToTryAgain(t *testing.T) {
	t.Parallel()
	started, release := make(chan struct{}), make(chan struct{})
	url := keyed(t, func(http.ResponseWriter, *http.Request) { close(started); <-release })
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(release)
	wg.Go(func() { post(t, http.DefaultTransport, url, "k", "") })
	<-started
	request := newRequest(t, http.MethodPost, url, "")
	request.Header.Set("Idempotency-Key", "k")
	request.Header.Set("Grpc-Timeout", "50m")
	r := do(t, http.DefaultTransport, request)
	wantProblem(t, r, http.StatusConflict, interceptors.ReasonInProgress)
	if r.header.Get("Retry-After") == "" {
		t.Error("the answer does not say when to try again")
	}
}

// A browser that sends a form again, after the reply was lost, makes one payment: the edge has no store, but the
// payment's key is derived from that of the request.
func TestRepeatedRequestRepeatsTheKeysOfItsCalls(t *testing.T) {
	t.Parallel()
	bank := &harness.Bank{}
	pay := bank.Open(t, idempotency.NewMemory()).Downstream()
	s := edge(t, func(w http.ResponseWriter, r *http.Request) {
		reply, err := pay.Pay(r.Context(), &testv1.PayRequest{Account: "rent", Cents: 1})
		if err != nil {
			hophttp.WriteError(w, err)
			return
		}
		_, _ = fmt.Fprint(w, reply.GetPayment())
	}, nil, hophttp.Tenant(tenant))
	first, again := post(t, http.DefaultTransport, s.URL, "k", "b"), post(t, http.DefaultTransport, s.URL, "k", "b")
	if first.body == "" || first.body != again.body || bank.Calls.Load() != 1 {
		t.Errorf("answers %q and %q with %d payments, want one", first.body, again.body, bank.Calls.Load())
	}
}

// The bank is still running the payment of an earlier attempt. The edge must not keep that answer as the outcome.
func TestAnswerThatAKeyIsInProgressIsNotStored(t *testing.T) {
	t.Parallel()
	var runs atomic.Int64
	url := keyed(t, func(w http.ResponseWriter, _ *http.Request) {
		if runs.Add(1) > 1 {
			_, _ = fmt.Fprint(w, "paid")
			return
		}
		st, err := status.New(codes.Aborted, "not now").WithDetails(&errdetails.ErrorInfo{Domain: interceptors.Domain, Reason: interceptors.ReasonInProgress})
		if err != nil {
			t.Error(err)
		}
		hophttp.WriteError(w, st.Err())
	})
	wantProblem(t, post(t, http.DefaultTransport, url, "k", ""), http.StatusConflict, interceptors.ReasonInProgress)
	if r := post(t, http.DefaultTransport, url, "k", ""); r.body != "paid" {
		t.Errorf("the repeated request is answered with %d %s", r.status, r.body)
	}
}

// A problem of the application may have a member of the same name.
func TestProblemOfAnApplicationIsAnOutcome(t *testing.T) {
	t.Parallel()
	var runs atomic.Int64
	declined := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusConflict)
		_, _ = fmt.Fprintf(w, `{"type":"https://bank.test/declined","reason":"CARD_EXPIRED","run":%d}`, runs.Add(1))
	}
	reader, metered := harness.Metered()
	transport, url := fast(t, metered), keyed(t, declined)
	first, again := post(t, transport, url, "k", ""), post(t, transport, url, "k", "")
	if first.status != http.StatusConflict || again.body != first.body || runs.Load() != 1 {
		t.Errorf("answers %+v and %+v", first, again)
	}
	if metrics := harness.Collected(t, reader); strings.Contains(metrics, "ABORTED") {
		t.Errorf("the client counts a failure:\n%s", metrics)
	}
}
