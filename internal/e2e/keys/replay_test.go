package keys_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestCallWithAKeyIsMadeOnce(t *testing.T) {
	t.Parallel()
	b := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		_ = grpc.SetHeader(ctx, metadata.Pairs("x-header", "of the handler"))
		return grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "of the handler"))
	}}
	c := b.Open(t, idempotency.NewMemory()).Customer()
	for i := range 3 {
		var header, trailer metadata.MD
		got, err := c.PayWithKey(t.Context(), "k", harness.Rent(), grpc.Header(&header), grpc.Trailer(&trailer))
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
	if got, err := c.PayWithKey(t.Context(), "another", harness.Rent()); err != nil || got != "payment 2 of rent" {
		t.Errorf("another key: got %q, %v", got, err)
	}
}

// A handler that relays all that its callee sent says nothing of its own outcome.
func TestRelayedMarkOfAReplayIsNotTheHandlers(t *testing.T) {
	t.Parallel()
	b := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		relayed := metadata.Pairs("idempotency-replayed", "true")
		_ = grpc.SetHeader(ctx, relayed)
		return grpc.SetTrailer(ctx, relayed)
	}}
	c := b.Open(t, idempotency.NewMemory()).Customer()
	for i := range 2 {
		var header, trailer metadata.MD
		if _, err := c.PayWithKey(t.Context(), "k", harness.Rent(), grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
			t.Fatal(err)
		}
		if got := len(header["idempotency-replayed"]); got != i || len(trailer["idempotency-replayed"]) != 0 {
			t.Errorf("call %d: header %v, trailer %v", i, header, trailer)
		}
	}
}

func TestReadsAndCallsWithoutAKeyRunEachTime(t *testing.T) {
	t.Parallel()
	b := &harness.Bank{}
	c := b.Open(t, idempotency.NewMemory()).Customer()
	ctx := metadata.AppendToOutgoingContext(t.Context(), idempotency.Header, "k")
	for range 2 {
		if _, err := c.Read(ctx, &testv1.ReadRequest{}); err != nil {
			t.Error(err)
		}
		if _, err := c.Write(t.Context(), &testv1.WriteRequest{}); err != nil {
			t.Error(err)
		}
	}
	if n := b.Calls.Load(); n != 4 {
		t.Errorf("%d calls, want two reads with a key and two writes without", n)
	}
	off := &harness.Bank{}
	c = off.Open(t, idempotency.NewMemory(), idempotency.ForMethod("/hopbound.test.v1.TestService/", idempotency.Off())).Customer()
	for range 2 {
		if _, err := c.Pay(ctx, harness.Rent()); err != nil {
			t.Error(err)
		}
	}
	if n := off.Calls.Load(); n != 2 {
		t.Errorf("%d calls where keys are off, want 2", n)
	}
}

func TestKeyThatIsMissingInvalidOrAnotherRequestsIsRefused(t *testing.T) {
	t.Parallel()
	b := &harness.Bank{}
	c := b.Open(t, idempotency.NewMemory()).Customer()
	_, err := c.Pay(t.Context(), harness.Rent())
	harness.WantError(t, err, codes.InvalidArgument, interceptors.ReasonKeyMissing)
	long := make([]byte, 256)
	for i := range long {
		long[i] = 'k'
	}
	for _, key := range []string{string(long), ""} {
		_, err = c.PayWithKey(t.Context(), key, harness.Rent())
		harness.WantError(t, err, codes.InvalidArgument, interceptors.ReasonKeyInvalid)
	}
	_, err = c.PayWithKey(metadata.AppendToOutgoingContext(t.Context(), idempotency.Header, "a"), "b", harness.Rent())
	harness.WantError(t, err, codes.InvalidArgument, interceptors.ReasonKeyInvalid)
	if _, err := c.PayWithKey(t.Context(), "k", harness.Rent()); err != nil {
		t.Error(err)
	}
	other := harness.Rent()
	other.Cents++
	_, err = c.PayWithKey(t.Context(), "k", other)
	harness.WantError(t, err, codes.FailedPrecondition, interceptors.ReasonKeyReused)
	same := harness.Rent()
	same.Note = "not part of the fingerprint"
	if got, err := c.PayWithKey(t.Context(), "k", same); err != nil || got != "payment 1 of rent" {
		t.Errorf("got %q, %v", got, err)
	}
	if n := b.Calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
}

// A key in the field that the method names counts where there is none in the
// metadata.
func TestKeyMayComeInTheRequest(t *testing.T) {
	t.Parallel()
	b := &harness.Bank{}
	c := b.Open(t, idempotency.NewMemory()).Customer()
	req := harness.Rent()
	req.RequestId = "k"
	for range 2 {
		if got, err := c.Pay(t.Context(), req); err != nil || got.GetPayment() != "payment 1 of rent" {
			t.Errorf("got %v, %v", got, err)
		}
	}
	if got, err := c.PayWithKey(t.Context(), "k", harness.Rent()); err != nil || got != "payment 1 of rent" {
		t.Errorf("the same key in the metadata: got %q, %v", got, err)
	}
	if got, err := c.PayWithKey(t.Context(), "l", req); err != nil || got != "payment 2 of rent" {
		t.Errorf("another in the metadata: got %q, %v", got, err)
	}
}

func TestFailuresAreStoredByCodeOrIfFinal(t *testing.T) {
	t.Parallel()
	detailed, _ := status.New(codes.NotFound, "no such account").WithDetails(&errdetails.ResourceInfo{ResourceName: "rent"})
	for name, tc := range map[string]struct {
		err  error
		opts []idempotency.Option
		kept bool
	}{
		"a code that is kept":                 {err: detailed.Err(), kept: true},
		"a code that is not":                  {err: harness.ErrUnavailable},
		"one that is no status":               {err: context.DeadlineExceeded},
		"a code that is not, marked as final": {err: idempotency.Final(harness.ErrUnavailable), kept: true},
		"marked deep down":                    {err: fmt.Errorf("paying: %w", idempotency.Final(status.Error(codes.Aborted, "no"))), kept: true},
		"permission denied":                   {err: status.Error(codes.PermissionDenied, "no")},
		"a code that an option names":         {err: harness.ErrUnavailable, opts: []idempotency.Option{idempotency.Codes(codes.Unavailable)}, kept: true},
		"one that the option leaves out":      {err: detailed.Err(), opts: []idempotency.Option{idempotency.Codes()}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
				_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "of the handler"))
				return tc.err
			}}
			plain := &harness.Bank{OnPay: b.OnPay}
			c, p := b.Open(t, idempotency.NewMemory(), tc.opts...).Customer(), plain.OpenWith(t).Customer()
			_, want := p.PayWithKey(t.Context(), "k", harness.Rent())
			for i := range 3 {
				var trailer metadata.MD
				_, err := c.PayWithKey(t.Context(), "k", harness.Rent(), grpc.Trailer(&trailer))
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
			if n := b.Calls.Load(); (n == 1) != tc.kept {
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
			s := harness.NewServer(t, interceptors.WithIdempotency(store)).UnaryInterceptor()
			ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(idempotency.Header, "k"))
			info := &grpc.UnaryServerInfo{FullMethod: testv1.TestService_Pay_FullMethodName}
			var recovered any
			done := make(chan struct{})
			go func() {
				defer close(done)
				defer func() { recovered = recover() }()
				_, _ = s(ctx, harness.Rent(), info, func(context.Context, any) (any, error) {
					end()
					return nil, harness.ErrUnavailable
				})
			}()
			<-done
			if name == "panic" && recovered != "at the till" {
				t.Errorf("recovered %v", recovered)
			}
			told := false
			if _, err := s(ctx, harness.Rent(), info, func(ctx context.Context, _ any) (any, error) {
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
	b := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		close(gone)
		<-ctx.Done()
		close(served)
		return nil
	}}
	c := b.Open(t, idempotency.NewMemory()).Customer()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-gone
		cancel()
	}()
	if _, err := c.PayWithKey(ctx, "k", harness.Rent()); status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	<-served
	if got, err := c.PayWithKey(t.Context(), "k", harness.Rent()); err != nil || got != "payment 1 of rent" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestManyCallersWithOneKeyGetOneOutcome(t *testing.T) {
	t.Parallel()
	b := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error {
		runtime.Gosched()
		return nil
	}}
	c := b.Open(t, idempotency.NewMemory()).Customer()
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			if got, err := c.PayWithKey(t.Context(), "k", harness.Rent()); err != nil || got != "payment 1 of rent" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if n := b.Calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
}

// A call with a key of a method without a descriptor does not run, and no report says that the
// method's outcomes are stored.
func TestMethodWithoutADescriptorIsRefusedIfItHasAKey(t *testing.T) {
	t.Parallel()
	const do = "/no.Protobuf/Do"
	n := harness.NewNode(t, harness.NewServer(t, interceptors.WithIdempotency(lasting{idempotency.NewMemory()})).ServerOptions()...)
	n.Server.RegisterService(&grpc.ServiceDesc{ServiceName: "no.Protobuf", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
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
	n.Start()
	conn := n.Dial(grpc.WithDisableRetry())
	for key, want := range map[string]codes.Code{"": codes.NotFound, "k": codes.Internal} {
		ctx, why := t.Context(), ""
		if key != "" {
			ctx, why = metadata.AppendToOutgoingContext(ctx, idempotency.Header, key), interceptors.ReasonKeyUnsupported
		}
		var trailer metadata.MD
		harness.WantError(t, conn.Invoke(ctx, do, &testv1.WriteRequest{}, &testv1.WriteResponse{}, grpc.Trailer(&trailer)), want, why)
		if report := strings.Join(trailer["hop-report"], ""); report == "" || strings.Contains(report, ";k=") {
			t.Errorf("with the key %q the report is %q", key, report)
		}
	}
}

func TestInvalidKeyInTheRequestIsRefused(t *testing.T) {
	t.Parallel()
	b := &harness.Bank{}
	n := b.Open(t, idempotency.NewMemory())
	for _, id := range []string{"pago-ñ-1", " order 7", strings.Repeat("x", 300)} {
		req := harness.Rent()
		req.RequestId = id
		_, err := n.Downstream().Pay(t.Context(), req)
		harness.WantError(t, err, codes.InvalidArgument, interceptors.ReasonKeyInvalid)
		_, err = n.Customer().Pay(t.Context(), req)
		harness.WantError(t, err, codes.InvalidArgument, interceptors.ReasonKeyInvalid)
	}
	_, err := n.Downstream().Pay(metadata.AppendToOutgoingContext(t.Context(), idempotency.Header, "ñ"), harness.Rent())
	harness.WantError(t, err, codes.InvalidArgument, interceptors.ReasonKeyInvalid)
	if _, err := n.Downstream().Pay(t.Context(), (*testv1.PayRequest)(nil)); err != nil {
		t.Errorf("an empty request: %v", err)
	}
	if n := b.Calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
}
