package queue_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/hopqueue"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"github.com/nats-io/nats.go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/propagation"
)

// order is a gRPC handler's context: it runs under a key and has a deadline.
func order(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return idempotency.WithRun(ctx, idempotency.HandlerRun{ID: idempotency.NewID("", "/shop.Orders/Place", "order-17"), Key: "order-17"})
}

// handler pays for each delivery of a message.
type handler struct {
	t    *testing.T
	bank *harness.Bank
	pay  testv1.TestServiceClient
}

func newHandler(t *testing.T) *handler {
	t.Helper()
	bank := &harness.Bank{}
	return &handler{t, bank, bank.Open(t, idempotency.NewMemory()).Downstream()}
}

func (h *handler) deliver(carrier propagation.TextMapCarrier) {
	ctx, end := hopqueue.Extract(h.t.Context(), "payments", carrier, budget.New())
	defer end()
	if d, ok := ctx.Deadline(); !ok || time.Until(d) > time.Minute+hopqueue.DefaultSkew {
		h.t.Errorf("the handler has until %v, %v", d, ok)
	}
	if _, err := h.pay.Pay(ctx, harness.Rent()); err != nil {
		h.t.Error(err)
	}
}

// check checks that the message, which was delivered twice, has made one payment.
func (h *handler) check() {
	h.t.Helper()
	if n := h.bank.Calls.Load(); n != 1 {
		h.t.Errorf("%d payments, want one", n)
	}
}

func TestMessageOfNATSThatIsDeliveredTwicePaysOnce(t *testing.T) {
	t.Parallel()
	conn := connectNATS(t)
	stream, err := conn.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.AddStream(&nats.StreamConfig{Name: "payments", Subjects: []string{"payments"}}); err != nil {
		t.Fatal(err)
	}
	message := nats.NewMsg("payments")
	hopqueue.Inject(order(t), "payments", propagation.HeaderCarrier(http.Header(message.Header)))
	if _, err := stream.PublishMsg(message); err != nil {
		t.Fatal(err)
	}
	deliveries, err := stream.SubscribeSync("payments", nats.ManualAck(), nats.AckExplicit())
	if err != nil {
		t.Fatal(err)
	}
	h := newHandler(t)
	for _, answer := range []func(*nats.Msg) error{func(m *nats.Msg) error { return m.Nak() }, func(m *nats.Msg) error { return m.Ack() }} {
		m, err := deliveries.NextMsgWithContext(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		h.deliver(propagation.HeaderCarrier(http.Header(m.Header)))
		if err := answer(m); err != nil {
			t.Error(err)
		}
	}
	h.check()
}

// connectNATS starts a server of NATS, and connects to it until the test ends.
func connectNATS(t *testing.T) *nats.Conn {
	t.Helper()
	path, err := exec.LookPath("nats-server")
	if err != nil {
		const message = "nats-server is not installed; on Debian: apt-get install nats-server"
		if os.Getenv("HOPBOUND_REQUIRE_SERVICES") == "1" {
			t.Fatal(message)
		}
		t.Skip(message)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it takes no time
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port //nolint:errcheck // it is TCP
	_ = listener.Close()
	cmd := exec.Command(path, "--addr", "127.0.0.1", "--port", strconv.Itoa(port), "--jetstream", "--store_dir", t.TempDir()) //nolint:noctx // it is stopped by a signal
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	conn, err := nats.Connect(fmt.Sprint("nats://127.0.0.1:", port), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	for !conn.IsConnected() {
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-conn.StatusChanged(nats.CONNECTED):
		}
	}
	return conn
}

func TestMessageOfKafkaThatIsDeliveredTwicePaysOnce(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.SeedTopics(1, "payments"), kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	record := &kgo.Record{Topic: "payments"}
	hopqueue.Inject(order(t), "payments", (*headers)(record))
	producer := connectKafka(t, cluster)
	if err := producer.ProduceSync(t.Context(), record).FirstErr(); err != nil {
		t.Fatal(err)
	}
	h := newHandler(t)
	for range 2 { // two consumers of which neither has committed
		fetches := connectKafka(t, cluster, kgo.ConsumeTopics("payments")).PollFetches(t.Context())
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) { h.deliver((*headers)(r)) })
	}
	h.check()
}

func connectKafka(t *testing.T, cluster *kfake.Cluster, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append(opts, kgo.SeedBrokers(cluster.ListenAddrs()...))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// headers are those of a record of Kafka.
type headers kgo.Record

// Get returns the value of a header.
func (h *headers) Get(key string) string {
	for _, header := range h.Headers {
		if header.Key == key {
			return string(header.Value)
		}
	}
	return ""
}

// Set adds a header.
func (h *headers) Set(key, value string) {
	h.Headers = append(h.Headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
}

// Keys returns the names of the headers.
func (h *headers) Keys() (keys []string) {
	for _, header := range h.Headers {
		keys = append(keys, header.Key)
	}
	return keys
}
