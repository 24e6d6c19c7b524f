package trust_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// serveEach serves on a listener whose connections have distinct addresses, or on plain bufconn, whose
// connections have one address.
func serveEach(t *testing.T, distinguished bool, handle harness.Handler, opts ...grpc.ServerOption) *harness.Node {
	t.Helper()
	n := harness.NewNode(t, opts...)
	testv1.RegisterTestServiceServer(n.Server, harness.Service{Handle: handle})
	if distinguished {
		n.Start()
	} else {
		n.StartOn(n.Listener)
	}
	return n
}

// A message with the clock id of another caller deducts nothing from that caller's deadlines, whether
// or not the transport gives connections distinct addresses.
func TestStolenClockIDChangesNothingForItsOwner(t *testing.T) {
	t.Parallel()
	for _, distinguished := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			id := ""
			var left time.Duration
			n := serveEach(t, distinguished, func(ctx context.Context) error {
				if c := harness.HeaderField(ctx, "c"); c != "" {
					id = c
				}
				d, _ := ctx.Deadline()
				left = time.Until(d)
				return nil
			}, harness.NewServer(t).ServerOptions()...)
			victim := harness.Idempotent(n.Dial(harness.NewClient(t).DialOptions()...))
			attacker := harness.Idempotent(n.Dial())
			call := func() {
				t.Helper()
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				if err := victim(ctx); err != nil || left < 29*time.Second {
					t.Errorf("distinct addresses %v: %v with %v left", distinguished, err, left)
				}
			}
			for i := range 100 {
				call()
				at := time.Now().Add(time.Duration(i-50) * time.Hour).UnixMicro()
				if err := attacker(metadata.AppendToOutgoingContext(t.Context(), "hop-context", fmt.Sprintf("1;s=%d;c=%s", at, id))); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Second)
				call()
			}
		})
	}
}

// A caller that sends ever new clock ids makes the server forget others, whose next calls
// have what gRPC alone would give them. The server says how many it has forgotten.
func TestFloodOfClockIDsIsCountedAndHarmless(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reader, meter := harness.Metered()
		var left time.Duration
		n := serveEach(t, true, func(ctx context.Context) error {
			d, _ := ctx.Deadline()
			left = time.Until(d)
			return nil
		}, harness.NewServer(t, meter).ServerOptions()...)
		victim, attacker := harness.Idempotent(n.Dial(harness.NewClient(t).DialOptions()...)), harness.Idempotent(n.Dial())
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := victim(ctx); err != nil {
			t.Error(err)
		}
		for i := range 5000 {
			_ = attacker(metadata.AppendToOutgoingContext(t.Context(), "hop-context", fmt.Sprintf("1;s=1;c=%016x", i+1)))
		}
		if err := victim(ctx); err != nil || left < 29*time.Second {
			t.Errorf("%v with %v left", err, left)
		}
		if got := harness.Collected(t, reader); !strings.Contains(got, "hopbound.server.forgotten_clocks {clock} {} 90") { // 5002 less 4096
			t.Error(got)
		}
	})
}

// liveHeap returns the bytes that are in use.
func liveHeap() uint64 {
	var st runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&st)
	return st.HeapAlloc
}

// A server with a handler for unknown services keeps nothing of the names that its callers
// make up, and a client that forwards them little.
func TestNamesThatCallersMakeUpAreNotKept(t *testing.T) { //nolint:paralleltest // it measures the heap of the process
	const huge, many = 12, 20_000
	client, server := harness.NewClient(t), harness.NewServer(t)
	n := harness.NewNode(t, append(server.ServerOptions(), grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
		return status.Error(codes.Unimplemented, "unknown")
	}), grpc.MaxHeaderListSize(8<<20))...)
	n.Start()
	// A connection for each name, since gRPC's header compression keeps some of them, too.
	call := func(name string, opts ...grpc.DialOption) {
		cc := n.Dial(opts...)
		defer cc.Close()
		_ = cc.Invoke(t.Context(), "/"+name+"/Method", &testv1.ReadRequest{}, &testv1.ReadResponse{})
	}
	call("warm", client.DialOptions()...)
	before := liveHeap()
	for i := range huge {
		call(fmt.Sprint(i, strings.Repeat("x", 7<<20)), client.DialOptions()...)
	}
	plain := n.Dial()
	for i := range many {
		_ = plain.Invoke(t.Context(), fmt.Sprintf("/made.up.Service%d/Method", i), &testv1.ReadRequest{}, &testv1.ReadResponse{})
	}
	n.Cut() // which lets go of the connections
	if grew := int64(liveHeap()) - int64(before); grew > 2<<20 {
		t.Errorf("%d KiB are kept of %d huge names and %d others", grew>>10, huge, many)
	}
	runtime.KeepAlive(client)
	runtime.KeepAlive(server)
}

// A callee that reports more than it was lent is charged what it was lent, and is counted.
func TestReportOfMoreThanWasLentIsCounted(t *testing.T) {
	t.Parallel()
	reader, meter := harness.Metered()
	n := harness.Serve(t, func(ctx context.Context) error {
		_ = grpc.SetTrailer(ctx, metadata.Pairs("hop-report", "1;u=60000;e=1"))
		return harness.ErrUnavailable
	})
	honest := harness.Serve(t, func(ctx context.Context) error {
		_ = grpc.SetTrailer(ctx, metadata.Pairs("hop-report", "1;u="+harness.HeaderField(ctx, "b")+";e=1")) // all of it
		return harness.ErrUnavailable
	})
	_ = harness.Idempotent(honest.Dial(harness.NewClient(t, meter, harness.FastRetry()).DialOptions()...))(t.Context())
	if got := harness.Collected(t, reader); strings.Contains(got, "overreports") {
		t.Error(got)
	}
	_ = harness.Idempotent(n.Dial(harness.NewClient(t, meter, harness.FastRetry()).DialOptions()...))(t.Context())
	if got := harness.Collected(t, reader); !strings.Contains(got, "hopbound.client.overreports {attempt} {grpc.target=passthrough:///node} ") {
		t.Error(got)
	}
}
