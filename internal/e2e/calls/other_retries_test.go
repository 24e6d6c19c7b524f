package calls_test

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/retry"
	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// loop retries as an interceptor that somebody has written by hand: whatever has failed
// with a code, up to three times.
func loop(code codes.Code) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
		for range 3 {
			if err = invoker(ctx, method, req, reply, cc, opts...); status.Code(err) != code {
				return err
			}
		}
		return err
	}
}

var retryOptions = []retry.CallOption{
	retry.WithMax(3), retry.WithCodes(codes.Unavailable), retry.WithBackoff(retry.BackoffLinear(ms)),
}

// Three attempts of three would be nine. Before Hopbound, the other interceptor is found
// out by its second attempt.
func TestOtherInterceptorThatRetriesIsLeftToIt(t *testing.T) {
	t.Parallel()
	theirs := retry.UnaryClientInterceptor(retryOptions...)
	for name, tc := range map[string]struct {
		before, after []grpc.UnaryClientInterceptor
		calls, counts int64
	}{
		"go-grpc-middleware's after":  {nil, []grpc.UnaryClientInterceptor{theirs}, 3, 1},
		"go-grpc-middleware's before": {[]grpc.UnaryClientInterceptor{theirs}, nil, 5, 2},
		"another after":               {nil, []grpc.UnaryClientInterceptor{loop(codes.Unavailable)}, 3, 1},
		"another before":              {[]grpc.UnaryClientInterceptor{loop(codes.Unavailable)}, nil, 5, 2},
		"none that retries":           {nil, []grpc.UnaryClientInterceptor{loop(codes.NotFound)}, 3, 0},
	} {
		for _, mode := range []interceptors.Mode{interceptors.Enforce, interceptors.Observe} {
			reader, meter := harness.Metered()
			leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
			client := harness.NewClient(t, harness.FastRetry(), meter, interceptors.WithMode(mode), interceptors.WithBudget(harness.FixedBudget(budget.PerRequest(10))))
			chain := append(append(tc.before, client.UnaryInterceptor()), tc.after...)
			do := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(grpc.WithDisableRetry(), grpc.WithChainUnaryInterceptor(chain...)))
			if err := do(t.Context()); status.Code(err) != codes.Unavailable {
				t.Errorf("%s: %v", name, err)
			}
			calls := tc.calls
			if mode == interceptors.Observe { // the other's alone
				calls = 3
				if tc.counts == 0 {
					calls = 1
				}
			}
			var counted int64
			for _, n := range harness.Sums(t, reader, "hopbound.client.other_retries") {
				counted += n
			}
			if got := leaf.Calls.Load(); got != calls || counted != tc.counts {
				t.Errorf("%s, %v: %d calls, counted %d times, want %d and %d", name, mode, got, counted, calls, tc.counts)
			}
		}
	}
}

func TestOtherInterceptorThatRetriesStreamsIsLeftToIt(t *testing.T) {
	t.Parallel()
	theirs := retry.StreamClientInterceptor(retryOptions...)
	for name, tc := range map[string]struct {
		before, after []grpc.StreamClientInterceptor
		most          int64 // how many streams theirs opens alone, and Hopbound before it is found out
	}{
		"after":  {nil, []grpc.StreamClientInterceptor{theirs}, 3},
		"before": {[]grpc.StreamClientInterceptor{theirs}, nil, 5},
	} {
		leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
		client := harness.NewClient(t, harness.FastRetry(), interceptors.WithBudget(harness.FixedBudget(budget.PerRequest(10))))
		chain := append(append(tc.before, client.StreamInterceptor()), tc.after...)
		n := harness.ServeStreams(t, func(_ harness.Side, ss grpc.ServerStream) error { return leaf.Handle(ss.Context()) })
		_, err := harness.Kinds()[0].Exchange(t.Context(), n.Dial(grpc.WithDisableRetry(), grpc.WithChainStreamInterceptor(chain...)), []string{"request"})
		if got := leaf.Calls.Load(); status.Code(err) != codes.Unavailable || got > tc.most {
			t.Errorf("%s: %v after %d streams, want at most %d", name, err, got, tc.most)
		}
	}
}

// An interceptor that logs in again and then repeats the call is none that retries.
func TestInterceptorThatRepeatsForAnotherReasonIsNoRetry(t *testing.T) {
	t.Parallel()
	leaf := &harness.Counter{}
	leaf.Fail = func(n int64) error {
		if n%2 == 1 {
			return status.Error(codes.Unauthenticated, "the token is old")
		}
		return harness.ErrUnavailable
	}
	client := harness.NewClient(t, harness.FastRetry(), interceptors.WithBudget(harness.FixedBudget()))
	do := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(grpc.WithDisableRetry(),
		grpc.WithChainUnaryInterceptor(client.UnaryInterceptor(), loop(codes.Unauthenticated))))
	if _ = do(t.Context()); leaf.Calls.Load() != 6 {
		t.Errorf("%d calls, want two for each of three attempts", leaf.Calls.Load())
	}
}

// An application that makes the call again gets all attempts again.
func TestCallThatTheApplicationRepeatsIsRetried(t *testing.T) {
	t.Parallel()
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	do := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(harness.NewClient(t, harness.FastRetry(), interceptors.WithBudget(harness.FixedBudget())).DialOptions()...))
	for range 3 {
		_ = do(t.Context())
	}
	if leaf.Calls.Load() != 9 {
		t.Errorf("%d calls, want 9", leaf.Calls.Load())
	}
}

// Messages that an application uses again are not those of a retry once the call has
// succeeded, or some time has passed.
func TestMessagesMayBeUsedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		leaf := &harness.Counter{}
		down := true
		leaf.Fail = func(int64) error {
			if down {
				return harness.ErrUnavailable
			}
			return nil
		}
		client := harness.NewClient(t, harness.FastRetry(), interceptors.WithBudget(harness.FixedBudget(budget.Burst(100))))
		cc := harness.Serve(t, leaf.Handle).Dial(client.DialOptions()...)
		var (
			request  testv1.IdempotentRequest
			response testv1.IdempotentResponse
		)
		do := func() int64 {
			before := leaf.Calls.Load()
			_ = cc.Invoke(t.Context(), testv1.TestService_Idempotent_FullMethodName, &request, &response)
			return leaf.Calls.Load() - before
		}
		first := do()
		down = false
		good := do()
		down = true
		second := do()
		time.Sleep(3 * time.Second)
		if third := do(); first != 3 || good != 1 || second != 3 || third != 3 {
			t.Errorf("%d, %d, %d and %d attempts, want 3, 1, 3 and 3", first, good, second, third)
		}
	})
}

// plainCodec sends nothing, whatever the message is.
type plainCodec struct{}

func (plainCodec) Marshal(any) ([]byte, error) { return nil, nil }
func (plainCodec) Unmarshal([]byte, any) error { return nil }
func (plainCodec) Name() string                { return "proto" }

// All messages without a size have one address.
func TestMessagesWithoutASizeAreNotTakenForOneAnother(t *testing.T) {
	t.Parallel()
	type empty struct{}
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	client := harness.NewClient(t, harness.FastRetry(), interceptors.WithBudget(harness.FixedBudget(budget.Burst(100))))
	cc := harness.Serve(t, leaf.Handle, grpc.ForceServerCodec(plainCodec{})).Dial(append(client.DialOptions(), grpc.WithDefaultCallOptions(grpc.ForceCodec(plainCodec{})))...)
	for range 3 {
		_ = cc.Invoke(t.Context(), testv1.TestService_Idempotent_FullMethodName, new(empty), new(empty))
	}
	if leaf.Calls.Load() != 9 {
		t.Errorf("%d attempts of three calls, want 9", leaf.Calls.Load())
	}
}

// Only a call of the same method with both the request and the reply of one that failed is
// a retry of another interceptor.
func TestCallIsARetryOnlyIfMethodRequestAndReplyAreTheSame(t *testing.T) {
	t.Parallel()
	type messages struct {
		request  *testv1.IdempotentRequest
		response *testv1.IdempotentResponse
	}
	one, other := messages{&testv1.IdempotentRequest{}, &testv1.IdempotentResponse{}}, messages{&testv1.IdempotentRequest{}, &testv1.IdempotentResponse{}}
	for name, tc := range map[string]struct {
		method string // of the second call
		with   messages
		want   int64 // attempts of the second call
	}{
		"the same":        {testv1.TestService_Idempotent_FullMethodName, one, 1},
		"another method":  {testv1.TestService_Read_FullMethodName, one, 3},
		"another request": {testv1.TestService_Idempotent_FullMethodName, messages{other.request, one.response}, 3},
		"another reply":   {testv1.TestService_Idempotent_FullMethodName, messages{one.request, other.response}, 3},
	} {
		synctest.Test(t, func(t *testing.T) {
			leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
			client := harness.NewClient(t, harness.FastRetry(), interceptors.WithBudget(harness.FixedBudget(budget.Burst(100))))
			cc := harness.Serve(t, leaf.Handle).Dial(client.DialOptions()...)
			_ = cc.Invoke(t.Context(), testv1.TestService_Idempotent_FullMethodName, one.request, one.response)
			first := leaf.Calls.Load()
			_ = cc.Invoke(t.Context(), tc.method, tc.with.request, tc.with.response)
			if second := leaf.Calls.Load() - first; first != 3 || second != tc.want {
				t.Errorf("%s: %d and %d attempts, want 3 and %d", name, first, second, tc.want)
			}
		})
	}
}

// The client keeps the messages of a failed call until the next call after two seconds,
// even if that call succeeds.
func TestMessagesOfAFailedCallAreFreed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		leaf := &harness.Counter{Fail: harness.FailFirst(3)}
		cc := harness.Serve(t, leaf.Handle).Dial(harness.NewClient(t, harness.FastRetry(), interceptors.WithBudget(harness.FixedBudget())).DialOptions()...)
		request, response := func() (weak.Pointer[testv1.IdempotentRequest], weak.Pointer[testv1.IdempotentResponse]) {
			request, response := &testv1.IdempotentRequest{}, &testv1.IdempotentResponse{}
			if cc.Invoke(t.Context(), testv1.TestService_Idempotent_FullMethodName, request, response) == nil {
				t.Error("the call succeeded")
			}
			return weak.Make(request), weak.Make(response)
		}()
		kept := func() bool {
			if err := harness.Idempotent(cc)(t.Context()); err != nil { // with messages of its own
				t.Error(err)
			}
			runtime.GC()
			return request.Value() != nil || response.Value() != nil
		}
		if !kept() {
			t.Error("the messages were freed at once")
		}
		time.Sleep(2 * time.Second)
		if kept() {
			t.Error("the messages were kept after two seconds")
		}
	})
}
