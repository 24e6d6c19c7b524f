package calls_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

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

// What a stream's application sees of its halves closing, in any order, is what
// it sees without this package.
func TestHalvesCloseAsTheyDoInGRPC(t *testing.T) {
	t.Parallel()
	outcome := func(err error) string {
		switch {
		case err == nil:
			return "ok"
		case errors.Is(err, io.EOF):
			return "EOF"
		default:
			return status.Code(err).String()
		}
	}
	quits := func(harness.Side, grpc.ServerStream) error { return nil }
	fails := func(harness.Side, grpc.ServerStream) error { return status.Error(codes.FailedPrecondition, "") }
	answers := func(s harness.Side, _ grpc.ServerStream) error { return s.Send("answer") }
	scripts := map[string]func(s harness.Stream) []string{
		"closes, receives": func(s harness.Stream) []string {
			first, second := s.CloseSend(), s.CloseSend()
			_, err := s.Recv()
			_, again := s.Recv()
			return []string{outcome(first), outcome(second), outcome(err), outcome(again)}
		},
		"receives, sends, closes": func(s harness.Stream) []string {
			_, err := s.Recv()
			_, again := s.Recv()
			synctest.Wait()
			return []string{outcome(err), outcome(again), outcome(s.Send("late")), outcome(s.CloseSend())}
		},
		"sends after closing": func(s harness.Stream) []string {
			closed := s.CloseSend()
			synctest.Wait() // else what is received depends on whose end comes first, in gRPC too
			err := s.Send("late")
			_, got := s.Recv()
			return []string{outcome(closed), outcome(err), outcome(got)}
		},
		"waits for the end, sends, receives": func(s harness.Stream) []string {
			synctest.Wait()
			_ = s.Send("a")
			_, err := s.Recv()
			_, again := s.Recv()
			return []string{outcome(err), outcome(again)}
		},
		"asks for the header": func(s harness.Stream) []string {
			header, err := s.Header()
			_, got := s.Recv()
			_, again := s.Recv()
			return []string{strconv.FormatBool(header != nil), outcome(err), outcome(got), outcome(again)}
		},
	}
	for _, k := range harness.Kinds()[1:] {
		for server, handle := range map[string]harness.StreamHandler{"quits": quits, "fails": fails, "answers": answers, "answers late": harness.ReplyJoined} {
			for name, script := range scripts {
				if server == "answers late" && !strings.HasPrefix(name, "closes") && !strings.HasPrefix(name, "sends") {
					continue // it waits for a client that waits for it
				}
				synctest.Test(t, func(t *testing.T) {
					n := harness.ServeStreams(t, handle)
					var got [2][]string
					for i, opts := range [][]grpc.DialOption{nil, harness.NewClient(t, harness.FastRetry()).DialOptions()} {
						ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
						s, err := k.Open(ctx, n.Dial(opts...))
						if err != nil {
							t.Fatal(err)
						}
						got[i] = script(s)
						cancel()
					}
					if plain, ours := strings.Join(got[0], " "), strings.Join(got[1], " "); plain != ours {
						t.Errorf("%s, the server %s, the client %s: %s; in gRPC %s", k.Name, server, name, ours, plain)
					}
				})
			}
		}
	}
}

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

// A token of the target's meter that was taken for an attempt which is not made,
// or reaches nobody, is there for the next.
func TestTargetsMeterLosesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
		n := harness.Serve(t, leaf.Handle)
		// The meter holds four tokens, and each request one: only the meter's are ever
		// short.
		b := harness.FourTokens()
		do := harness.Idempotent(n.Dial(harness.NewClient(t, interceptors.WithBudget(b), harness.Policy(interceptors.Policy{Retry: &interceptors.RetryPolicy{
			Backoff: interceptors.Backoff{Base: time.Hour, Max: time.Hour, Jitter: interceptors.NoJitter},
		}})).DialOptions()...))
		for range 20 { // cancelled while they wait for their second attempt
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			_ = do(ctx)
		}
		if harness.Balance(b) != 4 {
			t.Fatalf("balance %v, want 4", harness.Balance(b))
		}
		leaf.Calls.Store(0)
		_ = do(t.Context())
		if leaf.Calls.Load() != 2 {
			t.Errorf("%d calls of a request with a token, want 2", leaf.Calls.Load())
		}
	})
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
