package interceptors_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// bank makes payments, and counts how often each was made.
type bank struct {
	testv1.UnimplementedTestServiceServer
	pay   func(ctx context.Context, n int64, req *testv1.PayRequest) error
	calls atomic.Int64
}

func (b *bank) Pay(ctx context.Context, req *testv1.PayRequest) (*testv1.PayResponse, error) {
	n := b.calls.Add(1)
	if b.pay != nil {
		if err := b.pay(ctx, n, req); err != nil {
			return nil, err
		}
	}
	payment := fmt.Sprintf("payment %d of %s", n, req.GetAccount())
	if len(metadata.ValueFromIncomingContext(ctx, "x-spoil")) > 0 {
		payment = "\xff"
	}
	return &testv1.PayResponse{Payment: payment}, nil
}

func (b *bank) Write(ctx context.Context, _ *testv1.WriteRequest) (*testv1.WriteResponse, error) {
	n := b.calls.Add(1)
	if b.pay != nil {
		if err := b.pay(ctx, n, nil); err != nil {
			return nil, err
		}
	}
	return &testv1.WriteResponse{Text: fmt.Sprint("write ", n)}, nil
}

func (b *bank) Read(context.Context, *testv1.ReadRequest) (*testv1.ReadResponse, error) {
	return &testv1.ReadResponse{Text: fmt.Sprint("read ", b.calls.Add(1))}, nil
}

// open serves a bank with a store until the test ends.
func (b *bank) open(t testing.TB, store idempotency.Store, opts ...idempotency.Option) *node {
	t.Helper()
	return b.openWith(t, interceptors.WithIdempotency(store, opts...))
}

func (b *bank) openWith(t testing.TB, opts ...interceptors.ServerOption) *node {
	t.Helper()
	s := newServer(t, opts...)
	n := newNode(t, s.ServerOptions()...)
	testv1.RegisterTestServiceServer(n.server, b)
	if err := s.Check(n.server); err != nil {
		t.Fatal(err)
	}
	n.start()
	return n
}

// customer calls a bank without Hopbound, so that each call is as it is written.
type customer struct{ testv1.TestServiceClient }

func (n *node) customer(opts ...grpc.DialOption) customer {
	n.t.Helper()
	return customer{testv1.NewTestServiceClient(n.dial(append([]grpc.DialOption{grpc.WithDisableRetry()}, opts...)...))}
}

// pay pays with a key put on by hand.
func (c customer) pay(ctx context.Context, key string, req *testv1.PayRequest, opts ...grpc.CallOption) (string, error) {
	reply, err := c.Pay(metadata.AppendToOutgoingContext(ctx, idempotency.Header, key), req, opts...)
	return reply.GetPayment(), err
}

func rent() *testv1.PayRequest { return &testv1.PayRequest{Account: "rent", Cents: 90000} }

// wantError checks an error's code and reason.
func wantError(t testing.TB, err error, code codes.Code, why string) {
	t.Helper()
	if status.Code(err) != code || reason(err) != why {
		t.Errorf("got %v with reason %q, want %v with %q", err, reason(err), code, why)
	}
}

func TestCallWithAKeyIsMadeOnce(t *testing.T) {
	t.Parallel()
	b := &bank{pay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		_ = grpc.SetHeader(ctx, metadata.Pairs("x-header", "of the handler"))
		return grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "of the handler"))
	}}
	c := b.open(t, idempotency.NewMemory()).customer()
	for i := range 3 {
		var header, trailer metadata.MD
		got, err := c.pay(t.Context(), "k", rent(), grpc.Header(&header), grpc.Trailer(&trailer))
		if err != nil || got != "payment 1 of rent" {
			t.Errorf("call %d: got %q, %v", i, got, err)
		}
		if got := header.Get("idempotency-replayed"); (i > 0) != (len(got) == 1 && got[0] == "true") {
			t.Errorf("call %d: replayed %v", i, got)
		}
		if fmt.Sprint(header["x-header"], trailer["x-trailer"]) != "[of the handler] [of the handler]" {
			t.Errorf("call %d: header %v, trailer %v", i, header, trailer)
		}
	}
	if got, err := c.pay(t.Context(), "another", rent()); err != nil || got != "payment 2 of rent" {
		t.Errorf("another key: got %q, %v", got, err)
	}
}

// A handler that relays all that its callee sent says nothing of its own outcome.
func TestRelayedMarkOfAReplayIsNotTheHandlers(t *testing.T) {
	t.Parallel()
	b := &bank{pay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		relayed := metadata.Pairs("idempotency-replayed", "true")
		_ = grpc.SetHeader(ctx, relayed)
		return grpc.SetTrailer(ctx, relayed)
	}}
	c := b.open(t, idempotency.NewMemory()).customer()
	for i := range 2 {
		var header, trailer metadata.MD
		if _, err := c.pay(t.Context(), "k", rent(), grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
			t.Fatal(err)
		}
		if got := len(header["idempotency-replayed"]); got != i || len(trailer["idempotency-replayed"]) != 0 {
			t.Errorf("call %d: header %v, trailer %v", i, header, trailer)
		}
	}
}

func TestCallsThatNoKeyIsLookedAtAreMadeEachTime(t *testing.T) {
	t.Parallel()
	b := &bank{}
	c := b.open(t, idempotency.NewMemory()).customer()
	ctx := metadata.AppendToOutgoingContext(t.Context(), idempotency.Header, "k")
	for range 2 {
		if _, err := c.Read(ctx, &testv1.ReadRequest{}); err != nil {
			t.Error(err)
		}
		if _, err := c.Write(t.Context(), &testv1.WriteRequest{}); err != nil {
			t.Error(err)
		}
	}
	if n := b.calls.Load(); n != 4 {
		t.Errorf("%d calls, want two reads with a key and two writes without", n)
	}
	off := &bank{}
	c = off.open(t, idempotency.NewMemory(), idempotency.ForMethod("/hopbound.test.v1.TestService/", idempotency.Off())).customer()
	for range 2 {
		if _, err := c.Pay(ctx, rent()); err != nil {
			t.Error(err)
		}
	}
	if n := off.calls.Load(); n != 2 {
		t.Errorf("%d calls where keys are off, want 2", n)
	}
}

func TestKeyThatIsMissingInvalidOrAnotherRequestsIsRefused(t *testing.T) {
	t.Parallel()
	b := &bank{}
	c := b.open(t, idempotency.NewMemory()).customer()
	_, err := c.Pay(t.Context(), rent())
	wantError(t, err, codes.InvalidArgument, interceptors.ReasonKeyMissing)
	long := make([]byte, 256)
	for i := range long {
		long[i] = 'k'
	}
	for _, key := range []string{string(long), ""} {
		_, err = c.pay(t.Context(), key, rent())
		wantError(t, err, codes.InvalidArgument, interceptors.ReasonKeyInvalid)
	}
	_, err = c.pay(metadata.AppendToOutgoingContext(t.Context(), idempotency.Header, "a"), "b", rent())
	wantError(t, err, codes.InvalidArgument, interceptors.ReasonKeyInvalid)
	if _, err := c.pay(t.Context(), "k", rent()); err != nil {
		t.Error(err)
	}
	other := rent()
	other.Cents++
	_, err = c.pay(t.Context(), "k", other)
	wantError(t, err, codes.FailedPrecondition, interceptors.ReasonKeyReused)
	same := rent()
	same.Note = "not part of the fingerprint"
	if got, err := c.pay(t.Context(), "k", same); err != nil || got != "payment 1 of rent" {
		t.Errorf("got %q, %v", got, err)
	}
	if n := b.calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
}

// A key in the field that the method names counts where there is none in the
// metadata.
func TestKeyMayComeInTheRequest(t *testing.T) {
	t.Parallel()
	b := &bank{}
	c := b.open(t, idempotency.NewMemory()).customer()
	req := rent()
	req.RequestId = "k"
	for range 2 {
		if got, err := c.Pay(t.Context(), req); err != nil || got.GetPayment() != "payment 1 of rent" {
			t.Errorf("got %v, %v", got, err)
		}
	}
	if got, err := c.pay(t.Context(), "k", rent()); err != nil || got != "payment 1 of rent" {
		t.Errorf("the same key in the metadata: got %q, %v", got, err)
	}
	if got, err := c.pay(t.Context(), "l", req); err != nil || got != "payment 2 of rent" {
		t.Errorf("another in the metadata: got %q, %v", got, err)
	}
}

func TestFailuresAreKeptByCodeOrMark(t *testing.T) {
	t.Parallel()
	detailed, _ := status.New(codes.NotFound, "no such account").WithDetails(&errdetails.ResourceInfo{ResourceName: "rent"})
	for name, tc := range map[string]struct {
		err  error
		opts []idempotency.Option
		kept bool
	}{
		"a code that is kept":                 {err: detailed.Err(), kept: true},
		"a code that is not":                  {err: errUnavailable},
		"one that is no status":               {err: context.DeadlineExceeded},
		"a code that is not, marked as final": {err: idempotency.Final(errUnavailable), kept: true},
		"marked deep down":                    {err: fmt.Errorf("paying: %w", idempotency.Final(status.Error(codes.Aborted, "no"))), kept: true},
		"permission denied":                   {err: status.Error(codes.PermissionDenied, "no")},
		"a code that an option names":         {err: errUnavailable, opts: []idempotency.Option{idempotency.Codes(codes.Unavailable)}, kept: true},
		"one that the option leaves out":      {err: detailed.Err(), opts: []idempotency.Option{idempotency.Codes()}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &bank{pay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
				_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "of the handler"))
				return tc.err
			}}
			plain := &bank{pay: b.pay}
			c, p := b.open(t, idempotency.NewMemory(), tc.opts...).customer(), plain.openWith(t).customer()
			_, want := p.pay(t.Context(), "k", rent())
			for i := range 3 {
				var trailer metadata.MD
				_, err := c.pay(t.Context(), "k", rent(), grpc.Trailer(&trailer))
				if status.Convert(err).Proto().String() != status.Convert(want).Proto().String() {
					t.Errorf("call %d: got %v, want %v", i, err, want)
				}
				if len(trailer["x-trailer"]) != 1 {
					t.Errorf("call %d: trailer %v", i, trailer)
				}
				if replayed := len(trailer.Get("idempotency-replayed")) == 1; replayed != (tc.kept && i > 0) {
					t.Errorf("call %d: replayed %v", i, replayed)
				}
			}
			if n := b.calls.Load(); (n == 1) != tc.kept {
				t.Errorf("%d calls", n)
			}
		})
	}
}

// A handler that panics, or ends its goroutine, gives its key up, and goes on
// with what it does.
func TestHandlerThatDoesNotReturnReleasesItsKey(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(){
		"panic":  func() { panic("at the till") },
		"Goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := idempotency.NewMemory()
			s := newServer(t, interceptors.WithIdempotency(store)).UnaryInterceptor()
			ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(idempotency.Header, "k"))
			info := &grpc.UnaryServerInfo{FullMethod: testv1.TestService_Pay_FullMethodName}
			var recovered any
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer func() { recovered = recover() }()
				_, _ = s(ctx, rent(), info, func(context.Context, any) (any, error) {
					end()
					return nil, errUnavailable
				})
			}()
			<-done
			if name == "panic" && recovered != "at the till" {
				t.Errorf("recovered %v", recovered)
			}
			told := false
			if _, err := s(ctx, rent(), info, func(ctx context.Context, _ any) (any, error) {
				told = idempotency.TakenOver(ctx)
				return &testv1.PayResponse{}, nil
			}); err != nil || !told {
				t.Errorf("%v; the next run was told %v, want that there may have been an effect", err, told)
			}
		})
	}
}

func TestOutcomeIsKeptThoughTheClientHasGone(t *testing.T) {
	t.Parallel()
	gone, served := make(chan struct{}), make(chan struct{})
	b := &bank{pay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		close(gone)
		<-ctx.Done()
		close(served)
		return nil
	}}
	c := b.open(t, idempotency.NewMemory()).customer()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-gone
		cancel()
	}()
	if _, err := c.pay(ctx, "k", rent()); status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	<-served
	if got, err := c.pay(t.Context(), "k", rent()); err != nil || got != "payment 1 of rent" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestManyCallersWithOneKeyGetOneOutcome(t *testing.T) {
	t.Parallel()
	b := &bank{pay: func(context.Context, int64, *testv1.PayRequest) error {
		runtime.Gosched()
		return nil
	}}
	c := b.open(t, idempotency.NewMemory()).customer()
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			if got, err := c.pay(t.Context(), "k", rent()); err != nil || got != "payment 1 of rent" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if n := b.calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
}

// A call with a key of a method without a descriptor does not run, and no report says that the
// method's outcomes are stored.
func TestMethodWithoutADescriptorIsRefusedIfItHasAKey(t *testing.T) {
	t.Parallel()
	const do = "/no.Protobuf/Do"
	n := newNode(t, newServer(t, interceptors.WithIdempotency(lasting{idempotency.NewMemory()})).ServerOptions()...)
	n.server.RegisterService(&grpc.ServiceDesc{ServiceName: "no.Protobuf", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
		MethodName: "Do",
		Handler: func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
			var req testv1.WriteRequest
			if err := decode(&req); err != nil {
				return nil, err
			}
			return intercept(ctx, &req, &grpc.UnaryServerInfo{FullMethod: do}, func(context.Context, any) (any, error) {
				return nil, status.Error(codes.NotFound, "it ran")
			})
		},
	}}}, struct{}{})
	n.start()
	conn := n.dial(grpc.WithDisableRetry())
	for key, want := range map[string]codes.Code{"": codes.NotFound, "k": codes.Internal} {
		ctx, why := t.Context(), ""
		if key != "" {
			ctx, why = metadata.AppendToOutgoingContext(ctx, idempotency.Header, key), interceptors.ReasonKeyUnsupported
		}
		var trailer metadata.MD
		wantError(t, conn.Invoke(ctx, do, &testv1.WriteRequest{}, &testv1.WriteResponse{}, grpc.Trailer(&trailer)), want, why)
		if report := strings.Join(trailer["hop-report"], ""); report == "" || strings.Contains(report, ";k=") {
			t.Errorf("with the key %q the report is %q", key, report)
		}
	}
}
