package policy

import (
	"reflect"
	"sync"
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

// A mode that is the same before and after a replacement is never another one in between.
func TestModesAreReplacedAtOnce(t *testing.T) {
	t.Parallel()
	var m Modes
	byName := map[string]bool{"/a.B/C": true, "/a.B/": false}
	if err := m.Replace(false, byName); err != nil {
		t.Fatal(err)
	}
	byName["/a.B/C"] = false // is not the table's
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		for i := range 1000 {
			if err := m.Replace(i%2 == 0, map[string]bool{"/a.B/C": true, "/a.B/": false}); err != nil {
				t.Error(err)
			}
		}
	})
	for replaced := false; !replaced; {
		select {
		case <-done:
			replaced = true
		default:
		}
		if !m.Observes("/a.B/C") || m.Observes("/a.B/D") {
			t.Fatal("a call saw a mode of neither table")
		}
	}
	wg.Wait()
	if err := m.Replace(true, nil); err != nil || !m.Observes("/a.B/C") || !m.Observes("/a.B/D") {
		t.Errorf("modes by name are kept: %v", err)
	}
	if err := m.Replace(false, map[string]bool{"": true, "/a.B/C": false}); err == nil || !m.Observes("/a.B/C") {
		t.Errorf("an invalid name: %v, and the modes have changed", err)
	}
}
