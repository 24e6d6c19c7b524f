package harness

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Hop serves with Hopbound, and answers by calling next with Hopbound.
func Hop(t testing.TB, next *Node, opts ...interceptors.ClientOption) *Node {
	t.Helper()
	down := Idempotent(next.Dial(NewClient(t, append([]interceptors.ClientOption{FastRetry()}, opts...)...).DialOptions()...))
	return Serve(t, func(ctx context.Context) error { return down(ctx) }, NewServer(t).ServerOptions()...)
}

// Counter is a handler that counts its calls.
type Counter struct {
	Calls atomic.Int64
	Fail  func(n int64) error // the nth call's error
}

// Handle counts a call, and returns what Fail says of it.
func (c *Counter) Handle(context.Context) error {
	n := c.Calls.Add(1)
	if c.Fail == nil {
		return nil
	}
	return c.Fail(n)
}

// ErrUnavailable is the failure of a server that is down.
var ErrUnavailable = status.Error(codes.Unavailable, "the leaf is down")

// AlwaysFail fails every call.
func AlwaysFail(err error) func(int64) error { return func(int64) error { return err } }

// FailFirst fails the first n calls.
func FailFirst(n int64) func(int64) error {
	return func(i int64) error {
		if i <= n {
			return ErrUnavailable
		}
		return nil
	}
}

// Arrival is a handler that records how much time each call has left.
type Arrival struct{ Left chan time.Duration }

// NewArrival returns an arrival that records up to 100 calls.
func NewArrival() *Arrival { return &Arrival{Left: make(chan time.Duration, 100)} }

// Handle sends the remaining time to Left, or -1 if there is no deadline.
func (a *Arrival) Handle(ctx context.Context) error {
	left, ok := deadline.Remaining(ctx)
	if !ok {
		left = -1
	}
	a.Left <- left
	return nil
}

// CountCalls adds an interceptor that counts the calls that reach a server's other interceptors.
func CountCalls(calls *atomic.Int64, opts ...grpc.ServerOption) []grpc.ServerOption {
	return append(opts, grpc.ChainUnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			calls.Add(1)
			return h(ctx, req)
		}))
}

// RecoverPanics is an interceptor that makes an error of a panic.
func RecoverPanics(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (_ any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panicked: %v", p)
		}
	}()
	return next(ctx, req)
}
