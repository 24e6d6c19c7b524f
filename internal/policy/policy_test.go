package policy

import (
	"reflect"
	"testing"
	"time"
)

// Each field of a policy is that of the first source that sets it, and Retry
// and Hedge are one.
func TestResolveTakesEachFieldOfTheFirstSourceThatSetsIt(t *testing.T) {
	t.Parallel()
	retry, hedge := &Retry{MaxAttempts: 2}, &Hedge{MaxAttempts: 4}
	for name, tc := range map[string]struct {
		sources []*Policy
		want    Policy
	}{
		"no source":                 {nil, Policy{}},
		"none that is there":        {[]*Policy{nil, nil}, Policy{}},
		"the first":                 {[]*Policy{{Timeout: 1}, {Timeout: 2}}, Policy{Timeout: 1}},
		"the second":                {[]*Policy{{}, nil, {Timeout: 2}}, Policy{Timeout: 2}},
		"field by field":            {[]*Policy{{Timeout: 1}, {Timeout: 2, AttemptTimeout: 3}, {Idempotency: Idempotent}}, Policy{Timeout: 1, AttemptTimeout: 3, Idempotency: Idempotent}},
		"a shared attempt timeout":  {[]*Policy{{AttemptTimeout: Shared}, {AttemptTimeout: time.Second}}, Policy{AttemptTimeout: Shared}},
		"retry over hedge":          {[]*Policy{{Retry: retry}, {Hedge: hedge}}, Policy{Retry: retry}},
		"hedge over retry":          {[]*Policy{{Hedge: hedge}, {Retry: retry}}, Policy{Hedge: hedge}},
		"waiting, whoever wants it": {[]*Policy{{}, {WaitForReady: true}}, Policy{WaitForReady: true}},
	} {
		if got := Merge(tc.sources...); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, tc.want)
		}
	}
}
