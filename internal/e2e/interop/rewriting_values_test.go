package interop_test

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// cutter cuts the values of a key off.
type cutter struct{ length atomic.Int64 }

func (c *cutter) cut(key string) func(http.Header) {
	return func(h http.Header) {
		if values := h.Values(key); len(values) > 0 {
			h.Set(key, values[0][:min(int(c.length.Load()), len(values[0]))])
		}
	}
}

func testCutContexts(t *testing.T) string {
	t.Helper()
	var cutter cutter
	var down atomic.Bool
	leaf := &harness.Counter{Fail: func(int64) error {
		if down.Load() {
			return harness.ErrUnavailable
		}
		return nil
	}}
	last, _ := serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...)
	var lent, left atomic.Int64
	hop := startProxied(t, last, func(ctx context.Context, _ int64, err error) error {
		remaining, _ := deadline.Remaining(ctx)
		left.Store(int64(remaining))
		b := -1 // of a root
		if v := harness.HeaderField(ctx, "b"); v != "" {
			_, _ = fmt.Sscan(v, &b)
		}
		lent.Store(int64(b))
		return err
	})
	c := newCaller(t, (&rewriter{request: cutter.cut(contextHeader)}).start(t, hop.address))
	for length := range int64(wire.MaxLen / 3) {
		cutter.length.Store(length)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		down.Store(false)
		if o := c.request(ctx, 1); o.err != nil || lent.Load() > 2 || left.Load() <= 0 || left.Load() > int64(time.Minute) {
			t.Errorf("cut off after %d bytes: outcome %+v, b=%d, %v left; want success with at most two tokens", length, o, lent.Load(), time.Duration(left.Load()))
		}
		down.Store(true)
		leaf.Calls.Store(0)
		_ = c.request(ctx, 1)
		if calls := leaf.Calls.Load(); calls > (1+callerTokens)*(1+hopTokens) {
			t.Errorf("cut off after %d bytes: %d leaf calls", length, calls)
		}
		cancel()
	}
	return "what remains has fewer tokens or none, or is ignored; no call is rejected"
}

func testCutReports(t *testing.T) string {
	t.Helper()
	leaf, last := failingLeaf(t)
	var cutter cutter
	hop := startProxied(t, last, nil)
	address := (&rewriter{trailer: cutter.cut(reportHeader)}).start(t, hop.address)
	for length := range int64(len("1;u=2;e=1000000;n=1")) {
		cutter.length.Store(length)
		leaf.Calls.Store(0)
		o := newCaller(t, address).request(t.Context(), handlerCalls)
		want := int64(leafBound)
		if length == 1 {
			want = leafCallsUncharged // 1 is a report of no used tokens
		}
		if calls := leaf.Calls.Load(); calls > want || status.Code(o.err) != codes.Unavailable {
			t.Errorf("cut off after %d bytes: %d leaf calls, outcome %+v; want at most %d", length, calls, o, want)
		}
	}
	return "what remains says how many tokens were used, or all that were lent are charged. Only `1` says that none was"
}

func testReplacedTimeouts(t *testing.T) string {
	t.Helper()
	var left time.Duration
	address, _ := listen(t, func(s *grpc.Server) {
		testv1.RegisterTestServiceServer(s, harness.Service{Handle: func(ctx context.Context) error {
			left, _ = deadline.Remaining(ctx)
			return nil
		}})
	}, harness.NewServer(t).ServerOptions()...)
	for timeout, most := range map[string]time.Duration{"": time.Minute, "1H": time.Minute, "60000m": time.Minute, "10S": 10 * time.Second} {
		proxy := &rewriter{request: func(h http.Header) {
			if h.Del(timeoutHeader); timeout != "" {
				h.Set(timeoutHeader, timeout)
			}
		}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		o := newCaller(t, proxy.start(t, address)).request(ctx, 1)
		cancel()
		// The deadline in hop-context is rounded up to a millisecond.
		if o.err != nil || left <= 0 || left > most+time.Millisecond {
			t.Errorf("grpc-timeout %q: outcome %+v, %v left; want at most %v", timeout, o, left, most)
		}
	}
	return "the earlier deadline of `grpc-timeout` and `hop-context` counts"
}

func testDroppedKeys(t *testing.T) string {
	t.Helper()
	for _, drops := range []bool{false, true} {
		bank := &harness.Bank{}
		server := harness.NewServer(t, interceptors.WithIdempotency(idempotency.NewMemory()))
		address, _ := listen(t, func(s *grpc.Server) { testv1.RegisterTestServiceServer(s, bank) }, server.ServerOptions()...)
		proxy := &rewriter{}
		want := int64(1)
		if drops {
			proxy.request = func(h http.Header) { h.Del(keyHeader) }
			want = 2
		}
		client := testv1.NewTestServiceClient(newCaller(t, proxy.start(t, address)).cc)
		ctx := idempotency.WithKey(t.Context(), "key-1")
		proxy.loseNext.Store(1)
		if _, err := client.Write(ctx, &testv1.WriteRequest{}); err != nil || bank.Calls.Load() != want {
			t.Errorf("drops=%v: %d writes and %v, want %d", drops, bank.Calls.Load(), err, want)
		}
		bank.Calls.Store(0)
		proxy.loseNext.Store(1)
		if _, err := client.Pay(ctx, harness.Rent()); err != nil || bank.Calls.Load() != 1 {
			t.Errorf("drops=%v: %d payments and %v, want one: the request carries the key too", drops, bank.Calls.Load(), err)
		}
	}
	return "**the write runs twice**, because the caller relies on the key. A method with `key_field` has the key in its request, and runs once"
}
