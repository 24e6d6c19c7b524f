package streams_test

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/internal/e2e/harness"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
)

// What a stream's application sees of its halves closing, in any order, is what
// it sees without this package.
func TestStreamHalfClosesAsInGRPC(t *testing.T) {
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
