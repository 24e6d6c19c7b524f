package storetest

import (
	"bytes"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// checkpointParts are those about checkpoints.
var checkpointParts = []part{ //nolint:gochecknoglobals // a table that nothing changes
	{"the run that takes over gets the last checkpoint", func(s *scene) {
		a := s.run("a")
		s.wantCheckpoint("a", "")
		s.ok(s.store.Save(s.Context(), a, []byte("first")))
		s.ok(s.store.Save(s.Context(), a, []byte("second")))
		s.ok(s.store.Save(s.Context(), a, []byte("second"))) // again, for want of an answer
		s.wantCheckpoint("a", "second")
		time.Sleep(lease + beyond)
		s.ok(s.store.Save(s.Context(), a, []byte("late"))) // nobody took over
		s.wantCheckpoint("b", "late")
		s.lost(s.store.Save(s.Context(), a, []byte("of a zombie")))
		s.wantCheckpoint("b", "late")
	}},
	{"a checkpoint outlives the release of a run with an effect, and no other", func(s *scene) {
		a := s.run("a")
		s.ok(s.store.Save(s.Context(), a, []byte("of a")))
		s.ok(s.releaseEffect(a))
		s.lost(s.store.Save(s.Context(), a, []byte("of a zombie")))
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
	{"an outcome takes the place of the checkpoint", func(s *scene) {
		a := s.run("a")
		s.ok(s.store.Save(s.Context(), a, bytes.Repeat([]byte{0, 2, 255}, 1000)))
		s.want(s.begin("b"), idempotency.Join)
		s.want(s.look(), idempotency.Join)
		s.ok(s.store.Extend(s.Context(), a, lease))
		s.ok(s.complete(a, outcome))
		s.ok(s.complete(a, outcome))
		s.lost(s.store.Save(s.Context(), a, []byte("of what is done")))
		if b := s.begin("b"); b.State != idempotency.Replay || string(b.Outcome) != outcome || len(b.Checkpoint) > 0 {
			s.Errorf("told %v %q, checkpoint %q", b.State, b.Outcome, b.Checkpoint)
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

// wantCheckpoint begins, and expects to be told to run and of the checkpoint.
func (s *scene) wantCheckpoint(owner, want string) idempotency.Lease {
	s.Helper()
	b := s.begin(owner)
	if b.State != idempotency.Run || string(b.Checkpoint) != want {
		s.Errorf("%s was told %v with checkpoint %q, want run with %q", owner, b.State, b.Checkpoint, want)
	}
	return idempotency.Lease{ID: s.id, Owner: owner, Fence: b.Fence}
}
