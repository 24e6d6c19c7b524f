package bulkhead_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/bulkhead"
	"github.com/hopbound/hopbound/interceptors/internal/companiontest"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ms = time.Millisecond

func newBulkhead(t testing.TB, limit int, opts ...bulkhead.Option) *bulkhead.Bulkhead {
	t.Helper()
	b, err := bulkhead.New(limit, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// full reports whether an error is that of a full bulkhead, and how long it says to wait.
func full(err error) (wait time.Duration, ok bool) {
	return companiontest.Rejected(err, codes.ResourceExhausted, interceptors.ReasonBulkheadFull)
}

// calls runs calls through a server's interceptor, without a network.
type calls struct {
	t       *testing.T
	serve   grpc.UnaryServerInterceptor
	mu      sync.Mutex
	started []string
	wg      sync.WaitGroup
}

func newCalls(t *testing.T, b *bulkhead.Bulkhead) *calls {
	t.Helper()
	return &calls{t: t, serve: b.UnaryServerInterceptor()}
}

// start starts a call that takes some time and has a deadline, unless that is 0. It returns where its error is
// when it has ended.
func (c *calls) start(name string, took, timeout time.Duration) *error {
	result := new(error)
	c.wg.Go(func() {
		ctx := c.t.Context()
		if timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		_, *result = c.serve(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/s/" + name[:1]}, func(context.Context, any) (any, error) {
			c.mu.Lock()
			c.started = append(c.started, name)
			c.mu.Unlock()
			time.Sleep(took)
			return nil, nil //nolint:nilnil // nobody looks at it
		})
	})
	synctest.Wait()
	return result
}

func TestCallsWaitInTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCalls(t, newBulkhead(t, 2, bulkhead.Queue(3)))
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			c.start(name, 100*ms, 0)
		}
		if !slices.Equal(c.started, []string{"a", "b"}) {
			t.Errorf("running: %q", c.started)
		}
		sixth := c.start("f", 100*ms, 0)
		if _, ok := full(*sixth); !ok {
			t.Errorf("the sixth call: %v", *sixth)
		}
		c.wg.Wait()
		if !slices.Equal(c.started, []string{"a", "b", "c", "d", "e"}) {
			t.Errorf("they ran in the order %q", c.started)
		}
	})
}

func TestCallLeavesTheQueueWhenItsCallerGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCalls(t, newBulkhead(t, 1, bulkhead.Queue(1)))
		c.start("a", time.Second, 0)
		gone := c.start("b", ms, 100*ms)
		time.Sleep(100 * ms)
		synctest.Wait()
		if status.Code(*gone) != codes.DeadlineExceeded {
			t.Errorf("the call that waited: %v", *gone)
		}
		next := c.start("c", ms, 0) // there is room in the queue again
		c.wg.Wait()
		if *next != nil || !slices.Equal(c.started, []string{"a", "c"}) {
			t.Errorf("%v, and %q ran", *next, c.started)
		}
	})
}

// A call that cannot be served before its deadline is rejected when it arrives, and told how long it would have
// waited.
func TestCallThatWouldBeLateIsRejectedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCalls(t, newBulkhead(t, 1, bulkhead.Queue(9)))
		c.start("a", 100*ms, 0)
		c.wg.Wait() // calls usually take 100 ms
		c.start("b", 100*ms, 0)
		c.start("c", 100*ms, 0)
		late, intime := c.start("d", 100*ms, 250*ms), c.start("e", 100*ms, 350*ms)
		if wait, ok := full(*late); !ok || wait != 200*ms {
			t.Errorf("the late call is told %v, %v", wait, *late)
		}
		c.wg.Wait()
		if *intime != nil || !slices.Equal(c.started, []string{"a", "b", "c", "e"}) {
			t.Errorf("%v, and %q ran", *intime, c.started)
		}
	})
}

func TestWaitIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCalls(t, newBulkhead(t, 1, bulkhead.MaxWait(50*ms)))
		c.start("a", 100*ms, 0)
		waited := c.start("b", 100*ms, 0)
		time.Sleep(50 * ms)
		synctest.Wait()
		if _, ok := full(*waited); !ok {
			t.Errorf("the call that waited: %v", *waited)
		}
		c.wg.Wait()
	})
}

func TestMethodsMayHavePlacesOfTheirOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCalls(t, newBulkhead(t, 1, bulkhead.Queue(0), bulkhead.PerMethod()))
		c.start("a", 100*ms, 0)
		other, same := c.start("b", 100*ms, 0), c.start("a again", 100*ms, 0)
		c.wg.Wait()
		if _, ok := full(*same); !ok || *other != nil {
			t.Errorf("the same method: %v, another one: %v", *same, *other)
		}
	})
}

// While latency is as it was, more places come to be used; when calls take ten times as long, places become fewer.
func TestPlacesFollowTheLatency(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBulkhead(t, 20, bulkhead.Adaptive(1, 100), bulkhead.Queue(0))
		serve := b.UnaryServerInterceptor()
		var running, most atomic.Int64
		load := func(d time.Duration, took func(running int64) time.Duration) int64 {
			most.Store(0)
			var wg sync.WaitGroup
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(ms) {
				wg.Go(func() {
					_, _ = serve(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/s/m"}, func(context.Context, any) (any, error) {
						n := running.Add(1)
						defer running.Add(-1)
						for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
						}
						time.Sleep(took(n))
						return nil, nil //nolint:nilnil // nobody looks at it
					})
				})
			}
			wg.Wait()
			return most.Load()
		}
		load(30*time.Second, func(int64) time.Duration { return 10 * ms })
		_ = load(60*time.Second, func(running int64) time.Duration { return time.Duration(20*running) * ms })
		if got := load(5*time.Second, func(running int64) time.Duration { return time.Duration(20*running) * ms }); got >= 20 {
			t.Errorf("%d calls ran at once after a minute of slowness", got)
		}
	})
}

// Whatever the calls are, no more run at once than there are places, and no place is lost.
func TestPlacesAreNeitherExceededNorLost(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		limit := rapid.IntRange(1, 4).Draw(r, "limit")
		opts := []bulkhead.Option{bulkhead.Queue(rapid.IntRange(0, 5).Draw(r, "queue"))}
		if rapid.Bool().Draw(r, "bounded wait") {
			opts = append(opts, bulkhead.MaxWait(40*ms))
		}
		synctest.Test(t, func(t *testing.T) {
			serve := newBulkhead(t, limit, opts...).UnaryServerInterceptor()
			var running atomic.Int64
			call := func(took, timeout time.Duration, panics bool) (ran bool) {
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				defer cancel()
				defer func() { _ = recover() }()
				_, _ = serve(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/s/m"}, func(ctx context.Context, _ any) (any, error) {
					ran = true
					if n := running.Add(1); n > int64(limit) {
						t.Errorf("%d calls run in %d places", n, limit)
					}
					defer running.Add(-1)
					if ctx.Err() != nil {
						t.Error("a call runs whose caller has gone")
					}
					time.Sleep(took)
					if panics {
						panic("oops")
					}
					return nil, nil //nolint:nilnil // nobody looks at it
				})
				return ran
			}
			var wg sync.WaitGroup
			for range rapid.IntRange(1, 40).Draw(r, "calls") {
				time.Sleep(time.Duration(rapid.IntRange(0, 30).Draw(r, "pause")) * ms)
				took := time.Duration(rapid.IntRange(0, 80).Draw(r, "took")) * ms
				timeout := time.Duration(rapid.IntRange(1, 120).Draw(r, "timeout")) * ms
				panics := rapid.IntRange(0, 9).Draw(r, "panics") == 0
				wg.Go(func() { call(took, timeout, panics) })
			}
			wg.Wait()
			if running.Load() != 0 {
				t.Errorf("%d calls run after the end", running.Load())
			}
			var last sync.WaitGroup
			var ran atomic.Int64
			for range limit {
				last.Go(func() {
					if call(ms, time.Second, false) {
						ran.Add(1)
					}
				})
			}
			last.Wait()
			if ran.Load() != int64(limit) {
				t.Errorf("%d of %d places are left", ran.Load(), limit)
			}
		})
	})
}

func TestInvalidArgumentsAreAllReported(t *testing.T) {
	t.Parallel()
	_, err := bulkhead.New(0, bulkhead.Queue(-1), bulkhead.MaxWait(0), bulkhead.Adaptive(2, 1), bulkhead.WithMeterProvider(nil), nil)
	var all interface{ Unwrap() []error }
	if !errors.As(err, &all) || len(all.Unwrap()) != 6 {
		t.Errorf("got %v", err)
	}
	if _, err := bulkhead.New(5, bulkhead.Adaptive(6, 9)); err == nil || !strings.Contains(err.Error(), "must be between them") {
		t.Errorf("got %v", err)
	}
}

func BenchmarkFree(b *testing.B) {
	serve := newBulkhead(b, 8).UnaryServerInterceptor()
	info := &grpc.UnaryServerInfo{FullMethod: "/s/m"}
	handler := func(context.Context, any) (any, error) { return nil, nil } //nolint:nilnil // nobody looks at it
	b.ReportAllocs()
	for b.Loop() {
		_, _ = serve(b.Context(), nil, info, handler)
	}
}
