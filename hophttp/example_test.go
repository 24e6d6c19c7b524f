package hophttp_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/hopbound/hopbound/hophttp"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
)

// userOf stands for what your authentication has verified.
func userOf(*http.Request) string { return "ann" }

// The edge of a system: each request is a root, with a deadline, a budget and the key that the caller has sent.
func ExampleNewHandler() {
	shop := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/broken" { // or an error of a gRPC call
			hophttp.WriteError(w, errors.New("a secret"))
			return
		}
		_, _ = fmt.Fprintln(w, "paid at", time.Now())
	})

	server, err := interceptors.NewServer(
		interceptors.AtEdge(),
		interceptors.WithDefaultDeadline(2*time.Second),
		interceptors.WithMaxDeadline(5*time.Second), // whatever callers ask for
		interceptors.WithIdempotency(idempotency.NewMemory(), idempotency.Tenant(interceptors.TransportIdentity)),
	)
	if err != nil {
		log.Fatal(err)
	}
	handler, err := hophttp.NewHandler(server, shop,
		hophttp.Tenant(userOf), // whose keys they are
		hophttp.TimeoutHeader("X-Timeout-Ms", 5*time.Second),
	)
	if err != nil {
		log.Fatal(err)
	}
	edge := httptest.NewServer(handler)
	defer edge.Close()

	post := func(path, key string) (status, replayed, text string) {
		request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, edge.URL+path, strings.NewReader("5 EUR"))
		if err != nil {
			log.Fatal(err)
		}
		request.Header.Set("Idempotency-Key", key)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			log.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		body, _ := io.ReadAll(response.Body)
		return response.Status, response.Header.Get("Idempotency-Replayed"), string(body)
	}
	_, _, first := post("/pay", "order-17")
	_, replayed, second := post("/pay", "order-17")
	fmt.Println("the same response:", first == second, replayed)
	status, _, problem := post("/broken", "order-18")
	fmt.Println(status, problem)
	// Output:
	// the same response: true true
	// 500 Internal Server Error {"type":"about:blank","title":"Internal Server Error","status":500}
}

// A service calls another one over HTTP, with the deadline, the budget and the key of its own request.
func ExampleNewTransport() {
	attempts := 0
	stock := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if attempts++; attempts == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer stock.Close()

	client, err := interceptors.NewClient()
	if err != nil {
		log.Fatal(err)
	}
	httpClient := &http.Client{Transport: hophttp.NewTransport(client, http.DefaultTransport)}

	ctx := context.Background() // in a handler, that of its request
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, stock.URL, nil)
	if err != nil {
		log.Fatal(err)
	}
	response, err := httpClient.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	fmt.Println(response.Status, "after", attempts, "attempts")
	// Output: 200 OK after 2 attempts
}
