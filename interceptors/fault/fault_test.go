package fault_test

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors/fault"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const method = "/stock.v1.Stock/Get"

func newFaults(t testing.TB, rules []fault.Rule, opts ...fault.Option) *fault.Faults {
	t.Helper()
	f, err := fault.New(rules, opts...)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Enable(); err != nil {
		t.Fatal(err)
	}
	return f
}

// client makes a call through the client's interceptor. The server replies "sent".
func client(ctx context.Context, f *fault.Faults, opts ...grpc.CallOption) (reply string, sent bool, err error) {
	r := &wrapperspb.StringValue{}
	err = f.UnaryClientInterceptor()(ctx, method, nil, r, nil, func(_ context.Context, _ string, _, reply any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
		sent = true
		reply.(*wrapperspb.StringValue).Value = "sent" //nolint:errcheck,forcetypeassert // it is one
		return nil
	}, opts...)
	return r.GetValue(), sent, err
}

// server serves a call through the server's interceptor.
func server(ctx context.Context, f *fault.Faults) (reply string, ran bool, err error) {
	r, err := f.UnaryServerInterceptor()(ctx, nil, &grpc.UnaryServerInfo{FullMethod: method}, func(context.Context, any) (any, error) {
		ran = true
		return "sent", nil
	})
	reply, _ = r.(string)
	return reply, ran, err
}

func TestFaultsOfUnaryCalls(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		rules []fault.Rule
		reply string
		code  codes.Code
		sent  bool
		took  time.Duration
	}{
		"latency":                   {[]fault.Rule{{Latency: time.Second}}, "sent", codes.OK, true, time.Second},
		"latencies add up":          {[]fault.Rule{{Latency: time.Second}, {Latency: time.Minute}}, "sent", codes.OK, true, 61 * time.Second},
		"an error":                  {[]fault.Rule{{Code: codes.Internal}}, "", codes.Internal, false, 0},
		"the first error counts":    {[]fault.Rule{{Code: codes.Aborted}, {Code: codes.Internal, Latency: time.Second}}, "", codes.Aborted, false, 0},
		"an error after a wait":     {[]fault.Rule{{Latency: time.Second, Code: codes.Internal}}, "", codes.Internal, false, time.Second},
		"a lost reply":              {[]fault.Rule{{LoseReply: true}}, "", codes.Unavailable, true, 0},
		"lost with a code":          {[]fault.Rule{{LoseReply: true, Code: codes.Unknown}}, "", codes.Unknown, true, 0},
		"another method":            {[]fault.Rule{{Code: codes.Internal, Methods: []string{"/stock.v1.Stock/Put", "/stock.v1.Stocks/*"}}}, "sent", codes.OK, true, 0},
		"its service":               {[]fault.Rule{{Code: codes.Internal, Methods: []string{"/stock.v1.Stock/*"}}}, "", codes.Internal, false, 0},
		"a wait ends with the call": {[]fault.Rule{{Latency: 2 * time.Hour}}, "", codes.DeadlineExceeded, false, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				for i := range tc.rules {
					tc.rules[i].Name, tc.rules[i].Share = "f", 1
				}
				f := newFaults(t, tc.rules)
				for side, call := range map[string]func() (string, bool, error){
					"client": func() (string, bool, error) { return client(within(t), f) },
					"server": func() (string, bool, error) { return server(within(t), f) },
				} {
					started := time.Now()
					reply, sent, err := call()
					if reply != tc.reply || status.Code(err) != tc.code || sent != tc.sent || time.Since(started) != tc.took {
						t.Errorf("%s: %q, %v, sent %v, after %v", side, reply, err, sent, time.Since(started))
					}
					if injected := err != nil && tc.code != codes.DeadlineExceeded; injected && !strings.Contains(err.Error(), "injected by fault f") {
						t.Errorf("%s: the error does not say that it is injected: %v", side, err)
					}
				}
			})
		})
	}
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	t.Cleanup(cancel)
	return ctx
}

func TestNothingIsInjectedWhileTheyAreOff(t *testing.T) {
	t.Parallel()
	f, err := fault.New([]fault.Rule{{Name: "f", Share: 1, Code: codes.Internal}})
	if err != nil {
		t.Fatal(err)
	}
	for _, on := range []bool{false, true, false} {
		if f.Disable(); on {
			if err := f.Enable(); err != nil {
				t.Fatal(err)
			}
		}
		_, _, atClient := client(t.Context(), f)
		_, _, atServer := server(t.Context(), f)
		if f.Enabled() != on || (atClient != nil) != on || (atServer != nil) != on {
			t.Errorf("on is %v: %v, %v", on, atClient, atServer)
		}
	}
}

//nolint:paralleltest // it changes the environment
func TestProductionHasNoFaults(t *testing.T) {
	for _, tc := range []struct {
		name, value string
		production  bool
	}{
		{"ENV", "production", true},
		{"ENV", "staging", false},
		{"APP_ENV", "PROD-eu", true},
		{"ENVIRONMENT", " live ", true},
		{"ENVIRONMENT", "alive", false},
		{"GO_ENV", "prod", true},
		{"DEPLOYMENT_ENVIRONMENT", "Production", true},
		{"HOPBOUND_ENV", "prod", true},
		{"OTEL_RESOURCE_ATTRIBUTES", "service.name=a, deployment.environment.name=production", true},
		{"OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=prod,service.name=a", true},
		{"OTEL_RESOURCE_ATTRIBUTES", "service.name=production", false},
	} {
		t.Run(tc.name+"="+tc.value, func(t *testing.T) {
			t.Setenv(tc.name, tc.value)
			f, err := fault.New([]fault.Rule{{Name: "f", Share: 1, Code: codes.Internal}})
			if err != nil {
				t.Fatal(err)
			}
			err = f.Enable()
			if (err != nil) != tc.production || f.Enabled() == tc.production || err != nil && !strings.Contains(err.Error(), tc.name) {
				t.Errorf("enabled %v, %v", f.Enabled(), err)
			}
		})
	}
	f, err := fault.New(nil, fault.Production(func() string { return "the cluster is p1" }))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Enable(); err == nil || !strings.Contains(err.Error(), "the cluster is p1") {
		t.Error(err)
	}
}

func TestGuardSelectsRequestsThatCarryIt(t *testing.T) {
	t.Parallel()
	f := newFaults(t, []fault.Rule{{Name: "f", Share: 1, Code: codes.Internal, Guard: "secret"}})
	for name, tc := range map[string]struct {
		values []string
		hit    bool
	}{
		"none":      {nil, false},
		"the guard": {[]string{"secret"}, true},
		"another":   {[]string{"secrets"}, false},
		"two":       {[]string{"secret", "secret"}, false},
	} {
		md := metadata.MD{fault.Header: tc.values}
		_, _, atServer := server(metadata.NewIncomingContext(t.Context(), md), f)
		_, _, atClient := client(metadata.NewOutgoingContext(t.Context(), md), f)
		if (atServer != nil) != tc.hit || (atClient != nil) != tc.hit {
			t.Errorf("%s: %v, %v", name, atServer, atClient)
		}
	}
	// A call of a handler carries the guard of its request on.
	carried := ""
	f = newFaults(t, nil)
	_ = f.UnaryClientInterceptor()(metadata.NewIncomingContext(t.Context(), metadata.Pairs(fault.Header, "other")), method, nil, nil, nil,
		func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
			md, _ := metadata.FromOutgoingContext(ctx)
			carried = strings.Join(md.Get(fault.Header), ",")
			return nil
		})
	if carried != "other" {
		t.Errorf("the call carries %q", carried)
	}
}

func TestSharesAreRandomAndCanBeSeeded(t *testing.T) {
	t.Parallel()
	hits := func(opts ...fault.Option) (all string, n int) {
		f := newFaults(t, []fault.Rule{{Name: "f", Share: 0.3, Code: codes.Internal}}, opts...)
		for range 1000 {
			if _, _, err := client(t.Context(), f); err != nil {
				all, n = all+"x", n+1
			} else {
				all += "."
			}
		}
		return all, n
	}
	one, n := hits(fault.Seed(1))
	again, _ := hits(fault.Seed(1))
	other, _ := hits(fault.Seed(2))
	if one != again || one == other || n < 230 || n > 370 {
		t.Errorf("%d hits, the same again: %v, the same with another seed: %v", n, one == again, one == other)
	}
	if _, n := hits(); n < 200 || n > 400 {
		t.Errorf("%d hits", n)
	}
}

func TestRulesAreReplacedWhileCallsRun(t *testing.T) {
	t.Parallel()
	f := newFaults(t, nil, fault.Seed(1))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				_, _, _ = client(t.Context(), f)
				_, _, _ = server(t.Context(), f)
			}
		})
	}
	for i := range 200 {
		if err := f.Set(fault.Rule{Name: strconv.Itoa(i), Share: 0.5, Code: codes.Internal}); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if err := f.Set(fault.Rule{Name: "f", Share: 2, Code: codes.Internal}); err == nil {
		t.Error("an invalid rule is accepted")
	}
	if err := f.Set(); err != nil {
		t.Error(err)
	}
	if _, _, err := client(t.Context(), f); err != nil {
		t.Error(err)
	}
}

// stream is both sides of a stream of n messages.
type stream struct {
	grpc.ClientStream
	grpc.ServerStream
	ctx  context.Context //nolint:containedctx // of the stream
	n    int
	sent int
}

func (s *stream) Context() context.Context     { return s.ctx }
func (s *stream) CloseSend() error             { return nil }
func (s *stream) Header() (metadata.MD, error) { return nil, nil } //nolint:nilnil // a stub
func (s *stream) Trailer() metadata.MD         { return metadata.Pairs("a", "b") }
func (s *stream) SetHeader(metadata.MD) error  { return nil }
func (s *stream) SetTrailer(metadata.MD)       {}
func (s *stream) SendHeader(metadata.MD) error { return nil }
func (s *stream) SendMsg(any) error            { s.sent++; return nil }
func (s *stream) RecvMsg(any) error {
	if s.n == 0 {
		return io.EOF
	}
	s.n--
	return nil
}

func TestFaultsOfStreams(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		rules    []fault.Rule
		messages int // that arrive
		code     codes.Code
	}{
		"none":                        {nil, 3, codes.OK},
		"an error":                    {[]fault.Rule{{Code: codes.Internal}}, 0, codes.Internal},
		"latency":                     {[]fault.Rule{{Latency: time.Millisecond}}, 3, codes.OK},
		"it is cut":                   {[]fault.Rule{{CutAfter: 2}}, 2, codes.Unavailable},
		"it is cut at the first":      {[]fault.Rule{{CutAfter: 3}, {CutAfter: 1}, {CutAfter: 2}}, 1, codes.Unavailable},
		"it ends before it is cut":    {[]fault.Rule{{CutAfter: 4}}, 3, codes.OK},
		"its end is lost":             {[]fault.Rule{{LoseReply: true}}, 3, codes.Unavailable},
		"its end is lost with a code": {[]fault.Rule{{LoseReply: true, Code: codes.DataLoss}}, 3, codes.DataLoss},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i := range tc.rules {
				tc.rules[i].Name, tc.rules[i].Share = "f", 1
			}
			f := newFaults(t, tc.rules)
			s := &stream{ctx: t.Context()}
			err := f.StreamServerInterceptor()(nil, s, &grpc.StreamServerInfo{FullMethod: method}, func(_ any, ss grpc.ServerStream) error {
				for range 3 {
					if err := ss.SendMsg(nil); err != nil {
						return errors.Join(err, ss.SendMsg(nil))
					}
				}
				return nil
			})
			if status.Code(err) != tc.code || s.sent != tc.messages {
				t.Errorf("the server sent %d messages: %v", s.sent, err)
			}
			received, ended := 0, false
			var cs grpc.ClientStream
			cs, err = f.StreamClientInterceptor()(t.Context(), &grpc.StreamDesc{ServerStreams: true}, nil, method,
				func(ctx context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
					context.AfterFunc(ctx, func() { ended = true })
					return &stream{ctx: ctx, n: 3}, nil
				})
			for err == nil {
				if err = cs.RecvMsg(nil); err == nil {
					received++
				}
			}
			if cs != nil && !errors.Is(err, io.EOF) {
				if again := cs.RecvMsg(nil); !errors.Is(again, err) || len(cs.Trailer()) > 0 {
					t.Errorf("after %v comes %v, and the trailer is %v", err, again, cs.Trailer())
				}
			}
			if errors.Is(err, io.EOF) {
				err = nil
			}
			if status.Code(err) != tc.code || received != tc.messages {
				t.Errorf("the client received %d messages: %v, %v", received, err, ended)
			}
		})
	}
}

func TestInvalidRulesAndOptionsAreAllReported(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]fault.Rule{
		"it has no name":         {Share: 1, Latency: 1},
		"\"stock.v1.Stock/Get\"": {Name: "f", Share: 1, Latency: 1, Methods: []string{"stock.v1.Stock/Get"}},
		"\"\"":                   {Name: "f", Share: 1, Latency: 1, Methods: []string{""}},
		"\"/stock\"":             {Name: "f", Share: 1, Latency: 1, Methods: []string{"/stock"}},
		"the share 0":            {Name: "f", Latency: 1},
		"the share 1.1":          {Name: "f", Share: 1.1, Latency: 1},
		"must not be negative":   {Name: "f", Share: 1, Jitter: -1},
		"no code 17":             {Name: "f", Share: 1, Code: 17},
		"it has no fault":        {Name: "f", Share: 1},
	} {
		if _, err := fault.New([]fault.Rule{r}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
	_, err := fault.New([]fault.Rule{{}, {}}, nil, fault.Production(nil), fault.WithMeterProvider(nil))
	if got := strings.Count(err.Error(), "nil") + strings.Count(err.Error(), "the rule"); got != 5 {
		t.Errorf("got %v", err)
	}
}

func BenchmarkCall(b *testing.B) {
	next := func(context.Context, any) (any, error) { return nil, nil } //nolint:nilnil // a stub
	info := &grpc.UnaryServerInfo{FullMethod: method}
	for name, on := range map[string]bool{"off": false, "on": true} {
		f := newFaults(b, []fault.Rule{{Name: "f", Share: 1e-9, Code: codes.Internal}})
		if !on {
			f.Disable()
		}
		interceptor := f.UnaryServerInterceptor()
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = interceptor(b.Context(), nil, info, next)
			}
		})
	}
}
