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
	beyond    = 200 * time.Millisecond // what is waited beyond the end of something
)

// outcome is that of most writes of the suite.
const outcome = "outcome"

// Backend is where a store keeps its records.
type Backend struct {
	// Open returns a handle on the backend, such as each process has. It may return the same
	// handle again. Open closes the handle when the test ends, for example by t.Cleanup.
	Open func(t *testing.T) idempotency.Store

	// Single says that the backend has only one handle, since its records are in the memory
	// of a process or in a file that a process locks. Otherwise the suite opens two.
	Single bool

	// Records returns how many records the backend holds, including expired ones that are not
	// deleted yet. The backend must delete most of those within a minute of writes.
	Records func(t *testing.T) int
}

// Run runs the suite. Each part uses IDs that no other part uses.
func Run(t *testing.T, b Backend) {
	t.Helper()
	if b.Open == nil || b.Records == nil {
		t.Fatal("storetest: a Backend must have Open and Records")
	}
	for _, part := range slices.Concat(parts, leaseParts, checkpointParts, inspectParts) {
		t.Run(part.name, func(t *testing.T) {
			part.run(&scene{T: t, store: b.Open(t), id: newID(t)})
		})
	}
	t.Run("many clients see one order", func(t *testing.T) { CheckLinearizable(t, b.Open(t), History{}) })
	t.Run("and also if answers are lost", func(t *testing.T) { CheckLinearizable(t, Unreliable(b.Open(t)), History{}) })
	t.Run("records that are over are deleted", func(t *testing.T) { b.checkDeletion(t) })
	if b.Single {
		return
	}
	t.Run("clients of two handles see one order", func(t *testing.T) {
		CheckLinearizable(t, &twoHandles{Store: b.Open(t), other: b.Open(t)}, History{})
	})
	t.Run("a wait ends when another handle completes the write", func(t *testing.T) { b.checkWake(t) })
}

var ids atomic.Uint64

// newID returns an ID of its own.
func newID(t *testing.T) idempotency.ID {
	t.Helper()
	return idempotency.NewID(fmt.Sprint(time.Now().UnixNano(), ids.Add(1)), t.Name(), idempotency.NewKey())
}

// scene is one part of the suite at work, with one ID.
type scene struct {
	*testing.T
	store idempotency.Store
	id    idempotency.ID

	claimed, before time.Time // when the last two claims that were told to run were made
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

// run begins, and expects to be told to run.
func (s *scene) run(owner string) idempotency.Lease {
	s.Helper()
	b := s.begin(owner)
	if b.State != idempotency.Run {
		s.Fatalf("%s was told %v, want run", owner, b.State)
	}
	return idempotency.Lease{ID: s.id, Owner: owner, Fence: b.Fence}
}

func (s *scene) want(b idempotency.BeginResult, state idempotency.State) {
	s.Helper()
	if state == idempotency.Join && b.State == idempotency.Run && time.Since(s.before) >= lease {
		s.Skip("the machine is too slow: the lease has run out before the next step")
	}
	if b.State != state {
		s.Errorf("told %v, want %v", b.State, state)
	}
}

func (s *scene) complete(l idempotency.Lease, with string) error {
	return s.store.Complete(s.Context(), l, []byte(with), retention)
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
		s.Errorf("got %v, want that the lease is lost", err)
	}
}

func schema(name, text string) idempotency.Fingerprint {
	f := idempotency.Fingerprint{Schema: name}
	copy(f.Sum[:], text)
	return f
}
