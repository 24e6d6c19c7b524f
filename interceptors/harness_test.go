package interceptors_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
)

// handler is the body of a method of the test service, whichever it is.
type handler func(ctx context.Context) error

// service serves all methods of the test service with one handler.
type service struct {
	testv1.UnimplementedTestServiceServer
	handle handler
}

func (s service) Idempotent(ctx context.Context, _ *testv1.IdempotentRequest) (*testv1.IdempotentResponse, error) {
	return &testv1.IdempotentResponse{}, s.handle(ctx)
}

func (s service) Read(ctx context.Context, _ *testv1.ReadRequest) (*testv1.ReadResponse, error) {
	return &testv1.ReadResponse{}, s.handle(ctx)
}

func (s service) Write(ctx context.Context, _ *testv1.WriteRequest) (*testv1.WriteResponse, error) {
	return &testv1.WriteResponse{}, s.handle(ctx)
}

// node is a running server.
type node struct {
	t        testing.TB
	listener *bufconn.Listener
	server   *grpc.Server
	network  *network     // between its clients and itself; nil is none to speak of
	refused  atomic.Int64 // connections yet to be refused

	mu    sync.Mutex
	conns []net.Conn
}

// distinct gives each connection its own remote address, as a network does, and bufconn does not.
type distinct struct{ *bufconn.Listener }

func (l distinct) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &distinctConn{conn, &net.UnixAddr{Name: "client", Net: "bufconn"}}, nil
}

type distinctConn struct {
	net.Conn
	remote net.Addr
}

func (c *distinctConn) RemoteAddr() net.Addr { return c.remote }

// cut breaks all connections to the node, as a crash does.
func (n *node) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		_ = c.Close()
	}
	n.conns = nil
}

// serve runs a server in memory until the test ends.
func serve(t testing.TB, handle handler, opts ...grpc.ServerOption) *node {
	t.Helper()
	n := newNode(t, opts...)
	testv1.RegisterTestServiceServer(n.server, service{handle: handle})
	n.start()
	return n
}

func newNode(t testing.TB, opts ...grpc.ServerOption) *node {
	t.Helper()
	return &node{t: t, listener: bufconn.Listen(1 << 16), server: grpc.NewServer(opts...)}
}

// start serves until the test ends.
func (n *node) start() {
	n.t.Helper()
	n.startOn(distinct{n.listener})
}

func (n *node) startOn(listener net.Listener) {
	n.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = n.server.Serve(listener)
	}()
	n.t.Cleanup(func() {
		n.server.Stop()
		<-done
	})
}

// nodeTarget is the target of all nodes, unless a test says otherwise.
const nodeTarget = "passthrough:///node"

// dial connects to the node until the test ends.
func (n *node) dial(opts ...grpc.DialOption) *grpc.ClientConn {
	n.t.Helper()
	return n.dialTarget(nodeTarget, opts...)
}

func (n *node) dialTarget(target string, opts ...grpc.DialOption) *grpc.ClientConn {
	n.t.Helper()
	cc, err := grpc.NewClient(target, append(n.dialer(), opts...)...)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		_ = cc.Close()
		if n.network != nil {
			time.Sleep(time.Minute) // of virtual time, for what is under way on the link
		}
	})
	return cc
}

// dialer returns the options that connect to the node.
func (n *node) dialer() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			if n.refused.Add(-1) >= 0 {
				return nil, errors.New("refused")
			}
			conn, err := n.listener.DialContext(ctx)
			if err == nil {
				n.mu.Lock()
				defer n.mu.Unlock()
				n.conns = append(n.conns, conn)
				if n.network != nil {
					conn = &link{Conn: conn, network: n.network}
				}
			}
			return conn, err
		}),
	}
}

// call is how a test calls a method of the test service.
type call func(ctx context.Context, opts ...grpc.CallOption) error

func idempotent(cc *grpc.ClientConn) call {
	c := testv1.NewTestServiceClient(cc)
	return func(ctx context.Context, opts ...grpc.CallOption) error {
		_, err := c.Idempotent(ctx, &testv1.IdempotentRequest{}, opts...)
		return err
	}
}

func write(cc *grpc.ClientConn) call {
	c := testv1.NewTestServiceClient(cc)
	return func(ctx context.Context, opts ...grpc.CallOption) error {
		_, err := c.Write(ctx, &testv1.WriteRequest{}, opts...)
		return err
	}
}

func newClient(t testing.TB, opts ...interceptors.ClientOption) *interceptors.Client {
	t.Helper()
	c, err := interceptors.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newServer(t testing.TB, opts ...interceptors.ServerOption) *interceptors.Server {
	t.Helper()
	s, err := interceptors.NewServer(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// quick is the default policy with pauses that tests need not wait for.
func quick() interceptors.ClientOption { return quickly(3) }

func quickly(attempts int) interceptors.ClientOption {
	return interceptors.WithPolicy(interceptors.MethodPolicies{"": {
		Idempotency: interceptors.Unspecified,
		Retry: &interceptors.RetryPolicy{
			MaxAttempts: attempts,
			Backoff:     interceptors.Backoff{Base: time.Microsecond, Max: time.Microsecond},
		},
	}})
}

// hop serves with Hopbound, and answers by calling next with it.
func hop(t testing.TB, next *node, opts ...interceptors.ClientOption) *node {
	t.Helper()
	down := idempotent(next.dial(newClient(t, append([]interceptors.ClientOption{quick()}, opts...)...).DialOptions()...))
	return serve(t, func(ctx context.Context) error { return down(ctx) }, newServer(t).ServerOptions()...)
}

// counter is a leaf's handler that counts its calls and fails as it is told.
type counter struct {
	calls atomic.Int64
	fail  func(n int64) error // the nth call's error
}

func (c *counter) handle(context.Context) error {
	n := c.calls.Add(1)
	if c.fail == nil {
		return nil
	}
	return c.fail(n)
}

var errUnavailable = status.Error(codes.Unavailable, "the leaf is down")

func always(err error) func(int64) error { return func(int64) error { return err } }

// failing fails the first n calls.
func failing(n int64) func(int64) error {
	return func(i int64) error {
		if i <= n {
			return errUnavailable
		}
		return nil
	}
}

// header returns a field of the hop-context that a handler's call came with.
func header(ctx context.Context, field string) string {
	for _, value := range metadata.ValueFromIncomingContext(ctx, wire.ContextKey) {
		for part := range strings.SplitSeq(value, ";") {
			if v, ok := strings.CutPrefix(part, field+"="); ok {
				return v
			}
		}
	}
	return ""
}

// mayHang lets the test end while handlers sleep: in virtual time they end too.
func (n *node) mayHang() { n.t.Cleanup(func() { time.Sleep(2 * time.Hour) }) }

// retryDelay returns what the RetryInfo of an error says.
func retryDelay(err error) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration()
		}
	}
	return -1
}
