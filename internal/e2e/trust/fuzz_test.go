package trust_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// fuzzedKeys are the keys of metadata that Hopbound reads or writes, and some others.
var fuzzedKeys = []string{ //nolint:gochecknoglobals // a table that nothing changes
	"hop-context", "hop-report", "grpc-retry-pushback-ms", "grpc-previous-rpc-attempts", "idempotency-key",
	"idempotency-replayed", "traceparent", "baggage", "x-other", "x-retry-attempt",
}

// fuzzedMetadata reads metadata from the input of a fuzz test: lines of a key's number and a
// value. It is false if gRPC would not send it.
func fuzzedMetadata(text string) (metadata.MD, bool) {
	md := metadata.MD{}
	for line := range strings.SplitSeq(text, "\n") {
		if line == "" {
			continue
		}
		value := line[1:]
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) || value != strings.TrimSpace(value) {
			return nil, false
		}
		md.Append(fuzzedKeys[int(line[0])%len(fuzzedKeys)], value)
	}
	return md, true
}

// shown returns metadata as text, without what gRPC and Hopbound's report add.
func shown(md metadata.MD) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(md)) {
		if slices.Contains(fuzzedKeys, key) {
			fmt.Fprintf(&b, "%s=%q\n", key, md[key])
		}
	}
	return b.String()
}

// answerText is what a caller got.
func answerText(reply *testv1.WriteResponse, err error) string {
	st := status.Convert(err)
	return fmt.Sprint(st.Code(), " ", st.Message(), " ", reply.GetText())
}

// echo answers a write with the metadata that came with it.
type echo struct {
	testv1.UnimplementedTestServiceServer
}

func (echo) Write(ctx context.Context, _ *testv1.WriteRequest) (*testv1.WriteResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	return &testv1.WriteResponse{Text: shown(md)}, nil
}

// Whatever metadata a caller sends, a server answers as gRPC alone does, unless a valid
// hop-context says that less time is left.
func FuzzMetadataAtAServer(f *testing.F) {
	for _, seed := range []string{
		"", "\x001;s=1;c=00c0ffee00c0ffee", "\x001;d=1;s=2;c=00c0ffee00c0ffee", "\x001;d=99999999999;s=2;c=00c0ffee00c0ffee;b=65535;a=2;k=1",
		"\x001\n\x001", "\x009;x", "\x011;u=5", "\x02-1", "\x03x\n\x033", "\x04k", "\x04k\n\x04l", "\x04\"k\"", "\x04,", "\x05true",
		"\x0600-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "\x07a=b", "\x00" + strings.Repeat("1", 300),
	} {
		f.Add(seed)
	}
	const timeout = 10 * time.Minute
	dial := func(opts ...grpc.ServerOption) testv1.TestServiceClient {
		n := harness.NewNode(f, opts...)
		testv1.RegisterTestServiceServer(n.Server, echo{})
		n.Start()
		return testv1.NewTestServiceClient(n.Dial(grpc.WithDisableRetry()))
	}
	plain, edge, inside := dial(), dial(harness.NewServer(f, interceptors.AtEdge()).ServerOptions()...), dial(harness.NewServer(f).ServerOptions()...)
	f.Fuzz(func(t *testing.T, text string) {
		md, ok := fuzzedMetadata(text)
		if !ok {
			return
		}
		call := func(c testv1.TestServiceClient) string {
			ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(t.Context(), md), timeout)
			defer cancel()
			return answerText(c.Write(ctx, &testv1.WriteRequest{}))
		}
		want := call(plain)
		if got := call(edge); got != want {
			t.Errorf("at the edge: %s, want %s", got, want)
		}
		got := call(inside)
		left := timeout
		if values := md["hop-context"]; len(values) == 1 {
			if h, ok := wire.ParseContext(values[0]); ok && h.HasDeadline {
				left = time.Duration(h.Deadline-h.Sent) * time.Microsecond
			}
		}
		// Of what is left, up to a minute is deducted, by what this caller itself has stamped.
		expired := strings.HasPrefix(got, "DeadlineExceeded ")
		if left > time.Minute+time.Second && got != want || left <= 0 && !expired || !expired && got != want {
			t.Errorf("with %v left: %s, want %s", left, got, want)
		}
	})
}

// Whatever trailers a server sends, a call that is not repeated ends as with gRPC alone.
func FuzzTrailersAtAClient(f *testing.F) {
	for _, seed := range []string{
		"", "\x011;u=5;e=1", "\x011;u=99999", "\x011;u=1\n\x011;u=2", "\x011;u=0;n=1;k=1", "\x019", "\x02-1", "\x0210", "\x02007", "\x02+5",
		"\x02-1\n\x025", "\x0299999999999999999999", "\x05true", "\x08x", "\x001;b=5", "\x034",
	} {
		f.Add(seed, uint8(14))
		f.Add(seed, uint8(0))
	}
	var trailer atomic.Pointer[metadata.MD]
	var code atomic.Uint32
	n := harness.Serve(f, func(ctx context.Context) error {
		if err := grpc.SetTrailer(ctx, trailer.Load().Copy()); err != nil {
			return err
		}
		return status.Error(codes.Code(code.Load()), "as the fuzzer says")
	})
	plain := testv1.NewTestServiceClient(n.Dial(grpc.WithDisableRetry()))
	hop := testv1.NewTestServiceClient(n.Dial(harness.NewClient(f).DialOptions()...))
	f.Fuzz(func(t *testing.T, text string, number uint8) {
		md, ok := fuzzedMetadata(text)
		if !ok {
			return
		}
		trailer.Store(&md)
		code.Store(uint32(number) % 17)
		call := func(c testv1.TestServiceClient) string {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var got metadata.MD
			reply, err := c.Write(ctx, &testv1.WriteRequest{}, grpc.Trailer(&got))
			return answerText(reply, err) + shown(got)
		}
		if want, got := call(plain), call(hop); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}
