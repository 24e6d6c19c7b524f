package interceptors_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // for calls that ask for it
	"google.golang.org/grpc/metadata"
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
	quits := func(side, grpc.ServerStream) error { return nil }
	fails := func(side, grpc.ServerStream) error { return status.Error(codes.FailedPrecondition, "") }
	answers := func(s side, _ grpc.ServerStream) error { return s.send("answer") }
	scripts := map[string]func(s stream) []string{
		"closes, receives": func(s stream) []string {
			first, second := s.CloseSend(), s.CloseSend()
			_, err := s.recv()
			_, again := s.recv()
			return []string{outcome(first), outcome(second), outcome(err), outcome(again)}
		},
		"receives, sends, closes": func(s stream) []string {
			_, err := s.recv()
			_, again := s.recv()
			synctest.Wait()
			return []string{outcome(err), outcome(again), outcome(s.send("late")), outcome(s.CloseSend())}
		},
		"sends after closing": func(s stream) []string {
			closed := s.CloseSend()
			synctest.Wait() // else what is received depends on whose end comes first, in gRPC too
			err := s.send("late")
			_, got := s.recv()
			return []string{outcome(closed), outcome(err), outcome(got)}
		},
		"waits for the end, sends, receives": func(s stream) []string {
			synctest.Wait()
			_ = s.send("a")
			_, err := s.recv()
			_, again := s.recv()
			return []string{outcome(err), outcome(again)}
		},
		"asks for the header": func(s stream) []string {
			header, err := s.Header()
			_, got := s.recv()
			_, again := s.recv()
			return []string{strconv.FormatBool(header != nil), outcome(err), outcome(got), outcome(again)}
		},
	}
	for _, k := range kinds()[1:] {
		for server, handle := range map[string]streamHandler{"quits": quits, "fails": fails, "answers": answers, "answers late": joined} {
			for name, script := range scripts {
				if server == "answers late" && !strings.HasPrefix(name, "closes") && !strings.HasPrefix(name, "sends") {
					continue // it waits for a client that waits for it
				}
				synctest.Test(t, func(t *testing.T) {
					n := serveStreams(t, handle)
					var got [2][]string
					for i, opts := range [][]grpc.DialOption{nil, newClient(t, quick()).DialOptions()} {
						ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
						s, err := k.open(ctx, n.dial(opts...))
						if err != nil {
							t.Fatal(err)
						}
						got[i] = script(s)
						cancel()
					}
					if plain, ours := strings.Join(got[0], " "), strings.Join(got[1], " "); plain != ours {
						t.Errorf("%s, the server %s, the client %s: %s; in gRPC %s", k.name, server, name, ours, plain)
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
	n := serve(t, func(ctx context.Context) error {
		md, _ := metadata.FromIncomingContext(ctx)
		got = append(got, strings.Join(append(md["authorization"], md["grpc-encoding"]...), " "))
		if len(got) < 3 {
			return errUnavailable
		}
		return nil
	})
	cc := n.dial(newClient(t, quick(), interceptors.WithBudget(fixedBudget())).DialOptions()...)
	// The encoding is gRPC's, which shows it to nobody; that it is in use is all that
	// can be seen.
	if err := idempotent(cc)(t.Context(), grpc.PerRPCCredentials(&token{}), grpc.UseCompressor("gzip")); err != nil {
		t.Fatal(err)
	}
	if strings.Join(got, ", ") != "token 1, token 2, token 3" {
		t.Errorf("attempts came with %q, want a token each", got)
	}
	if err := idempotent(cc)(t.Context(), grpc.UseCompressor("none such")); status.Code(err) != codes.Internal {
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
	leaf := &counter{fail: failing(2)}
	var calls, attempts int
	count := func(n *int) grpc.DialOption {
		return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			*n++
			return invoke(ctx, method, req, reply, cc, opts...)
		})
	}
	opts := append([]grpc.DialOption{count(&calls)}, newClient(t, quick(), interceptors.WithBudget(fixedBudget())).DialOptions()...)
	if err := idempotent(serve(t, leaf.handle).dial(append(opts, count(&attempts))...))(t.Context()); err != nil {
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
		leaf := &counter{fail: always(errUnavailable)}
		n := serve(t, leaf.handle)
		// The meter holds four tokens, and each request one: only the meter's are ever
		// short.
		b := budget4()
		do := idempotent(n.dial(newClient(t, interceptors.WithBudget(b), policy(interceptors.Policy{Retry: &interceptors.RetryPolicy{
			Backoff: interceptors.Backoff{Base: time.Hour, Max: time.Hour, Jitter: interceptors.NoJitter},
		}})).DialOptions()...))
		for range 20 { // cancelled while they wait for their second attempt
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			_ = do(ctx)
		}
		if balance(b) != 4 {
			t.Fatalf("balance %v, want 4", balance(b))
		}
		leaf.calls.Store(0)
		_ = do(t.Context())
		if leaf.calls.Load() != 2 {
			t.Errorf("%d calls of a request with a token, want 2", leaf.calls.Load())
		}
	})
}
