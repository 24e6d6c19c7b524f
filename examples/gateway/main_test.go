package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hopbound/hopbound/examples/internal/services"
	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type bank struct {
	paymentsv1.UnimplementedBankServiceServer
	charges atomic.Int64
}

func (b *bank) Charge(ctx context.Context, r *paymentsv1.ChargeRequest) (*paymentsv1.ChargeResponse, error) {
	if r.GetCents() < 0 {
		return nil, status.Error(codes.InvalidArgument, "the amount is negative")
	}
	if _, ok := ctx.Deadline(); !ok {
		return nil, status.Error(codes.Internal, "no deadline")
	}
	md, _ := metadata.FromIncomingContext(ctx)
	if key := md["idempotency-key"]; len(key) != 1 || key[0] == "k" || key[0] == "chosen" {
		return nil, status.Errorf(codes.Internal, "keys %q", key)
	}
	_ = grpc.SetHeader(ctx, metadata.Pairs("hop-internal", "secret", "x-own", "yes"))
	_ = grpc.SetTrailer(ctx, metadata.Pairs("hop-internal", "secret", "x-own", "yes"))
	return &paymentsv1.ChargeResponse{Charge: fmt.Sprint("charge ", b.charges.Add(1))}, nil
}

// open serves a bank behind a gateway, and returns the gateway's URL.
func open(t *testing.T) (string, *bank) {
	t.Helper()
	server, err := interceptors.NewServer(interceptors.WithIdempotency(idempotency.NewMemory()))
	if err != nil {
		t.Fatal(err)
	}
	b := &bank{}
	address := services.GRPC(t, func(s *grpc.Server) { paymentsv1.RegisterBankServiceServer(s, b) }, server.ServerOptions()...)
	client, err := interceptors.NewClient()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(address, append(client.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	gateway, err := newGateway(conn)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(gateway)
	t.Cleanup(s.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return s.URL, b
}

type answer struct {
	status int
	header http.Header
	text   string
}

func charge(t *testing.T, url, user, body string, header map[string]string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/charges", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth(user, "")
	for name, value := range header {
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, string(text)}
}

func TestRepeatedRequestChargesOnceForEachCustomer(t *testing.T) {
	url, bank := open(t)
	key := map[string]string{"Idempotency-Key": "k"}
	const body = `{"account": "rent", "cents": 5}`
	first, again := charge(t, url, "ann", body, key), charge(t, url, "ann", body, key)
	other := charge(t, url, "bob", body, key)
	if !strings.Contains(first.text, "charge 1") || first.text != again.text || !strings.Contains(other.text, "charge 2") || bank.charges.Load() != 2 {
		t.Errorf("responses %s, %s and %s with %d charges", first.text, again.text, other.text, bank.charges.Load())
	}
	if first.header.Get("Idempotency-Replayed") != "" || again.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("headers %v and %v, want the second one marked", first.header, again.header)
	}
	if first.header.Get("Grpc-Metadata-X-Own") != "yes" {
		t.Errorf("the header %v lacks that of the service", first.header)
	}
	for name := range first.header {
		if strings.Contains(name, "Hop-") {
			t.Errorf("the response has the header %s", name)
		}
	}
}

func TestCallersCannotChooseWhatHopboundSends(t *testing.T) {
	url, bank := open(t)
	header := map[string]string{"Idempotency-Key": "k", "Grpc-Metadata-Idempotency-Key": "chosen", "Grpc-Metadata-Hop-Context": "1;b=500"}
	if a := charge(t, url, "ann", `{"cents": 5}`, header); bank.charges.Load() != 1 {
		t.Errorf("response %s", a.text)
	}
}

func TestErrorsAreProblemDetails(t *testing.T) {
	url, _ := open(t)
	for _, c := range []struct {
		body, detail, reason string
		status               int
	}{
		{`{"cents": -5}`, "the amount is negative", "", http.StatusBadRequest},
		{`{"cents": 6}`, "", "", http.StatusOK},
		{`{"cents": 7}`, "", interceptors.ReasonKeyReused, http.StatusUnprocessableEntity},
	} {
		key := "negative"
		if c.detail == "" {
			key = "used"
		}
		a := charge(t, url, "ann", c.body, map[string]string{"Idempotency-Key": key})
		var p struct {
			Detail string `json:"detail"`
			Reason string `json:"reason"`
		}
		if err := json.Unmarshal([]byte(a.text), &p); err != nil {
			t.Fatal(err)
		}
		if a.status != c.status || c.detail != "" && p.Detail != c.detail || p.Reason != c.reason {
			t.Errorf("%s: answer %d %s", c.body, a.status, a.text)
		}
	}
}

func TestReplayedFailureIsMarked(t *testing.T) {
	url, _ := open(t)
	for _, want := range []string{"", "true"} {
		a := charge(t, url, "ann", `{"cents": -5}`, map[string]string{"Idempotency-Key": "k"})
		if got := a.header.Get("Idempotency-Replayed"); a.status != http.StatusBadRequest || got != want {
			t.Errorf("answer %d with Idempotency-Replayed %q, want %q", a.status, got, want)
		}
	}
}
