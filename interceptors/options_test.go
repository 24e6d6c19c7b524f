package interceptors_test

import (
	"strings"
	"testing"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
)

func TestOptionsAreValidatedTogether(t *testing.T) {
	t.Parallel()
	_, err := interceptors.NewClient(
		interceptors.WithBudget(nil),
		interceptors.WithReserve(-1),
		interceptors.WithMode(9),
		interceptors.WithPolicy(interceptors.MethodPolicies{
			"nonsense":           {},
			"/test.v1.Service/M": {Timeout: -1, Retry: &interceptors.RetryPolicy{MaxAttempts: -1, Codes: []codes.Code{codes.OK}, Backoff: interceptors.Backoff{Base: 2, Max: 1, Multiplier: 0.5, Jitter: 7}}},
		}),
		nil,
	)
	for _, want := range []string{"WithBudget", "WithReserve", "WithMode", `"nonsense"`, "Timeout", "MaxAttempts", "Codes", "Max is 1ns", "Multiplier", "Jitter"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("client: %v does not name %s", err, want)
		}
	}
	_, err = interceptors.NewServer(interceptors.WithMaxDeadline(0), interceptors.WithDefaultDeadline(-1), interceptors.WithFloor(-1), interceptors.WithMode(-1), interceptors.WithPropagators(nil))
	for _, want := range []string{"WithMaxDeadline", "WithDefaultDeadline", "WithFloor", "WithMode", "WithPropagators"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("server: %v does not name %s", err, want)
		}
	}
	if _, err := interceptors.NewClient(interceptors.WithBudget(budget.New(budget.Burst(-1)))); err == nil || !strings.Contains(err.Error(), "Burst") {
		t.Errorf("a budget's own error is lost: %v", err)
	}
}

func TestPoliciesAreFoundByTheMostSpecificName(t *testing.T) {
	t.Parallel()
	m := interceptors.MethodPolicies{"/a.S/M": {Timeout: 1}, "/a.S/": {Timeout: 2}, "": {Timeout: 3}}
	for method, want := range map[string]time.Duration{"/a.S/M": 1, "/a.S/N": 2, "/b.S/M": 3, "odd": 3} {
		if got := m.ForMethod(method).Timeout; got != want {
			t.Errorf("%s: %v, want %v", method, got, want)
		}
	}
}

func TestPoliciesCanBeValidatedWithoutAClient(t *testing.T) {
	t.Parallel()
	invalid := interceptors.MethodPolicies{"nonsense": {}, "/a.S/M": {Timeout: -1}}
	_, err := interceptors.NewClient(interceptors.WithPolicy(invalid))
	if got := invalid.Validate(); got == nil || err == nil || got.Error() != err.Error() {
		t.Errorf("got %v, want %v", got, err)
	}
	if err := (interceptors.MethodPolicies{"/a.S/M": {Timeout: 1}, "": {}}).Validate(); err != nil {
		t.Error(err)
	}
}

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

func TestLimitsAreChecked(t *testing.T) {
	t.Parallel()
	_, err := interceptors.NewServer(
		interceptors.WithMethodLimits(map[string]interceptors.Limits{"nonsense": {}, "/a.B/C": {Floor: -7, StreamIdle: -8}}),
		interceptors.WithMaxDeadline(time.Second), interceptors.WithDefaultDeadline(2*time.Second),
		interceptors.AtEdge(nil))
	for _, want := range []string{`"nonsense": the name must be`, `"/a.B/C": field Floor is -7ns`, "field StreamIdle", "WithDefaultDeadline(2s): more than WithMaxDeadline(1s)", "AtEdge: function 1 is nil"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not report %q", err, want)
		}
	}
}

// At the edge, an option must say how callers are distinguished, or that they share their keys.
func TestKeysAtTheEdgeMustHaveATenant(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		opts []interceptors.ServerOption
		ok   bool
	}{
		"no tenant":                  {[]interceptors.ServerOption{interceptors.AtEdge(), interceptors.WithIdempotency(idempotency.NewMemory())}, false},
		"no tenant, the other order": {[]interceptors.ServerOption{interceptors.WithIdempotency(idempotency.NewMemory()), interceptors.AtEdge()}, false},
		"for some callers": {[]interceptors.ServerOption{
			interceptors.AtEdge(func(*peer.Peer) bool { return false }), interceptors.WithIdempotency(idempotency.NewMemory()),
		}, false},
		"a tenant": {[]interceptors.ServerOption{
			interceptors.AtEdge(), interceptors.WithIdempotency(idempotency.NewMemory(), idempotency.Tenant(interceptors.TransportIdentity)),
		}, true},
		"shared keys": {[]interceptors.ServerOption{
			interceptors.AtEdge(), interceptors.WithIdempotency(idempotency.NewMemory(), idempotency.SharedKeys()),
		}, true},
		"no edge":  {[]interceptors.ServerOption{interceptors.WithIdempotency(idempotency.NewMemory())}, true},
		"no store": {[]interceptors.ServerOption{interceptors.AtEdge()}, true},
	} {
		if _, err := interceptors.NewServer(tc.opts...); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
