package fallback_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/fallback"
	"github.com/hopbound/hopbound/interceptors/internal/companiontest"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const check = companiontest.Check

type (
	request  = *healthpb.HealthCheckRequest
	response = *healthpb.HealthCheckResponse
)

func byService(_ context.Context, r request) string { return r.GetService() }

// The status tells which server has answered.
const (
	fromPrimary = healthpb.HealthCheckResponse_SERVING
	fromTarget  = healthpb.HealthCheckResponse_NOT_SERVING
	fromDefault = healthpb.HealthCheckResponse_SERVICE_UNKNOWN
)

func toDefault(context.Context, request, error) (response, error) {
	return &healthpb.HealthCheckResponse{Status: fromDefault}, nil
}

// server answers with a status, or fails with a code.
type server struct {
	companiontest.Server
	code codes.Code
	took time.Duration
}

func newServer(reply healthpb.HealthCheckResponse_ServingStatus) *server {
	s := &server{}
	s.Status = reply
	s.Handle = func(context.Context) error {
		time.Sleep(s.took)
		return status.Error(s.code, "of "+reply.String())
	}
	return s
}

func newFallback(t testing.TB, opts ...fallback.Option) *fallback.Fallback {
	t.Helper()
	f, err := fallback.New(append(opts, fallback.DeclareSafe(check))...)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func hopbound(t testing.TB, opts ...interceptors.ClientOption) []grpc.DialOption {
	t.Helper()
	c, err := interceptors.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c.DialOptions()
}

func TestStepsAreTriedInTheirOrder(t *testing.T) {
	t.Parallel()
	failing := func(context.Context, request, error) (response, error) { return nil, errors.New("no default") }
	for name, tc := range map[string]struct {
		before          time.Duration // since an earlier call, which succeeds
		primary, target codes.Code
		took            time.Duration // by the primary
		noDefault       bool
		status          healthpb.HealthCheckResponse_ServingStatus
		source          string
		code            codes.Code
		targets         int64 // calls of the other target
	}{
		"the primary succeeds":                     {primary: codes.OK, status: fromPrimary},
		"the other target serves":                  {primary: codes.Unavailable, status: fromTarget, source: "target", targets: 1},
		"the primary is slow":                      {took: time.Minute, status: fromTarget, source: "target", targets: 1},
		"the cache serves":                         {before: 12 * time.Second, primary: codes.Unavailable, target: codes.Unavailable, status: fromPrimary, source: "cache;age=12", targets: 1},
		"the cached reply is too old":              {before: 61 * time.Second, primary: codes.Unavailable, target: codes.Unavailable, status: fromDefault, source: "default", targets: 1},
		"nothing is cached":                        {primary: codes.Unavailable, target: codes.Internal, status: fromDefault, source: "default", targets: 1},
		"no step has a reply":                      {primary: codes.Unavailable, target: codes.Internal, noDefault: true, code: codes.Unavailable, targets: 1},
		"a failure of the request has no fallback": {primary: codes.NotFound, code: codes.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				primary, other := newServer(fromPrimary), newServer(fromTarget)
				last := toDefault
				if tc.noDefault {
					last = failing
				}
				reader := metric.NewManualReader()
				provider := metric.NewMeterProvider(metric.WithReader(reader))
				f := newFallback(t, fallback.WithMeterProvider(provider), fallback.For(check,
					fallback.Target(companiontest.Dial(t, &other.Server, nil)),
					fallback.Cache(time.Minute, byService), fallback.Default(failing), fallback.Default(last)))
				c := companiontest.Connect(t, &primary.Server, nil, append(f.DialOptions(), hopbound(t)...)...)
				req := &healthpb.HealthCheckRequest{Service: "a"}
				if tc.before > 0 {
					if _, err := c.Check(t.Context(), req); err != nil {
						t.Fatal(err)
					}
					time.Sleep(tc.before)
				}
				primary.code, primary.took, other.code = tc.primary, tc.took, tc.target
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				var header, trailer metadata.MD
				var from peer.Peer
				finished := 0
				reply, err := c.Check(ctx, req, grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&from), grpc.OnFinish(func(error) { finished++ }))
				if status.Code(err) != tc.code || reply.GetStatus() != tc.status {
					t.Errorf("%v, %v", reply.GetStatus(), err)
				}
				if got := strings.Join(header.Get(fallback.Header), ","); got != tc.source {
					t.Errorf("the reply is marked %q, want %q", got, tc.source)
				}
				if tc.code != codes.OK && !strings.Contains(err.Error(), "of "+fromPrimary.String()) {
					t.Errorf("the error is not the primary's: %v", err)
				}
				if finished != 1 || other.Calls.Load() != tc.targets {
					t.Errorf("OnFinish ran %d times, and the other target had %d calls", finished, other.Calls.Load())
				}
				source, _, _ := strings.Cut(tc.source, ";")
				if tc.code == codes.Unavailable {
					source = "none"
				}
				if got := counted(t, reader); got != source {
					t.Errorf("counted %q, want %q", got, source)
				}
			})
		})
	}
}

// counted returns the source of the only call that was counted.
func counted(t testing.TB, reader metric.Reader) string {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	var sources []string
	for _, s := range all.ScopeMetrics {
		for _, m := range s.Metrics {
			if sum, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == "hopbound.fallback.calls" {
				for _, p := range sum.DataPoints {
					source, _ := p.Attributes.Value("hopbound.fallback.source")
					sources = append(sources, source.AsString())
				}
			}
		}
	}
	return strings.Join(sources, ",")
}

// Within a request, a call of another target takes a token, and none if no server has seen the primary call.
func TestAnotherTargetTakesATokenOfTheRequest(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		refuse, otherRefuses bool
		tokens, used         int
		served               bool
	}{
		"a token is taken":                         {tokens: 1, used: 1, served: true},
		"there is no token":                        {tokens: 0, served: false},
		"no server has seen the primary call":      {refuse: true, tokens: 0, served: true},
		"the other target did not see it either":   {otherRefuses: true, tokens: 1, used: 0, served: false},
		"neither did the other, and there is none": {refuse: true, otherRefuses: true, served: false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			primary, other := newServer(fromPrimary), newServer(fromTarget)
			primary.code = codes.Unavailable
			refusing := func(on bool) grpc.DialOption {
				return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
					if on {
						return interceptors.Refuse(ctx, status.Error(codes.Unavailable, "of "+fromPrimary.String()))
					}
					return invoker(ctx, method, req, reply, cc, opts...)
				})
			}
			f := newFallback(t, fallback.For(check, fallback.Target(companiontest.Dial(t, &other.Server, nil, append(hopbound(t), refusing(tc.otherRefuses))...))))
			// Calls earn no tokens, so that the request has those that it came with.
			b := budget.New(budget.Ratio(0))
			down := companiontest.Connect(t, &primary.Server, nil, append(append(f.DialOptions(), hopbound(t, interceptors.WithBudget(b))...), refusing(tc.refuse))...)
			var a budget.Allotment
			a.Receive(tc.tokens)
			reply, err := down.Check(budget.NewContext(t.Context(), &a), &healthpb.HealthCheckRequest{})
			if served := err == nil && reply.GetStatus() == fromTarget; served != tc.served || a.Used() != tc.used {
				t.Errorf("%v, %v, and %d tokens are used", reply.GetStatus(), err, a.Used())
			}
		})
	}
}

// A failure of another target ends nothing but its step: the error, the trailer and the peer are the primary's.
func TestFailureStaysThePrimarys(t *testing.T) {
	t.Parallel()
	primary, other := newServer(fromPrimary), newServer(fromTarget)
	primary.Handle = func(ctx context.Context) error {
		_ = grpc.SetTrailer(ctx, metadata.Pairs("of", "primary"))
		return status.Error(codes.Unavailable, "primary")
	}
	other.Handle = func(ctx context.Context) error {
		_ = grpc.SetTrailer(ctx, metadata.Pairs("of", "other"))
		return status.Error(codes.Internal, "other")
	}
	f := newFallback(t, fallback.For(check, fallback.Target(companiontest.Dial(t, &other.Server, nil))))
	c := companiontest.Connect(t, &primary.Server, nil, f.DialOptions()...)
	var header, trailer metadata.MD
	_, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.Trailer(&trailer), grpc.Header(&header))
	if status.Convert(err).Message() != "primary" || trailer.Get("of")[0] != "primary" || len(header.Get(fallback.Header)) != 0 {
		t.Errorf("%v, %v, %v", err, trailer, header)
	}
	other.Handle = func(ctx context.Context) error {
		_ = grpc.SetTrailer(ctx, metadata.Pairs("of", "other"))
		return nil
	}
	if _, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.Trailer(&trailer)); err != nil || trailer.Get("of")[0] != "other" {
		t.Errorf("%v, %v", err, trailer)
	}
}

func TestNothingIsServedAfterTheCallHasEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		primary := newServer(fromPrimary)
		primary.took = time.Minute
		for _, reserve := range []time.Duration{0, 50 * time.Millisecond} {
			f := newFallback(t, fallback.Reserve(reserve), fallback.For(check, fallback.Default(toDefault)))
			c := companiontest.Connect(t, &primary.Server, nil, f.DialOptions()...)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			started := time.Now()
			_, err := c.Check(ctx, &healthpb.HealthCheckRequest{})
			cancel()
			if took, want := time.Since(started), time.Second-reserve; (err == nil) != (reserve > 0) || took != want {
				t.Errorf("with a reserve of %v: %v after %v", reserve, err, took)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		f := newFallback(t, fallback.For(check, fallback.Default(toDefault)))
		time.AfterFunc(time.Second, cancel)
		if _, err := companiontest.Connect(t, &primary.Server, nil, f.DialOptions()...).Check(ctx, &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Canceled {
			t.Error(err)
		}
	})
}

func TestTraceShowsWhatHasServedACall(t *testing.T) {
	t.Parallel()
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	primary := newServer(fromPrimary)
	primary.code = codes.Unavailable
	f := newFallback(t, fallback.For(check, fallback.Default(toDefault)))
	ctx, span := provider.Tracer("").Start(t.Context(), "handler")
	if _, err := companiontest.Connect(t, &primary.Server, nil, f.DialOptions()...).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	span.End()
	events := recorder.Ended()[0].Events()
	if len(events) != 1 || events[0].Name != "hopbound.fallback" || events[0].Attributes[1].Value.AsString() != "default" {
		t.Errorf("events %v", events)
	}
}

// A cached reply is always the last one for its key, not older than the maximum age, and nobody else's to change.
func TestCacheServesTheLastReplyOfAKey(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			const maxAge, entries = 10 * time.Second, 2
			f := newFallback(t, fallback.CacheEntries(entries), fallback.For(check, fallback.Cache(maxAge, byService)))
			type last struct {
				status healthpb.HealthCheckResponse_ServingStatus
				at     time.Time
			}
			replies := map[string]last{}
			for range rapid.IntRange(1, 40).Draw(r, "calls") {
				time.Sleep(time.Duration(rapid.IntRange(0, 5000).Draw(r, "pause")) * time.Millisecond)
				key := rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(r, "key")
				fails := rapid.Bool().Draw(r, "fails")
				given := healthpb.HealthCheckResponse_ServingStatus(rapid.IntRange(1, 3).Draw(r, "status"))
				reply := &healthpb.HealthCheckResponse{}
				err := f.UnaryInterceptor()(t.Context(), check, &healthpb.HealthCheckRequest{Service: key}, reply, nil,
					func(_ context.Context, _ string, _, reply any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
						if fails {
							return status.Error(codes.Unavailable, "")
						}
						reply.(response).Status = given //nolint:errcheck,forcetypeassert // it is one
						return nil
					})
				known, ok := replies[key]
				ok = ok && time.Since(known.at) <= maxAge
				switch {
				case !fails:
					replies[key] = last{given, time.Now()}
				case err == nil && (!ok || key == "" || reply.GetStatus() != known.status):
					t.Errorf("key %q got %v, the last is %v", key, reply.GetStatus(), known)
				}
				reply.Status = 99 // the caller's own
			}
		})
	})
}

func TestCallersShareACacheAtTheSameTime(t *testing.T) {
	t.Parallel()
	primary := newServer(fromPrimary)
	f := newFallback(t, fallback.CacheEntries(3), fallback.For(check, fallback.Cache(time.Minute, byService), fallback.Default(toDefault)))
	c := companiontest.Connect(t, &primary.Server, nil, f.DialOptions()...)
	primary.Handle = func(context.Context) error {
		if primary.Calls.Load()%2 == 0 {
			return status.Error(codes.Unavailable, "")
		}
		return nil
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 50 {
				reply, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{Service: string(rune('a' + i))})
				if err != nil {
					t.Error(err)
				}
				reply.Status = 99
			}
		})
	}
	wg.Wait()
}
