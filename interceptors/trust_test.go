package interceptors_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// serveEach serves on a listener: the node's own, whose connections have distinct addresses, or plain
// bufconn, whose connections have one.
func serveEach(t *testing.T, distinguished bool, handle handler, opts ...grpc.ServerOption) *node {
	t.Helper()
	n := newNode(t, opts...)
	testv1.RegisterTestServiceServer(n.server, service{handle: handle})
	if distinguished {
		n.start()
	} else {
		n.startOn(n.listener)
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
				if c := header(ctx, "c"); c != "" {
					id = c
				}
				d, _ := ctx.Deadline()
				left = time.Until(d)
				return nil
			}, newServer(t).ServerOptions()...)
			victim := idempotent(n.dial(newClient(t).DialOptions()...))
			attacker := idempotent(n.dial())
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
		reader, meter := metered()
		var left time.Duration
		n := serveEach(t, true, func(ctx context.Context) error {
			d, _ := ctx.Deadline()
			left = time.Until(d)
			return nil
		}, newServer(t, meter).ServerOptions()...)
		victim, attacker := idempotent(n.dial(newClient(t).DialOptions()...)), idempotent(n.dial())
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
		if got := collected(t, reader); !strings.Contains(got, "hopbound.server.forgotten_clocks {clock} {} 90") { // 5002 less 4096
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
	client, server := newClient(t), newServer(t)
	n := newNode(t, append(server.ServerOptions(), grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
		return status.Error(codes.Unimplemented, "unknown")
	}), grpc.MaxHeaderListSize(8<<20))...)
	n.start()
	// A connection for each name, since gRPC's header compression keeps some of them, too.
	call := func(name string, opts ...grpc.DialOption) {
		cc := n.dial(opts...)
		defer cc.Close()
		_ = cc.Invoke(t.Context(), "/"+name+"/Method", &testv1.ReadRequest{}, &testv1.ReadResponse{})
	}
	call("warm", client.DialOptions()...)
	before := liveHeap()
	for i := range huge {
		call(fmt.Sprint(i, strings.Repeat("x", 7<<20)), client.DialOptions()...)
	}
	plain := n.dial()
	for i := range many {
		_ = plain.Invoke(t.Context(), fmt.Sprintf("/made.up.Service%d/Method", i), &testv1.ReadRequest{}, &testv1.ReadResponse{})
	}
	n.cut() // which lets go of the connections
	if grew := int64(liveHeap()) - int64(before); grew > 2<<20 {
		t.Errorf("%d KiB are kept of %d huge names and %d others", grew>>10, huge, many)
	}
	runtime.KeepAlive(client)
	runtime.KeepAlive(server)
}

// A callee that reports more than it was lent is charged what it was lent, and is counted.
func TestReportOfMoreThanWasLentIsCounted(t *testing.T) {
	t.Parallel()
	reader, meter := metered()
	n := serve(t, func(ctx context.Context) error {
		_ = grpc.SetTrailer(ctx, metadata.Pairs("hop-report", "1;u=60000;e=1"))
		return errUnavailable
	})
	honest := serve(t, func(ctx context.Context) error {
		_ = grpc.SetTrailer(ctx, metadata.Pairs("hop-report", "1;u="+header(ctx, "b")+";e=1")) // all of it
		return errUnavailable
	})
	_ = idempotent(honest.dial(newClient(t, meter, quick()).DialOptions()...))(t.Context())
	if got := collected(t, reader); strings.Contains(got, "overreports") {
		t.Error(got)
	}
	_ = idempotent(n.dial(newClient(t, meter, quick()).DialOptions()...))(t.Context())
	if got := collected(t, reader); !strings.Contains(got, "hopbound.client.overreports {attempt} {grpc.target=passthrough:///node} ") {
		t.Error(got)
	}
}

// With a secret, nobody outside of the service can compute its child keys, and each run of a
// write still makes the same.
func TestChildKeysMayHaveASecret(t *testing.T) {
	t.Parallel()
	keys := map[string][]idempotency.Key{}
	for _, secret := range []string{"", "0123456789abcdef", "fedcba9876543210"} {
		for name, store := range map[string]idempotency.Store{"leases": idempotency.NewMemory(), "transactions": takeover{idempotency.NewMemory()}, "off": nil} {
			b := &bank{pay: func(ctx context.Context, n int64, _ *testv1.PayRequest) error {
				key, _ := idempotency.ForCall(ctx, "/shop.Ledger/Write", true)
				keys[secret] = append(keys[secret], key)
				if n == 1 {
					return errUnavailable
				}
				return nil
			}}
			var opts []idempotency.Option
			if secret != "" {
				opts = append(opts, idempotency.ChildSecret([]byte(secret)))
			}
			if name == "off" {
				store, opts = idempotency.NewMemory(), append(opts, idempotency.Off())
			}
			c := b.openWith(t, interceptors.WithIdempotency(store, opts...)).customer()
			for range 2 {
				_, _ = c.pay(t.Context(), "k", rent())
			}
		}
	}
	seen := map[idempotency.Key]string{}
	for secret, all := range keys {
		for _, key := range all {
			if key != all[0] || len(all) != 6 {
				t.Errorf("secret %q: keys %q", secret, all)
			}
		}
		if other, ok := seen[all[0]]; ok {
			t.Errorf("secrets %q and %q make the same key", secret, other)
		}
		seen[all[0]] = secret
	}
	if _, err := idempotency.NewSettings(idempotency.ChildSecret([]byte("short"))); err == nil {
		t.Error("a short secret was taken")
	}
}
