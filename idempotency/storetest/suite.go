package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// Times of the suite. A lease is long enough for a slow store to answer many
// times within it.
const (
	lease     = 300 * time.Millisecond
	retention = 600 * time.Millisecond
	beyond    = 200 * time.Millisecond // how long a test waits after the end of a lease or retention
)

// outcome is the outcome of most writes of the suite.
const outcome = "outcome"

// Backend is the place where a store keeps its records, such as a database or a file.
type Backend struct {
	// Open returns a store that uses the backend. It is called at least once for each test, and may
	// return the same store again. It arranges that the store is closed when the test ends, for
	// example with t.Cleanup.
	Open func(t *testing.T) idempotency.Store

	// Single says that only one store can use the backend, such as the memory of a process or a file
	// that a process locks. If it is false, the suite also tests two stores at the same time.
	Single bool

	// Records returns how many records the backend has, including expired ones. While the backend is
	// written to, it must delete most expired records within a minute.
	Records func(t *testing.T) int
}

// Run runs the suite on a backend. The backend may have other records: each test uses new IDs.
func Run(t *testing.T, b Backend) {
	t.Helper()
	if b.Open == nil || b.Records == nil {
		t.Fatal("storetest: a Backend must have Open and Records")
	}
	for _, c := range slices.Concat(claimCases, leaseCases, checkpointCases, inspectCases) {
		t.Run(c.name, func(t *testing.T) {
			c.run(&scene{T: t, store: b.Open(t), id: newID(t)})
		})
	}
	t.Run("the history of many clients is linearizable", func(t *testing.T) { CheckLinearizable(t, b.Open(t), History{}) })
	t.Run("the history is linearizable if answers are lost", func(t *testing.T) { CheckLinearizable(t, unreliable{b.Open(t)}, History{}) })
	t.Run("expired records are deleted", func(t *testing.T) { b.checkDeletion(t) })
	if b.Single {
		return
	}
	t.Run("the history of clients of two stores is linearizable", func(t *testing.T) {
		CheckLinearizable(t, &twoStores{Store: b.Open(t), other: b.Open(t)}, History{})
	})
	t.Run("a wait ends when another store completes the write", func(t *testing.T) { b.checkWake(t) })
}

var ids atomic.Uint64

// newID returns an ID that no other test uses.
func newID(t *testing.T) idempotency.ID {
	t.Helper()
	return idempotency.NewID(fmt.Sprint(time.Now().UnixNano(), ids.Add(1)), t.Name(), idempotency.NewKey())
}

// scene is a running test of the suite, with one ID.
type scene struct {
	*testing.T
	store idempotency.Store
	id    idempotency.ID

	claimed, before time.Time // when the last two claims that got Run were made
}

func (s *scene) begin(owner string, fp ...idempotency.Fingerprint) idempotency.BeginResult {
	s.Helper()
	claim := idempotency.Claim{ID: s.id, Owner: owner, Lease: lease}
	if len(fp) > 0 {
		claim.Fingerprint = fp[0]
	}
	now := time.Now()
	b, err := s.store.Begin(s.Context(), claim)
	if err != nil {
		s.Fatalf("begin of %s: %v", owner, err)
	}
	if b.State == idempotency.Run {
		s.before, s.claimed = s.claimed, now
	}
	return b
}

// run claims the write, and fails the test unless the result is Run.
func (s *scene) run(owner string) idempotency.Lease {
	s.Helper()
	b := s.begin(owner)
	if b.State != idempotency.Run {
		s.Fatalf("%s got %v, want run", owner, b.State)
	}
	return idempotency.Lease{ID: s.id, Owner: owner, Fence: b.Fence}
}

func (s *scene) want(b idempotency.BeginResult, state idempotency.State) {
	s.Helper()
	if state == idempotency.Join && b.State == idempotency.Run && time.Since(s.before) >= lease {
		s.Skip("the machine is too slow: the lease has expired before the next step")
	}
	if b.State != state {
		s.Errorf("got %v, want %v", b.State, state)
	}
}

// complete stores an outcome for longer than a case takes, even on a slow machine.
func (s *scene) complete(l idempotency.Lease, with string) error {
	return s.store.Complete(s.Context(), l, []byte(with), time.Hour)
}

// completeBriefly stores an outcome with a retention that is short enough for a case to wait
// for its end.
func (s *scene) completeBriefly(l idempotency.Lease) error {
	return s.store.Complete(s.Context(), l, []byte(outcome), retention)
}

func (s *scene) release(l idempotency.Lease) error {
	return s.store.Release(s.Context(), l, false, retention)
}

func (s *scene) releaseEffect(l idempotency.Lease) error {
	return s.store.Release(s.Context(), l, true, time.Hour)
}

func (s *scene) look(fp ...idempotency.Fingerprint) idempotency.BeginResult {
	s.Helper()
	claim := idempotency.Claim{ID: s.id}
	if len(fp) > 0 {
		claim.Fingerprint = fp[0]
	}
	b, err := s.store.Look(s.Context(), claim)
	if err != nil {
		s.Fatalf("look: %v", err)
	}
	return b
}

func (s *scene) ok(err error) {
	s.Helper()
	if err != nil {
		s.Error(err)
	}
}

func (s *scene) lost(err error) {
	s.Helper()
	if !errors.Is(err, idempotency.ErrLeaseLost) {
		s.Errorf("got %v, want ErrLeaseLost", err)
	}
}

func schema(name, text string) idempotency.Fingerprint {
	f := idempotency.Fingerprint{Schema: name}
	copy(f.Sum[:], text)
	return f
}
