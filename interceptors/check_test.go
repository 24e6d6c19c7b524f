package interceptors_test

import (
	"bytes"
	"log"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
)

// changing are policies that may change.
type changing interceptors.MethodPolicies

func (c changing) ForMethod(string) interceptors.Policy        { return interceptors.Policy{} }
func (c changing) MethodPolicies() interceptors.MethodPolicies { return interceptors.MethodPolicies(c) }

func TestCheckOfAClientReportsProbableMistakes(t *testing.T) {
	t.Parallel()
	literal := func(name string, p interceptors.Policy) interceptors.ClientOption {
		return interceptors.WithPolicy(interceptors.MethodPolicies{name: p})
	}
	retry := &interceptors.RetryPolicy{MaxAttempts: 2}
	for want, opt := range map[string]interceptors.ClientOption{
		`WithPolicy: "/hopbound.test.v1.TestServices/": no service of this name is linked in`: literal("/hopbound.test.v1.TestServices/", interceptors.Policy{}),
		`WithPolicy: "/hopbound.test.v1.TestService/Reed": the service has no method Reed`:    literal("/hopbound.test.v1.TestService/Reed", interceptors.Policy{}),
		`WithPolicy: "/hopbound.test.v1.TestService/Reid": the service has no method Reid`:    interceptors.WithPolicy(changing{"/hopbound.test.v1.TestService/Reid": {}}),
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
		client, err := interceptors.NewClient(opts...)
		if err != nil {
			t.Errorf("%s: NewClient returns %v", name, err)
			continue
		}
		if err := client.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// It is not parallel, because the default logger is the process's.
func TestCheckOfAServerWarnsIfOnlyTheTransportTellsCallersApart(t *testing.T) {
	var book bytes.Buffer
	logger, writer, flags := slog.Default(), log.Writer(), log.Flags()
	slog.SetDefault(slog.New(slog.NewTextHandler(&book, nil)))
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
		server, err := interceptors.NewServer(tc.opts...)
		if err != nil {
			t.Fatal(err)
		}
		if err := server.Check(grpc.NewServer()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := strings.Count(book.String(), "share their idempotency keys") - before; got != tc.want {
			t.Errorf("%s: %d warnings, want %d, in\n%s", name, got, tc.want, book.String())
		}
	}
}

func TestCheckReportsInvalidKeyOptions(t *testing.T) {
	t.Parallel()
	const service = "/hopbound.test.v1.TestService/"
	foreign := &grpc.ServiceDesc{ServiceName: "no.Protobuf", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{MethodName: "Do"}}}
	for name, tc := range map[string]struct {
		opts    []idempotency.Option
		foreign bool
		want    []string
		early   bool // NewServer finds it
	}{
		"nothing wrong":                          {opts: []idempotency.Option{idempotency.RequireKey()}},
		"a stream that requires a key":           {opts: []idempotency.Option{idempotency.ForMethod(service+"Chat", idempotency.RequireKey())}, want: []string{"Chat", "stream"}, early: true},
		"a fingerprint of no field":              {opts: []idempotency.Option{idempotency.ForMethod(service+"Pay", idempotency.FingerprintFields("nonesuch"))}, want: []string{"Pay", "nonesuch"}, early: true},
		"a key in no field":                      {opts: []idempotency.Option{idempotency.ForMethod(service+"Pay", idempotency.KeyField("cents"))}, want: []string{"Pay", "cents"}, early: true},
		"a service that is not protobuf's":       {foreign: true, want: []string{"/no.Protobuf/Do", "descriptor"}},
		"one that is left out":                   {foreign: true, opts: []idempotency.Option{idempotency.ForMethod("/no.Protobuf/", idempotency.Off())}},
		"a method that does not exist":           {opts: []idempotency.Option{idempotency.ForMethod(service+"Pya", idempotency.RequireKey())}, want: []string{"Pya", "registered"}},
		"a name that is none":                    {opts: []idempotency.Option{idempotency.ForMethod("Pay")}, want: []string{`"Pay"`}, early: true},
		"a retention of nothing":                 {opts: []idempotency.Option{idempotency.Retention(0)}, want: []string{"Retention(0s)"}, early: true},
		"a code that is no failure":              {opts: []idempotency.Option{idempotency.Codes(codes.OK)}, want: []string{"Codes", "OK"}, early: true},
		"a lease that is too short":              {opts: []idempotency.Option{idempotency.LeaseTime(1)}, want: []string{"LeaseTime(1ns)"}, early: true},
		"no tenant function, no ring, no limits": {opts: []idempotency.Option{idempotency.Tenant(nil), idempotency.Seal(nil), idempotency.MaxOutcome(0), idempotency.StoreTimeout(0), idempotency.MaxWait(-1)}, want: []string{"Tenant", "Seal", "MaxOutcome", "StoreTimeout", "MaxWait"}, early: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := interceptors.NewServer(interceptors.WithIdempotency(idempotency.NewMemory(), tc.opts...))
			if (err != nil) != tc.early {
				t.Fatalf("NewServer: %v", err)
			}
			if err == nil {
				srv := grpc.NewServer()
				testv1.RegisterTestServiceServer(srv, testv1.UnimplementedTestServiceServer{})
				if tc.foreign {
					srv.RegisterService(foreign, struct{}{})
				}
				err = s.Check(srv)
			}
			if (err != nil) != (len(tc.want) > 0) {
				t.Fatalf("got %v", err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in %v", want, err)
				}
			}
		})
	}
	if _, err := interceptors.NewServer(interceptors.WithIdempotency(nil)); err == nil {
		t.Error("no store was taken for one")
	}
	server, err := interceptors.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Check(grpc.NewServer()); err != nil {
		t.Error(err)
	}
}
