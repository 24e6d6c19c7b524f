package interceptors_test

import (
	"log"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
)

// Invalid options are errors of NewClient and NewServer, and never a panic.
func TestInvalidOptionsAreErrorsAtConstruction(t *testing.T) {
	t.Parallel()
	client := func(opts ...interceptors.ClientOption) error { _, err := interceptors.NewClient(opts...); return err }
	server := func(opts ...interceptors.ServerOption) error { _, err := interceptors.NewServer(opts...); return err }
	memory := idempotency.NewMemory()
	var nilPolicies *somePolicies
	for want, err := range map[string]error{
		"option 2 is nil":                          client(interceptors.WithStrictSafety(), nil),
		"option 1 is nil":                          server(nil),
		"WithPolicy: nil":                          client(interceptors.WithPolicy(nilPolicies)),
		"WithBudget: option 1 is nil":              client(interceptors.WithBudget(budget.New(nil))),
		"WithIdempotency: the store is nil":        server(interceptors.WithIdempotency((*idempotency.Memory)(nil))),
		"WithIdempotency: given twice":             server(interceptors.WithIdempotency(memory), interceptors.WithIdempotency(memory)),
		"WithIdempotency: option 1 is nil":         server(interceptors.WithIdempotency(memory, nil)),
		`ForMethod("/a.B/C"): option 1 is nil`:     server(interceptors.WithIdempotency(memory, idempotency.ForMethod("/a.B/C", nil))),
		"MemoryCapacity(0): must be positive":      server(interceptors.WithIdempotency(idempotency.NewMemory(idempotency.MemoryCapacity(0)))),
		"MemoryCapacity(-3): must be positive":     server(interceptors.WithIdempotency(idempotency.NewMemory(idempotency.MemoryCapacity(-3), nil))),
		"WithDefaultDeadline(2s): more than WithM": server(interceptors.WithMaxDeadline(time.Second), interceptors.WithDefaultDeadline(2*time.Second)),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

type somePolicies struct{}

func (*somePolicies) ForMethod(string) interceptors.Policy { return interceptors.Policy{} }

func TestCheckOfAClientReportsProbableMistakes(t *testing.T) {
	t.Parallel()
	literal := func(name string, p interceptors.Policy) interceptors.ClientOption {
		return interceptors.WithPolicy(interceptors.MethodPolicies{name: p})
	}
	retry := &interceptors.RetryPolicy{MaxAttempts: 2}
	for want, opt := range map[string]interceptors.ClientOption{
		`WithPolicy: "/hopbound.test.v1.TestServices/": no service of this name is linked in`: literal("/hopbound.test.v1.TestServices/", interceptors.Policy{}),
		`WithPolicy: "/hopbound.test.v1.TestService/Reed": the service has no method Reed`:    literal("/hopbound.test.v1.TestService/Reed", interceptors.Policy{}),
		`WithServiceConfig: "/hopbound.test.v1.TestService/Reed": the service has no method`:  interceptors.WithServiceConfig(`{"methodConfig": [{"name": [{"service": "hopbound.test.v1.TestService", "method": "Reed"}]}]}`),
		"declared not idempotent":                                                                          literal(testv1.TestService_Write_FullMethodName, interceptors.Policy{Retry: retry, Idempotency: interceptors.NotIdempotent}),
		"hedges a method that streams requests":                                                            literal(testv1.TestService_Upload_FullMethodName, interceptors.Policy{Hedge: &interceptors.HedgePolicy{}}),
		"key for a method that streams":                                                                    literal(testv1.TestService_Watch_FullMethodName, interceptors.Policy{KeyRequired: true}),
		"AttemptTimeout 2s is not shorter than":                                                            literal(testv1.TestService_Read_FullMethodName, interceptors.Policy{AttemptTimeout: 2 * time.Second, Timeout: time.Second}),
		"WithBudget: it allows no extra attempt":                                                           interceptors.WithBudget(budget.New(budget.Ratio(0), budget.PerRequest(0))),
		"$.methodConfig[0].retryPolicies is unknown, did you mean retryPolicy?":                            interceptors.WithServiceConfig(`{"methodConfig": [{"name": [{}], "retryPolicies": {}}]}`),
		"$.method_config is unknown, did you mean methodConfig?":                                           interceptors.WithServiceConfig(`{"method_config": []}`),
		"$.methodConfig[0].name[0].methd is unknown, did you mean method?":                                 interceptors.WithServiceConfig(`{"methodConfig": [{"name": [{"service": "a.B", "methd": "C"}]}]}`),
		"$.retryThrottling.tokensRatio is unknown, did you mean tokenRatio?":                               interceptors.WithServiceConfig(`{"retryThrottling": {"maxTokens": 10, "tokenRatio": 1, "tokensRatio": 1}}`),
		"$.methodConfig[0].hedgingPolicy.nonFatalStatusCode is unknown, did you mean nonFatalStatusCodes?": interceptors.WithServiceConfig(`{"methodConfig": [{"name": [{}], "hedgingPolicy": {"maxAttempts": 2, "nonFatalStatusCode": []}}]}`),
	} {
		client, err := interceptors.NewClient(opt)
		if err != nil {
			t.Errorf("%q: NewClient returns %v", want, err)
			continue
		}
		if err := client.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestCheckOfASoundClientReportsNothing(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]interceptors.ClientOption{
		"no options": nil,
		"policies": {interceptors.WithPolicy(interceptors.MethodPolicies{
			"": {Timeout: time.Second}, "/hopbound.test.v1.TestService/": {Retry: &interceptors.RetryPolicy{}},
			testv1.TestService_Watch_FullMethodName: {Hedge: &interceptors.HedgePolicy{}},
		})},
		"a service config": {interceptors.WithServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [{
			"name": [{"service": "hopbound.test.v1.TestService"}], "timeout": "1s", "retryPolicy": {"maxAttempts": 3,
			"initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`)},
		"a field of another's": {interceptors.WithServiceConfig(`{"xdsThing": {}, "methodConfig": []}`)},
	} {
		if err := newClient(t, opts...).Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// It is not parallel, because the default logger is the process's.
func TestCheckOfAServerWarnsIfOnlyTheTransportTellsCallersApart(t *testing.T) {
	var book logBook
	logger, writer, flags := slog.Default(), log.Writer(), log.Flags()
	slog.SetDefault(slog.New(book.handler()))
	t.Cleanup(func() {
		slog.SetDefault(logger)
		log.SetOutput(writer) // which slog.SetDefault has replaced
		log.SetFlags(flags)
	})
	keyed := func(opts ...idempotency.Option) interceptors.ServerOption {
		return interceptors.WithIdempotency(idempotency.NewMemory(), opts...)
	}
	for name, tc := range map[string]struct {
		opts []interceptors.ServerOption
		want int // warnings
	}{
		"no store":           {nil, 0},
		"the transport":      {[]interceptors.ServerOption{keyed()}, 1},
		"a tenant":           {[]interceptors.ServerOption{keyed(idempotency.Tenant(interceptors.TransportIdentity))}, 0},
		"keys may be shared": {[]interceptors.ServerOption{keyed(idempotency.SharedKeys())}, 0},
	} {
		before := strings.Count(book.String(), "share their idempotency keys")
		if err := newServer(t, tc.opts...).Check(grpc.NewServer()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := strings.Count(book.String(), "share their idempotency keys") - before; got != tc.want {
			t.Errorf("%s: %d warnings, want %d, in\n%s", name, got, tc.want, book.String())
		}
	}
}
