package degrade_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors/degrade"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	normal    = degrade.Normal
	degraded  = degrade.Degraded
	minimal   = degrade.Minimal
	emergency = degrade.Emergency
)

func newController(t testing.TB, opts ...degrade.Option) *degrade.Controller {
	t.Helper()
	c, err := degrade.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// step is what happens before a level is expected.
type step struct {
	after       time.Duration
	good, bad   int // calls
	slow        int // calls that take 2 s
	signal      degrade.Level
	signals     bool
	override    degrade.Level
	overrides   bool
	endOverride bool
	want        degrade.Level
}

func TestLevelsRiseAtOnceAndFallStepByStep(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		opts  []degrade.Option
		steps []step
	}{
		"few calls say nothing":                           {nil, []step{{bad: 19, want: normal}}},
		"a tenth of the calls fails":                      {nil, []step{{good: 18, bad: 2, want: degraded}}},
		"a quarter":                                       {nil, []step{{good: 15, bad: 5, want: minimal}}},
		"half of them":                                    {nil, []step{{good: 10, bad: 10, want: emergency}}},
		"less than a tenth":                               {nil, []step{{good: 19, bad: 1, want: normal}}},
		"it rises further":                                {nil, []step{{good: 18, bad: 2, want: degraded}, {bad: 20, want: emergency}}},
		"calls leave the window":                          {nil, []step{{bad: 15, want: normal}, {after: 11 * time.Second, bad: 15, want: normal}}},
		"it falls one step after a time":                  {nil, []step{{bad: 20, want: emergency}, {after: 9 * time.Second, want: emergency}, {after: 2 * time.Second, want: emergency}, {after: 29999 * time.Millisecond, want: emergency}, {after: time.Millisecond, want: minimal}, {after: 30 * time.Second, want: degraded}, {after: 30 * time.Second, want: normal}}},
		"it falls several steps if nobody asks meanwhile": {nil, []step{{bad: 20, want: emergency}, {after: time.Hour, want: emergency}, {after: time.Hour, want: normal}}},
		"it stays while the share is above half": {nil, []step{
			{good: 80, bad: 20, want: degraded},
			{after: 11 * time.Second, good: 94, bad: 6, want: degraded},
			{after: 50 * time.Second, good: 94, bad: 6, want: degraded},
			{after: time.Second, good: 94, bad: 6, want: degraded},
			{after: 11 * time.Second, good: 100, bad: 4, want: degraded},
			{after: 30 * time.Second, good: 1, want: normal},
		}},
		"slow calls count if wanted":  {[]degrade.Option{degrade.SlowCalls(time.Second, 0.3, 0.6, 0.9)}, []step{{good: 14, slow: 6, want: degraded}, {slow: 180, want: emergency}}},
		"slow calls do not otherwise": {nil, []step{{slow: 100, want: normal}}},
		"a signal counts at once":     {nil, []step{{signals: true, signal: minimal, want: minimal}, {after: time.Hour, want: minimal}, {signals: true, signal: normal, want: minimal}, {after: 30 * time.Second, want: degraded}}},
		"the worse of both counts":    {nil, []step{{signals: true, signal: minimal, want: minimal}, {bad: 20, want: emergency}}},
		"an override counts alone": {nil, []step{
			{bad: 20, want: emergency},
			{overrides: true, override: normal, want: normal},
			{after: 10 * time.Second, want: normal},
			{endOverride: true, want: emergency},
			{overrides: true, override: 99, want: emergency},
			{overrides: true, override: -1, want: normal},
		}},
		"a shorter hold and window": {[]degrade.Option{degrade.Hold(time.Second), degrade.Window(time.Second, 2), degrade.ErrorRate(0.5, 1, 1)}, []step{{good: 1, bad: 1, want: degraded}, {after: time.Second, want: degraded}, {after: time.Second, want: normal}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newController(t, tc.opts...)
				for i, s := range tc.steps {
					time.Sleep(s.after)
					for range s.good {
						c.Observe(false, time.Millisecond)
					}
					for range s.bad {
						c.Observe(true, time.Millisecond)
					}
					for range s.slow {
						c.Observe(false, 2*time.Second)
					}
					if s.signals {
						c.Signal("breaker", s.signal)
					}
					if s.overrides {
						c.Override(s.override)
					}
					if s.endOverride {
						c.EndOverride()
					}
					if got := c.Level(); got != s.want {
						t.Errorf("step %d: %v, want %v", i, got, s.want)
					}
				}
			})
		})
	}
}

// Whatever is observed, a level falls by at most one step in each hold, is never below a signal, and every change is
// reported in order.
func TestLevelsNeverFallFast(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const hold = 20 * time.Second
				random := rand.New(rand.NewPCG(seed, 0))
				shown, fell := normal, time.Time{}
				c := newController(t, degrade.Hold(hold), degrade.OnChange(func(from, to degrade.Level) {
					if from != shown {
						t.Errorf("a change from %v to %v, but it was %v", from, to, shown)
					}
					if to < from {
						if to != from-1 || !fell.IsZero() && time.Since(fell) < hold {
							t.Errorf("it fell from %v to %v %v after the last time", from, to, time.Since(fell))
						}
						fell = time.Now()
					}
					shown = to
				}))
				signal := normal
				for range 400 {
					time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
					share := random.Float64()
					for range random.IntN(30) {
						c.Observe(random.Float64() < share*share, 0)
					}
					if random.IntN(10) == 0 {
						signal = degrade.Level(random.IntN(4))
						c.Signal("s", signal)
					}
					if c.Level() < signal || c.Level() != shown {
						t.Errorf("it is %v, reported %v, with a signal %v", c.Level(), shown, signal)
					}
				}
			})
		})
	}
}

func TestFeaturesAreOffFromTheirLevelOn(t *testing.T) {
	t.Parallel()
	for level := normal; level <= emergency; level++ {
		ctx := degrade.WithLevel(t.Context(), level)
		for from := normal; from <= emergency; from++ {
			f := degrade.Feature{Name: "f", OffFrom: from}
			want := level < max(from, degraded)
			err := degrade.Require(ctx, f)
			if degrade.Enabled(ctx, f) != want || (err == nil) != want || err != nil && status.Code(err) != codes.Unavailable {
				t.Errorf("at %v, a feature that is off from %v: %v", level, from, err)
			}
		}
	}
	if got := degrade.FromContext(t.Context()); got != normal || degrade.FromContext(degrade.WithLevel(t.Context(), 7)) != emergency {
		t.Error(got)
	}
}

// Calls of a server count by their code, a panic counts as a failure, and a call that is answered with DEGRADED does not
// count.
func TestCallsOfAServerCount(t *testing.T) {
	t.Parallel()
	feature := degrade.Feature{Name: "f", OffFrom: degraded}
	for name, tc := range map[string]struct {
		handler func(ctx context.Context) error
		want    degrade.Level
	}{
		"successes":             {func(context.Context) error { return nil }, normal},
		"failures":              {func(context.Context) error { return status.Error(codes.Internal, "") }, emergency},
		"failures of a client":  {func(context.Context) error { return status.Error(codes.NotFound, "") }, normal},
		"errors without code":   {func(context.Context) error { return errors.New("no") }, emergency},
		"panics":                {func(context.Context) error { panic("no") }, emergency},
		"features that are off": {func(ctx context.Context) error { return degrade.Require(degrade.WithLevel(ctx, emergency), feature) }, normal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, stream := range []bool{false, true} {
				c := newController(t)
				for range 20 {
					_ = serve(t.Context(), c, stream, tc.handler)
				}
				if got := c.Level(); got != tc.want {
					t.Errorf("stream %v: %v", stream, got)
				}
			}
		})
	}
}

// serve passes one call through the interceptors.
func serve(ctx context.Context, c *degrade.Controller, stream bool, handler func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	if stream {
		return c.StreamServerInterceptor()(nil, serverStream{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: "/s/m"}, func(_ any, ss grpc.ServerStream) error { return handler(ss.Context()) })
	}
	_, err = c.UnaryServerInterceptor()(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/s/m"}, func(ctx context.Context, _ any) (any, error) { return nil, handler(ctx) })
	return err
}

type serverStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // of the stream
}

func (s serverStream) Context() context.Context { return s.ctx }

func TestMethodsAreOffFromTheirLevelOn(t *testing.T) {
	t.Parallel()
	c := newController(t, degrade.Method("/s/m", minimal))
	for _, stream := range []bool{false, true} {
		for level, want := range map[degrade.Level]codes.Code{degraded: codes.OK, minimal: codes.Unavailable} {
			c.Override(level)
			ran := false
			err := serve(t.Context(), c, stream, func(context.Context) error { ran = true; return nil })
			if status.Code(err) != want || ran != (want == codes.OK) {
				t.Errorf("at %v: %v, the handler ran: %v", level, err, ran)
			}
		}
	}
}

// The level of a request that runs follows the controller, and is never below the caller's.
func TestLevelOfARequestFollowsTheController(t *testing.T) {
	t.Parallel()
	c := newController(t)
	for _, stream := range []bool{false, true} {
		c.Override(normal)
		_ = serve(degrade.WithLevel(t.Context(), degraded), c, stream, func(ctx context.Context) error {
			var got []degrade.Level
			for _, l := range []degrade.Level{normal, minimal, normal} {
				c.Override(l)
				got = append(got, degrade.FromContext(ctx))
			}
			if !slices.Equal(got, []degrade.Level{degraded, minimal, degraded}) {
				t.Errorf("levels %v", got)
			}
			return nil
		})
	}
}

func TestControllerIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	c := newController(t, degrade.OnChange(func(degrade.Level, degrade.Level) {}))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 500 {
				c.Observe(n%3 == 0, 0)
				c.Signal(strconv.Itoa(i), degrade.Level(n%4))
				c.Override(degrade.Level(n % 4))
				c.EndOverride()
				_ = c.Level()
			}
		})
	}
	wg.Wait()
}

func TestInvalidOptionsAreAllReported(t *testing.T) {
	t.Parallel()
	_, err := degrade.New(degrade.ErrorRate(0, 0.5, 1), degrade.ErrorRate(0.5, 0.4, 1), degrade.SlowCalls(0, 0.1, 0.2, 0.3), degrade.SlowCalls(1, 0.1, 0.2, 1.3),
		degrade.Window(0, 1), degrade.Window(time.Second, 0), degrade.Hold(0), degrade.Codes(), degrade.Codes(codes.OK), degrade.Method("/s/m", normal),
		degrade.WithMeterProvider(nil), degrade.OnChange(nil), nil)
	var all interface{ Unwrap() []error }
	if !errors.As(err, &all) || len(all.Unwrap()) != 13 {
		t.Errorf("got %v", err)
	}
	if got := degrade.Level(7).String() + emergency.String(); got != "Level(7)emergency" {
		t.Error(got)
	}
}

func BenchmarkCall(b *testing.B) {
	c := newController(b)
	interceptor := c.UnaryServerInterceptor()
	info := &grpc.UnaryServerInfo{FullMethod: "/s/m"}
	next := func(context.Context, any) (any, error) { return nil, nil } //nolint:nilnil // a stub
	b.ReportAllocs()
	for b.Loop() {
		_, _ = interceptor(b.Context(), nil, info, next)
	}
}
