package policy

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
	all, err := ReadDeclarations(protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	const service = "/hopbound.test.v1.TestService/"
	for method, want := range map[string]Declaration{
		"Declared": {
			Policy: Policy{
				Timeout: 7 * time.Second, AttemptTimeout: 2 * time.Second, WaitForReady: true, Idempotency: Idempotent,
				Retry: &Retry{
					MaxAttempts: 5, Codes: []codes.Code{codes.Aborted, codes.Unavailable},
					Backoff: Backoff{Base: time.Millisecond, Max: 4 * time.Millisecond, Multiplier: 3, Jitter: NoJitter},
				},
			},
			Floor: 5 * time.Millisecond, Cap: 3 * time.Second,
		},
		"Hedged": {Policy: Policy{
			AttemptTimeout: Shared,
			Hedge:          &Hedge{MaxAttempts: 3, Delay: AtP95, NonFatal: []codes.Code{codes.Internal}},
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
