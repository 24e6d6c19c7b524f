package rollout

import (
	"context"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	chainv1 "github.com/hopbound/hopbound/examples/chain/proto/hopbound/examples/chain/v1"
	"github.com/hopbound/hopbound/idempotency"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What users do in each step: each order is sent twice, and every tenth Pass fails at the
// last hop.
const (
	passes   = 60
	orders   = 20
	failOnce = 10
)

// outcome is what came of that.
type outcome struct{ failedPasses, failedOrders, made int }

// hop is a handler of every hop of the chain.
type hop struct {
	chainv1.UnimplementedHopServiceServer
	next chainv1.HopServiceClient // nil at the last hop
	last *last
}

// last is what the last hop counts.
type last struct{ passes, made atomic.Int64 }

func (h hop) Pass(ctx context.Context, req *chainv1.PassRequest) (*chainv1.PassResponse, error) {
	if h.next != nil {
		return h.next.Pass(ctx, req)
	}
	if h.last.passes.Add(1)%failOnce == 0 {
		return nil, status.Error(codes.Unavailable, "now and then")
	}
	return &chainv1.PassResponse{}, nil
}

func (h hop) Order(ctx context.Context, req *chainv1.OrderRequest) (*chainv1.OrderResponse, error) {
	if h.next != nil {
		return h.next.Order(ctx, req)
	}
	return &chainv1.OrderResponse{Number: h.last.made.Add(1)}, nil
}

// deployment is a chain of three hops in one state of the rollout.
type deployment struct {
	t        *testing.T
	services []*service // the last hop first
	reader   *sdkmetric.ManualReader
	last     last
}

func deploy(t *testing.T, env map[string]string) *deployment {
	t.Helper()
	d := &deployment{t: t, reader: sdkmetric.NewManualReader()}
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(d.reader))
	for i := range 3 {
		next := ""
		if i > 0 {
			next = d.services[i-1].addr
		}
		s, err := start(func(name string) string { return env[name] }, meters, next, func(c chainv1.HopServiceClient) chainv1.HopServiceServer {
			if i == 0 {
				c = nil
			}
			return hop{next: c, last: &d.last}
		})
		if err != nil {
			t.Fatal(err)
		}
		d.services = append(d.services, s)
	}
	return d
}

func (d *deployment) stop() {
	for _, s := range slices.Backward(d.services) {
		s.stop()
	}
}

// use does what users do, who have no Hopbound and choose the keys of their orders.
func (d *deployment) use() (o outcome) {
	d.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+d.services[2].addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		d.t.Fatal(err)
	}
	defer conn.Close()
	users := chainv1.NewHopServiceClient(conn)
	before := d.last.made.Load()
	for range passes {
		if _, err := users.Pass(d.t.Context(), &chainv1.PassRequest{}); err != nil {
			o.failedPasses++
		}
	}
	for range orders {
		ctx := metadata.AppendToOutgoingContext(d.t.Context(), idempotency.Header, string(idempotency.NewKey()))
		for range 2 {
			if _, err := users.Order(ctx, &chainv1.OrderRequest{Item: "a book"}); err != nil {
				o.failedOrders++
			}
		}
	}
	o.made = int(d.last.made.Load() - before)
	return o
}

// selector is a query as the page has them: a metric, and labels that must be equal.
var selector = regexp.MustCompile(`^(\w+)(?:\{(.*)\})?$`)

// sum returns the sum of a query over all hops.
func (d *deployment) sum(query string) (n int64) {
	d.t.Helper()
	m := selector.FindStringSubmatch(query)
	if m == nil {
		d.t.Fatalf("%q is no query that this test can read", query)
	}
	var data metricdata.ResourceMetrics
	if err := d.reader.Collect(context.Background(), &data); err != nil {
		d.t.Fatal(err)
	}
	underscores := strings.NewReplacer(".", "_")
	for _, scope := range data.ScopeMetrics {
		for _, metric := range scope.Metrics {
			counter, ok := metric.Data.(metricdata.Sum[int64])
			if !ok || underscores.Replace(metric.Name)+"_total" != m[1] {
				continue
			}
		points:
			for _, p := range counter.DataPoints {
				labels := map[string]string{}
				for _, kv := range p.Attributes.ToSlice() {
					labels[underscores.Replace(string(kv.Key))] = kv.Value.String()
				}
				for label := range strings.SplitSeq(m[2], ",") {
					if name, value, ok := strings.Cut(label, "="); ok && `"`+labels[name]+`"` != value {
						continue points
					}
				}
				n += p.Value
			}
		}
	}
	return n
}

// part is a section of the page: the commands, and the queries by the sentence before
// them.
type part struct {
	title    string
	commands []string
	zero     []string // queries that must be zero
	more     []string // queries that must be above zero
	goBack   bool     // the page sets modes at run time
}

// readPage reads the sections of docs/rollout.md.
func readPage(t *testing.T) []part {
	t.Helper()
	page, err := os.ReadFile("../../docs/rollout.md")
	if err != nil {
		t.Fatal(err)
	}
	var parts []part
	var block, paragraph string
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "## "):
			parts = append(parts, part{title: line[3:]})
		case strings.HasPrefix(line, "```"):
			block = line[3:]
		case len(parts) == 0:
		case block == "sh":
			parts[len(parts)-1].commands = append(parts[len(parts)-1].commands, line)
		case block == "promql" && strings.Contains(paragraph, "must be zero"):
			parts[len(parts)-1].zero = append(parts[len(parts)-1].zero, line)
		case block == "promql":
			parts[len(parts)-1].more = append(parts[len(parts)-1].more, line)
		case block == "go":
			parts[len(parts)-1].goBack = parts[len(parts)-1].goBack || strings.Contains(line, "SetMode")
		case line == "":
			paragraph += "\n"
		case strings.HasSuffix(paragraph, "\n"):
			paragraph = strings.ToLower(line)
		default:
			paragraph += " " + strings.ToLower(line)
		}
	}
	return parts
}

// The commands of the page set the environment of each release, and its queries are made
// while users go on as before. TestCodeOfDocumentsIsCompiled compares its Go code.
func TestRolloutGoesAsItsPageSays(t *testing.T) {
	t.Parallel()
	const once, twice = orders, 2 * orders
	titles := []string{
		"1. Servers observe", "2. Clients observe", "3. Look", "4. Servers enforce", "5. Clients enforce", "6. Look again", "Going back",
	}
	made := []int{twice, twice, twice, once, once, once}
	env := map[string]string{}
	parts := readPage(t)
	if len(parts) != len(titles) {
		t.Fatalf("%d sections, want %d", len(parts), len(titles))
	}
	for i, p := range parts {
		if p.title != titles[i] {
			t.Errorf("section %q, want %q", p.title, titles[i])
		}
		if p.goBack {
			goBack(t, env)
			made = append(made, twice) // after its commands
		}
		for _, command := range p.commands {
			name, value, ok := strings.Cut(strings.TrimPrefix(command, "export "), "=")
			if !ok {
				t.Fatalf("%q is no command that this test can run", command)
			}
			env[name] = value
		}
		d := deploy(t, env)
		if got, want := d.use(), (outcome{made: made[i]}); got != want {
			t.Errorf("%s: %+v, want %+v", p.title, got, want)
		}
		for _, query := range p.zero {
			if n := d.sum(query); n != 0 {
				t.Errorf("%s: %s is %d, want 0", p.title, query, n)
			}
		}
		for _, query := range p.more {
			if d.sum(query) == 0 {
				t.Errorf("%s: %s is 0", p.title, query)
			}
		}
		d.stop()
	}
	if env["HOPBOUND_SERVER"] != "observe" || env["HOPBOUND_CLIENT"] != "observe" {
		t.Errorf("in the end, the modes are %v", env)
	}
}

// goBack observes on all hops of a running chain. Writes run each time, and calls are not
// retried until the connections are dialled again.
func goBack(t *testing.T, env map[string]string) {
	t.Helper()
	d := deploy(t, env)
	defer d.stop()
	for _, s := range d.services {
		if err := observe(s.client, s.server); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := d.use(), (outcome{failedPasses: passes / failOnce, made: 2 * orders}); got != want {
		t.Errorf("after SetMode: %+v, want %+v", got, want)
	}
}
