package streams_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/retry"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// An interceptor that retries streams opens several of gRPC's for one of ours.
func TestInterceptorsMayOpenSeveralStreamsForOne(t *testing.T) {
	t.Parallel()
	again := retry.StreamClientInterceptor(retry.WithMax(4), retry.WithCodes(codes.Unavailable), retry.WithBackoff(retry.BackoffLinear(ms)))
	ours := func(opts ...interceptors.ClientOption) grpc.StreamClientInterceptor {
		return harness.NewClient(t, opts...).StreamInterceptor()
	}
	observing := interceptors.WithMode(interceptors.Observe)
	single := interceptors.WithPolicy(interceptors.MethodPolicies{"": {Retry: &interceptors.RetryPolicy{MaxAttempts: 1}}})
	for name, chain := range map[string][]grpc.StreamClientInterceptor{
		"theirs alone":            {again},
		"ours, theirs, observing": {ours(observing), again},
		"theirs, ours, observing": {again, ours(observing)},
		"ours, theirs":            {ours(single), again},
		"theirs, ours":            {again, ours(single)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int64
			n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
				ss.SetTrailer(metadata.Pairs("call", strconv.FormatInt(calls.Add(1), 10)))
				if calls.Load() < 3 {
					return harness.ErrUnavailable
				}
				if _, err := s.Requests(); err != nil {
					return err
				}
				return s.Send("reply")
			})
			var trailer metadata.MD
			cc := n.Dial(grpc.WithDisableRetry(), grpc.WithChainStreamInterceptor(chain...))
			got, err := harness.Kinds()[0].Exchange(t.Context(), cc, []string{"request"}, grpc.Trailer(&trailer))
			if err != nil || !slices.Equal(got, []string{"reply"}) {
				t.Errorf("got %q and %v, want the reply to the third call", got, err)
			}
			if strings.HasPrefix(name, "ours") && strings.Join(trailer["call"], ",") != "3" {
				t.Errorf("trailer %v, want that of the third call", trailer)
			}
		})
	}
}

// What a stream's call options and methods say belongs to the attempt whose status
// Recv returns, and is there when it returns.
func TestHeaderTrailerAndPeerAreThereWhenAStreamHasEnded(t *testing.T) {
	t.Parallel()
	for _, mode := range []interceptors.Mode{interceptors.Enforce, interceptors.Observe} {
		for _, k := range harness.Kinds() {
			t.Run(fmt.Sprint(mode, ", ", k.Name), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { endManyStreams(t, mode, k) })
			})
		}
	}
}

// endManyStreams lets half of some streams fail at their server, and the others reach
// their deadline, at about the same time.
func endManyStreams(t *testing.T, mode interceptors.Mode, k harness.Kind) {
	t.Helper()
	n := harness.ServeStreams(t, func(_ harness.Side, ss grpc.ServerStream) error {
		_ = ss.SendHeader(metadata.Pairs("header", "sent"))
		if slices.Contains(metadata.ValueFromIncomingContext(ss.Context(), "fails"), "true") {
			time.Sleep(50 * ms)
			ss.SetTrailer(metadata.Pairs("trailer", "sent"))
			return status.Error(codes.NotFound, "no such thing")
		}
		<-ss.Context().Done()
		return ss.Context().Err()
	}, harness.NewServer(t).ServerOptions()...)
	cc := n.Dial(harness.NewClient(t, interceptors.WithMode(mode)).DialOptions()...)
	var wg sync.WaitGroup
	for i := range 400 {
		wg.Go(func() {
			fails := strconv.FormatBool(i%2 == 0)
			ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "fails", fails), 50*ms+time.Duration(i%3)*ms)
			defer cancel()
			var header, trailer metadata.MD
			var from peer.Peer
			s, err := k.Open(ctx, cc, grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&from))
			if err != nil {
				t.Error(err)
				return
			}
			_ = s.Send("request")
			_ = s.CloseSend()
			_, err = s.Recv()
			answered := status.Code(err) == codes.NotFound
			if !answered && status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("got %v", err)
			}
			if has := len(trailer["trailer"]) == 1; has != answered || from.Addr == nil || len(header["header"]) != 1 {
				t.Errorf("%v with trailer %v, header %v and peer %v", err, trailer, header, from.Addr)
			}
			if has := len(s.Trailer()["trailer"]) == 1; has != answered {
				t.Errorf("%v, and Trailer returns %v", err, s.Trailer())
			}
		})
	}
	wg.Wait()
}

// A message that is encoded once for many streams needs what gRPC keeps in a stream's
// context.
func TestPreparedMessagesAreSent(t *testing.T) {
	t.Parallel()
	for _, mode := range []interceptors.Mode{interceptors.Enforce, interceptors.Observe} {
		n := harness.ServeStreams(t, harness.ReplyJoined, harness.NewServer(t).ServerOptions()...)
		k := harness.Kinds()[2]
		s, err := k.Open(t.Context(), n.Dial(harness.NewClient(t, interceptors.WithMode(mode)).DialOptions()...))
		if err != nil {
			t.Fatal(err)
		}
		prepared := &grpc.PreparedMsg{}
		if err := prepared.Encode(s.ClientStream, k.Request("prepared")); err != nil {
			t.Fatalf("%v: %v", mode, err)
		}
		if err := s.SendMsg(prepared); err != nil {
			t.Fatalf("%v: %v", mode, err)
		}
		_ = s.CloseSend()
		if got, err := s.All(); err != nil || !slices.Equal(got, []string{"prepared"}) {
			t.Errorf("%v: got %q and %v", mode, got, err)
		}
	}
}
