package telemetry_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
)

// logBook keeps what is logged, without times.
type logBook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *logBook) handler() slog.Handler {
	return slog.NewTextHandler(b, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}})
}

func TestHandlersLogTheirCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var book logBook
		log := slog.New(interceptors.NewLogHandler(book.handler()))
		b := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
			time.Sleep(100 * ms)
			log.With("a", 1).WithGroup("g").With("b", 2).InfoContext(ctx, "in a group", "c", 3)
			return nil
		}}
		n := b.OpenWith(t, interceptors.WithIdempotency(idempotency.NewMemory()))
		c := testv1.NewTestServiceClient(n.Dial(harness.NewClient(t).DialOptions()...))
		ctx, cancel := context.WithTimeout(idempotency.WithKey(t.Context(), "an order"), time.Second)
		defer cancel()
		if _, err := c.Pay(ctx, harness.Rent()); err != nil {
			t.Fatal(err)
		}
		log.InfoContext(t.Context(), "no call")
		want := `msg="in a group" a=1 hopbound.attempt=1 hopbound.deadline.remaining_ms=900 hopbound.budget.left=5 ` +
			"hopbound.idempotency.key_hash=39c75a60ef347111 g.b=2 g.c=3\nmsg=\"no call\"\n"
		if got := book.String(); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}

// The logging interceptor of go-grpc-middleware, after Hopbound's, sees each
// attempt of a client and each call of a server.
func TestMiddlewareLogsAttempts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var book logBook
		logger := logging.LoggerFunc(func(_ context.Context, _ logging.Level, msg string, fields ...any) {
			slog.New(book.handler()).Info(msg, fields...)
		})
		options := []logging.Option{
			logging.WithFieldsFromContext(interceptors.LogFields), logging.WithLogOnEvents(logging.FinishCall),
			logging.WithDisableLoggingFields("protocol", "grpc.service", "grpc.method", "grpc.method_type", "grpc.start_time",
				"grpc.time_ms", "peer.address", "grpc.error", "grpc.request.deadline"),
		}
		leaf := &harness.Counter{Fail: harness.FailFirst(1)}
		n := harness.Serve(t, leaf.Handle, append(harness.NewServer(t).ServerOptions(), grpc.ChainUnaryInterceptor(logging.UnaryServerInterceptor(logger, options...)))...)
		do := harness.Idempotent(n.Dial(append(harness.NewClient(t, harness.FixedBackoff()).DialOptions(),
			grpc.WithChainUnaryInterceptor(logging.UnaryClientInterceptor(logger, options...)))...))
		if err := harness.Within(t, do, time.Second); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, want := range []string{
			"grpc.component=server grpc.code=Unavailable hopbound.attempt=1 hopbound.deadline.remaining_ms=1000 hopbound.budget.left=5\n",
			"grpc.component=client grpc.code=Unavailable hopbound.attempt=1 hopbound.deadline.remaining_ms=1000 hopbound.budget.leased=5\n",
			"grpc.component=server grpc.code=OK hopbound.attempt=2 hopbound.deadline.remaining_ms=995 hopbound.budget.left=5\n",
			"grpc.component=client grpc.code=OK hopbound.attempt=2 hopbound.deadline.remaining_ms=995 hopbound.budget.leased=5\n",
		} {
			if !strings.Contains(flatFields(book.String()), want) {
				t.Errorf("no %q in\n%s", want, flatFields(book.String()))
			}
		}
	})
}

// flatFields leaves the fields of interest of each line, in an order of their own.
func flatFields(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		var kept []string
		for _, prefix := range []string{"grpc.component=", "grpc.code=", "hopbound.attempt=", "hopbound.deadline.remaining_ms=", "hopbound.budget."} {
			for field := range strings.FieldsSeq(line) {
				if strings.HasPrefix(field, prefix) {
					kept = append(kept, field)
				}
			}
		}
		out.WriteString(strings.Join(kept, " ") + "\n")
	}
	return out.String()
}
