package harness

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
)

// Node is a server in memory.
type Node struct {
	t        testing.TB
	Listener *bufconn.Listener
	Server   *grpc.Server
	Network  *Network     // between its clients and itself; nil is without delay
	Refused  atomic.Int64 // connections yet to be refused

	Mu    sync.Mutex // guards Conns
	Conns []net.Conn // the open connections
}

// Cut breaks all connections to the node, as a crash does.
func (n *Node) Cut() {
	n.Mu.Lock()
	defer n.Mu.Unlock()
	for _, c := range n.Conns {
		_ = c.Close()
	}
	n.Conns = nil
}

// NewNode returns a server that has no services yet. Start serves it.
func NewNode(t testing.TB, opts ...grpc.ServerOption) *Node {
	t.Helper()
	return &Node{t: t, Listener: bufconn.Listen(1 << 16), Server: grpc.NewServer(opts...)}
}

// Start serves until the test ends.
func (n *Node) Start() {
	n.t.Helper()
	n.StartOn(distinct{n.Listener})
}

// StartOn serves on a listener until the test ends.
func (n *Node) StartOn(listener net.Listener) {
	n.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = n.Server.Serve(listener)
	}()
	n.t.Cleanup(func() {
		n.Server.Stop()
		<-done
	})
}

// Target is the target of all nodes, unless a test says otherwise.
const Target = "passthrough:///node"

// Dial connects to the node until the test ends.
func (n *Node) Dial(opts ...grpc.DialOption) *grpc.ClientConn {
	n.t.Helper()
	return n.DialTarget(Target, opts...)
}

// DialTarget connects to the node by another target.
func (n *Node) DialTarget(target string, opts ...grpc.DialOption) *grpc.ClientConn {
	n.t.Helper()
	cc, err := grpc.NewClient(target, append(n.Dialer(), opts...)...)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		_ = cc.Close()
		if n.Network != nil {
			time.Sleep(time.Minute) // of virtual time, for what is under way on the link
		}
	})
	return cc
}

// Dialer returns the dial options that connect to the node.
func (n *Node) Dialer() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			if n.Refused.Add(-1) >= 0 {
				return nil, errors.New("refused")
			}
			conn, err := n.Listener.DialContext(ctx)
			if err == nil {
				n.Mu.Lock()
				defer n.Mu.Unlock()
				n.Conns = append(n.Conns, conn)
				if n.Network != nil {
					conn = n.Network.Over(conn)
				}
			}
			return conn, err
		}),
	}
}

// AllowHanging lets handlers sleep when the test ends. In virtual time they end too.
func (n *Node) AllowHanging() { n.t.Cleanup(func() { time.Sleep(2 * time.Hour) }) }

// Handler is the body of a method of the test service.
type Handler func(ctx context.Context) error

// Service serves all unary methods of the test service with one handler.
type Service struct {
	testv1.UnimplementedTestServiceServer
	Handle Handler
}

// Idempotent calls the handler.
func (s Service) Idempotent(ctx context.Context, _ *testv1.IdempotentRequest) (*testv1.IdempotentResponse, error) {
	return &testv1.IdempotentResponse{}, s.Handle(ctx)
}

// Read calls the handler.
func (s Service) Read(ctx context.Context, _ *testv1.ReadRequest) (*testv1.ReadResponse, error) {
	return &testv1.ReadResponse{}, s.Handle(ctx)
}

// Write calls the handler.
func (s Service) Write(ctx context.Context, _ *testv1.WriteRequest) (*testv1.WriteResponse, error) {
	return &testv1.WriteResponse{}, s.Handle(ctx)
}

// Serve runs a server in memory until the test ends.
func Serve(t testing.TB, handle Handler, opts ...grpc.ServerOption) *Node {
	t.Helper()
	n := NewNode(t, opts...)
	testv1.RegisterTestServiceServer(n.Server, Service{Handle: handle})
	n.Start()
	return n
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
