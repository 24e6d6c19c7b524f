package calls_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // for calls that ask for it
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// token is a credential that is made anew for each attempt.
type token struct {
	mu   sync.Mutex
	made int
}

func (c *token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.made++
	return map[string]string{"authorization": fmt.Sprint("token ", c.made)}, nil
}

func (c *token) RequireTransportSecurity() bool { return false }

// Credentials, compressors and sizes hold for every attempt.
func TestCallOptionsHoldForEveryAttempt(t *testing.T) {
	t.Parallel()
	var got []string
	n := harness.Serve(t, func(ctx context.Context) error {
		md, _ := metadata.FromIncomingContext(ctx)
		got = append(got, strings.Join(append(md["authorization"], md["grpc-encoding"]...), " "))
		if len(got) < 3 {
			return harness.ErrUnavailable
		}
		return nil
	})
	cc := n.Dial(harness.NewClient(t, harness.FastRetry(), interceptors.WithBudget(harness.FixedBudget())).DialOptions()...)
	// The encoding is gRPC's, which shows it to nobody; that it is in use is all that
	// can be seen.
	if err := harness.Idempotent(cc)(t.Context(), grpc.PerRPCCredentials(&token{}), grpc.UseCompressor("gzip")); err != nil {
		t.Fatal(err)
	}
	if strings.Join(got, ", ") != "token 1, token 2, token 3" {
		t.Errorf("attempts came with %q, want a token each", got)
	}
	if err := harness.Idempotent(cc)(t.Context(), grpc.UseCompressor("none such")); status.Code(err) != codes.Internal {
		t.Errorf("a compressor that is not there: %v, want INTERNAL", err)
	}
	_, err := testv1.NewTestServiceClient(cc).Idempotent(t.Context(), &testv1.IdempotentRequest{Text: "long"}, grpc.MaxCallSendMsgSize(3))
	if status.Code(err) != codes.ResourceExhausted || len(got) != 3 {
		t.Errorf("a message that is too long: %v, and %d attempts", err, len(got))
	}
}

// The user's interceptors before Hopbound's see one call, and those after it
// each attempt.
func TestInterceptorsSeeTheCallOrItsAttempts(t *testing.T) {
	t.Parallel()
	leaf := &harness.Counter{Fail: harness.FailFirst(2)}
	var calls, attempts int
	count := func(n *int) grpc.DialOption {
		return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			*n++
			return invoke(ctx, method, req, reply, cc, opts...)
		})
	}
	opts := append([]grpc.DialOption{count(&calls)}, harness.NewClient(t, harness.FastRetry(), interceptors.WithBudget(harness.FixedBudget())).DialOptions()...)
	if err := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(append(opts, count(&attempts))...))(t.Context()); err != nil {
		t.Fatal(err)
	}
	if calls != 1 || attempts != 3 {
		t.Errorf("those before saw %d calls, and those after %d; want 1 and 3", calls, attempts)
	}
}

func TestUsersCallOptionsSeeTheLastAttemptAlone(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	n := harness.Serve(t, func(ctx context.Context) error {
		if calls.Add(1) == 1 {
			_ = grpc.SetTrailer(ctx, metadata.Pairs("first", "1"))
			return harness.ErrUnavailable
		}
		_ = grpc.SetHeader(ctx, metadata.Pairs("second", "2"))
		return nil
	})
	var (
		header, trailer metadata.MD
		from            peer.Peer
		finished        []error
	)
	do := harness.Idempotent(n.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))
	err := do(t.Context(), grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&from),
		grpc.OnFinish(func(err error) { finished = append(finished, err) }),
		grpc.OnFinish(func(err error) { finished = append(finished, err) }))
	if err != nil || len(header["second"]) != 1 || len(trailer["first"]) != 0 || from.Addr == nil {
		t.Errorf("%v, header %v, trailer %v, peer %v", err, header, trailer, from.Addr)
	}
	if len(finished) != 2 || finished[0] != nil || finished[1] != nil {
		t.Errorf("OnFinish ran with %v, want nil once each", finished)
	}
}
