package interceptors

import (
	"reflect"
	"strings"
	"testing"
	"time"

	hopboundv1 "github.com/hopbound/hopbound/proto/hopbound/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// What a proto file says of a method is read, field by field.
func TestDeclarationIsRead(t *testing.T) {
	t.Parallel()
	all, err := readDeclarations(protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	const service = "/hopbound.test.v1.TestService/"
	for method, want := range map[string]declaration{
		"Declared": {
			policy: Policy{
				Timeout: 7 * time.Second, AttemptTimeout: 2 * time.Second, WaitForReady: true, Idempotency: Idempotent,
				Retry: &RetryPolicy{
					MaxAttempts: 5, Codes: []codes.Code{codes.Aborted, codes.Unavailable},
					Backoff: Backoff{Base: time.Millisecond, Max: 4 * time.Millisecond, Multiplier: 3, Jitter: NoJitter},
				},
			},
			floor: 5 * time.Millisecond, cap: 3 * time.Second,
		},
		"Hedged": {policy: Policy{
			AttemptTimeout: AttemptTimeoutShared,
			Hedge:          &HedgePolicy{MaxAttempts: 3, Delay: HedgeAtP95, NonFatal: []codes.Code{codes.Internal}},
		}},
		"Write": {},
	} {
		if got := all[service+method]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", method, got, want)
		}
	}
}

// What cannot be meant is an error that names its field.
func TestDeclarationThatCannotBeMeantIsAnError(t *testing.T) {
	t.Parallel()
	for text, field := range map[string]string{
		`timeout {}`:                                                 "timeout",
		`timeout {seconds: -1}`:                                      "timeout",
		`attempt_timeout {seconds: 1 nanos: -5}`:                     "attempt_timeout",
		`retry {max_attempts: 0}`:                                    "retry.max_attempts",
		`retry {max_attempts: 101}`:                                  "retry.max_attempts",
		`retry {codes: [CODE_UNSPECIFIED]}`:                          "Retry.Codes",
		`retry {codes: [99]}`:                                        "Retry.Codes",
		`retry {backoff_base {}}`:                                    "retry.backoff_base",
		`retry {backoff_base {seconds: 2} backoff_max {seconds: 1}}`: "Backoff.Max",
		`retry {backoff_multiplier: 0.5}`:                            "retry.backoff_multiplier",
		`retry {backoff_multiplier: nan}`:                            "retry.backoff_multiplier",
		`retry {jitter: 9}`:                                          "Jitter",
		`hedge {max_attempts: -1}`:                                   "hedge.max_attempts",
		`hedge {delay {seconds: -1}}`:                                "hedge.delay",
		`idempotency {level: 7}`:                                     "Idempotency",
		`idempotency {retention {}}`:                                 "idempotency.retention",
		`deadline {cap {}}`:                                          "deadline.cap",
		`deadline {floor {seconds: 2} cap {seconds: 1}}`:             "deadline.floor",
	} {
		var option hopboundv1.MethodPolicy
		if err := prototext.Unmarshal([]byte(text), &option); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if _, err := declare(&option); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: got %v, want an error at %s", text, err, field)
		}
	}
}

// A method whose proto file says how its outcomes are stored may be repeated under a child key,
// whatever its callee has said.
func TestDeclaredKeysMakeACallRepeatable(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		declared declaration
		want     bool
	}{
		"nothing":     {},
		"retention":   {declaration{retention: time.Hour}, true},
		"fingerprint": {declaration{fingerprint: []string{"account"}}, true},
	} {
		k := &call{childKey: true, wouldKey: true}
		k.method, k.target = &method{declared: tc.declared}, &target{}
		if got := k.safeByKey(); got != tc.want {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
	}
}
