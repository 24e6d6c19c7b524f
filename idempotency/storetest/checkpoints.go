package storetest

import (
	"bytes"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// checkpointCases test checkpoints.
var checkpointCases = []testCase{ //nolint:gochecknoglobals // a table that nothing changes
	{"the run that takes over gets the last checkpoint", func(s *scene) {
		a := s.run("a")
		s.wantCheckpoint("a", "")
		s.ok(s.store.Save(s.Context(), a, []byte("first")))
		s.ok(s.store.Save(s.Context(), a, []byte("second")))
		s.ok(s.store.Save(s.Context(), a, []byte("second"))) // repeated after a lost answer
		s.wantCheckpoint("a", "second")
		time.Sleep(lease + beyond)
		s.ok(s.store.Save(s.Context(), a, []byte("late"))) // nobody took over
		s.wantCheckpoint("b", "late")
		s.lost(s.store.Save(s.Context(), a, []byte("of a superseded owner")))
		s.wantCheckpoint("b", "late")
	}},
	{"a release keeps the checkpoint only if a run may have had an effect", func(s *scene) {
		a := s.run("a")
		s.ok(s.store.Save(s.Context(), a, []byte("of a")))
		s.ok(s.releaseEffect(a))
		s.lost(s.store.Save(s.Context(), a, []byte("of a superseded owner")))
		b := s.wantCheckpoint("b", "of a")
		s.ok(s.store.Save(s.Context(), b, []byte("of b")))
		s.ok(s.release(b)) // an effect of the first run is still possible
		s.wantCheckpoint("c", "of b")
		s.id = newID(s.T)
		a = s.run("a")
		s.ok(s.store.Save(s.Context(), a, []byte("of a")))
		s.ok(s.release(a))
		s.wantCheckpoint("b", "")
	}},
	{"an outcome replaces the checkpoint", func(s *scene) {
		a := s.run("a")
		s.ok(s.store.Save(s.Context(), a, bytes.Repeat([]byte{0, 2, 255}, 1000)))
		s.want(s.begin("b"), idempotency.Join)
		s.want(s.look(), idempotency.Join)
		s.ok(s.store.Extend(s.Context(), a, lease))
		s.ok(s.completeBriefly(a))
		s.ok(s.completeBriefly(a))
		s.lost(s.store.Save(s.Context(), a, []byte("of a done write")))
		if b := s.begin("b"); b.State != idempotency.Replay || string(b.Outcome) != outcome || len(b.Checkpoint) > 0 {
			s.Errorf("got %v %q, checkpoint %q", b.State, b.Outcome, b.Checkpoint)
		}
		time.Sleep(retention + beyond)
		s.wantCheckpoint("b", "")
	}},
	{"only the owner saves a checkpoint", func(s *scene) {
		a := s.run("a")
		s.lost(s.store.Save(s.Context(), idempotency.Lease{ID: a.ID, Owner: "b", Fence: a.Fence}, []byte("x")))
		s.lost(s.store.Save(s.Context(), idempotency.Lease{ID: a.ID, Owner: "a", Fence: a.Fence + 1}, []byte("x")))
		s.lost(s.store.Save(s.Context(), idempotency.Lease{ID: newID(s.T), Owner: "a", Fence: a.Fence}, []byte("x")))
		s.wantCheckpoint("a", "")
	}},
}

// wantCheckpoint claims the write, and fails the test unless the result is Run with the checkpoint.
func (s *scene) wantCheckpoint(owner, want string) idempotency.Lease {
	s.Helper()
	b := s.begin(owner)
	if b.State != idempotency.Run || string(b.Checkpoint) != want {
		s.Errorf("%s got %v with checkpoint %q, want run with %q", owner, b.State, b.Checkpoint, want)
	}
	return idempotency.Lease{ID: s.id, Owner: owner, Fence: b.Fence}
}
