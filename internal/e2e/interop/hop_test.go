package interop_test

import (
	"context"
	"net"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A hop under test forwards every unary call to the first of the addresses in the metadata x-next, which are separated by
// commas, with the others in x-next. It does so as often as x-calls says, one call after the other, until one fails. It
// answers with the result of the last one.
const (
	nextKey  = "X-Next" // gRPC makes lower case of it
	callsKey = "X-Calls"
)

// settings are those of a hop. The zero value of a field is the default of the hop.
type settings struct {
	PerRequest   *int   `json:"per_request"`
	Burst        *int   `json:"burst"`
	Ratio        string `json:"ratio"`
	MinPerSecond string `json:"min_per_second"`

	native bool // the application has configured retries of its gRPC library
	copies bool // the hop only copies marks, and retries as its gRPC library does
}

// over returns the settings with those of other where s has none.
func (s settings) over(other settings) settings {
	if s.PerRequest == nil {
		s.PerRequest = other.PerRequest
	}
	if s.Burst == nil {
		s.Burst = other.Burst
	}
	if s.Ratio == "" {
		s.Ratio = other.Ratio
	}
	if s.MinPerSecond == "" {
		s.MinPerSecond = other.MinPerSecond
	}
	return s
}

// environment returns the settings as a hop in another language reads them.
func (s settings) environment() []string {
	env := os.Environ()
	add := func(name, value string) { env = append(env, name+"="+value) }
	if s.PerRequest != nil {
		add("HOP_PER_REQUEST", strconv.Itoa(*s.PerRequest))
	}
	if s.Burst != nil {
		add("HOP_BURST", strconv.Itoa(*s.Burst))
	}
	if s.Ratio != "" {
		add("HOP_RATIO", s.Ratio)
	}
	if s.MinPerSecond != "" {
		add("HOP_MIN_PER_SECOND", s.MinPerSecond)
	}
	add("HOP_NATIVE_RETRIES", strconv.FormatBool(s.native))
	add("HOP_COPY_MARKS_ONLY", strconv.FormatBool(s.copies))
	add("HOP_SAFE", testv1.TestService_Read_FullMethodName)
	add("HOP_IDEMPOTENT", testv1.TestService_Idempotent_FullMethodName)
	return env
}

// budget returns the settings as the Go hop uses them.
func (s settings) budget(t testing.TB) *budget.Budget {
	t.Helper()
	var opts []budget.Option
	if s.PerRequest != nil {
		opts = append(opts, budget.PerRequest(*s.PerRequest))
	}
	if s.Burst != nil {
		opts = append(opts, budget.Burst(*s.Burst))
	}
	for text, option := range map[string]func(float64) budget.Option{s.Ratio: budget.Ratio, s.MinPerSecond: budget.MinPerSecond} {
		if text == "" {
			continue
		}
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			t.Fatal(err)
		}
		opts = append(opts, option(value))
	}
	return budget.New(opts...)
}

// kind is a kind of hop.
type kind struct {
	name  string
	start func(t testing.TB, s settings) (address string)
}

func kinds() []kind {
	return []kind{{"go", startGo}, {"node", startNode}, {"python", startPython}, {"connect-go", startConnect}}
}

// startGo serves a hop with Hopbound until the test ends.
func startGo(t testing.TB, s settings) string {
	t.Helper()
	client := harness.NewClient(t, interceptors.WithBudget(s.budget(t)), interceptors.WithPolicy(fastBackoff{}))
	var native []grpc.DialOption
	if s.native {
		native = append(native, harness.NativeRetry())
	}
	f := &forwarder{dial: append(native, client.DialOptions()...)}
	t.Cleanup(f.close)
	address, _ := serve(t, f.handle, harness.NewServer(t).ServerOptions()...)
	return address
}

// fastBackoff is the default policy with short pauses.
type fastBackoff struct{}

func (fastBackoff) ForMethod(fullMethod string) interceptors.Policy {
	p := interceptors.Policy{Retry: &interceptors.RetryPolicy{Backoff: interceptors.Backoff{Base: 1, Max: 1}}}
	if fullMethod != testv1.TestService_Idempotent_FullMethodName {
		p.Retry = nil // a written retry policy would declare the method safe to repeat
	}
	return p
}

// forwarder is the application of the Go hop.
type forwarder struct {
	dial []grpc.DialOption

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn
}

func (f *forwarder) conn(address string) (*grpc.ClientConn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if cc := f.conns[address]; cc != nil {
		return cc, nil
	}
	cc, err := grpc.NewClient("passthrough:///"+address, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	}, f.dial...)...)
	if err == nil {
		if f.conns == nil {
			f.conns = map[string]*grpc.ClientConn{}
		}
		f.conns[address] = cc
	}
	return cc, err
}

func (f *forwarder) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, cc := range f.conns {
		_ = cc.Close()
	}
}

func (f *forwarder) handle(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if len(md.Get(nextKey)) == 0 {
		return status.Error(codes.InvalidArgument, "no "+nextKey)
	}
	next, rest, _ := strings.Cut(md.Get(nextKey)[0], ",")
	cc, err := f.conn(next)
	if err != nil {
		return err
	}
	if rest != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, nextKey, rest)
	}
	calls := 1
	if len(md.Get(callsKey)) > 0 {
		if calls, err = strconv.Atoi(md.Get(callsKey)[0]); err != nil {
			return err
		}
	}
	for range calls {
		if err = call(ctx, cc); err != nil {
			return err
		}
	}
	return nil
}

// call makes a call of the method that ctx's own call has.
func call(ctx context.Context, cc *grpc.ClientConn) error {
	name, _ := grpc.Method(ctx)
	return method(cc, name)(ctx)
}

// method returns the method with a name, which may be a full name.
func method(cc *grpc.ClientConn, name string) harness.Call {
	switch path.Base(name) {
	case "Read":
		return func(ctx context.Context, opts ...grpc.CallOption) error {
			_, err := testv1.NewTestServiceClient(cc).Read(ctx, &testv1.ReadRequest{}, opts...)
			return err
		}
	case "Write":
		return harness.Write(cc)
	default:
		return harness.Idempotent(cc)
	}
}

// serve serves the test service on a loopback port until the test ends. The function cut breaks all connections.
func serve(t testing.TB, handle harness.Handler, opts ...grpc.ServerOption) (address string, cut func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it takes no time
	if err != nil {
		t.Fatal(err)
	}
	n := harness.NewNode(t, opts...)
	testv1.RegisterTestServiceServer(n.Server, harness.Service{Handle: handle})
	kept := &keptConns{Listener: listener}
	n.StartOn(kept)
	return listener.Addr().String(), kept.cut
}

// keptConns is a listener that keeps its connections.
type keptConns struct {
	net.Listener

	mu  sync.Mutex
	all []net.Conn
}

func (k *keptConns) Accept() (net.Conn, error) {
	conn, err := k.Listener.Accept()
	if err == nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.all = append(k.all, conn)
	}
	return conn, err
}

// cut breaks all connections, as a crash of the server does.
func (k *keptConns) cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, conn := range k.all {
		_ = conn.Close()
	}
	k.all = nil
}

// dial connects to a hop without Hopbound and without retries, until the test ends.
func dial(t testing.TB, address string) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}
