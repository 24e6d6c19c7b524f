package storetest

import (
	"errors"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// inspectCases test the steps of operators. They are skipped for stores that are not inspectors.
var inspectCases = []testCase{ //nolint:gochecknoglobals // a table that nothing changes
	{"an operator finds records in each state", func(s *scene) {
		in := s.inspector()
		s.wantFound(nil)
		claim := idempotency.Claim{ID: s.id, Owner: "a", Lease: lease, Method: "/shop.v1.Orders/Place", KeyHash: "0123456789abcdef"}
		b, err := s.store.Begin(s.Context(), claim)
		s.ok(err)
		want := &idempotency.Record{State: idempotency.Pending, Fence: b.Fence, Attempts: 1, Method: claim.Method, KeyHash: claim.KeyHash}
		s.wantFound(want)
		l := idempotency.Lease{ID: s.id, Owner: "a", Fence: b.Fence}
		s.ok(s.store.Save(s.Context(), l, []byte("checkpoint")))
		s.ok(s.releaseEffect(l))
		want.State, want.TakenOver, want.Checkpoint = idempotency.Released, true, []byte("checkpoint")
		s.wantFound(want)
		claim.Owner = "b"
		b, err = s.store.Begin(s.Context(), claim)
		s.ok(err)
		want.State, want.Fence, want.Attempts = idempotency.Pending, b.Fence, 2
		s.wantFound(want)
		time.Sleep(lease + beyond)
		if r, err := in.Find(s.Context(), s.id); err != nil || r == nil || r.Left > 0 || r.Age < lease || r.Age > time.Hour {
			s.Errorf("an expired lease: %+v, %v", r, err)
		}
		s.ok(s.store.Complete(s.Context(), idempotency.Lease{ID: s.id, Owner: "b", Fence: b.Fence}, []byte(outcome), time.Hour))
		want.State, want.TakenOver, want.Checkpoint, want.Outcome = idempotency.Done, false, nil, []byte(outcome)
		s.wantFound(want)
		if r, err := in.Find(s.Context(), s.id); err == nil && (r.Left < 59*time.Minute || r.Left > time.Hour+time.Minute) {
			s.Errorf("an outcome that is kept for an hour has %v left", r.Left)
		}
	}},
	{"an operator lists all records, without outcomes", func(s *scene) {
		in := s.inspector()
		want := map[idempotency.ID]bool{}
		for range 25 {
			s.id = newID(s.T)
			s.ok(s.store.Complete(s.Context(), s.run("a"), []byte(outcome), time.Hour))
			want[s.id] = true
		}
		for r, err := range in.Records(s.Context()) {
			if err != nil {
				s.Fatal(err)
			}
			if want[r.ID] && (r.State != idempotency.Done || len(r.Outcome) > 0) {
				s.Errorf("listed %+v", r)
			}
			delete(want, r.ID)
		}
		if len(want) > 0 {
			s.Errorf("%d records were not listed", len(want))
		}
		for _, err := range in.Records(s.Context()) {
			s.ok(err)
			break // the caller may stop
		}
	}},
	{"an operator frees a pending record, and TakenOver is true for the next run", func(s *scene) {
		in := s.inspector()
		l := s.run("a")
		r := s.find()
		s.ok(in.Free(s.Context(), r))
		s.lost(in.Free(s.Context(), r))
		s.lost(s.store.Extend(s.Context(), l, time.Hour))
		s.lost(s.complete(l, "of a superseded owner"))
		if b := s.begin("b"); b.State != idempotency.Run || !b.TakenOver || b.Fence <= l.Fence {
			s.Errorf("got %v, taken over %v, fence %d after %d", b.State, b.TakenOver, b.Fence, l.Fence)
		}
		s.lost(in.Free(s.Context(), r)) // it has another owner now
		s.lost(in.Forget(s.Context(), r))
	}},
	{"an operator cannot delete an expired record whose owner has extended it", func(s *scene) {
		in := s.inspector()
		l := s.run("a")
		time.Sleep(lease + beyond)
		r := s.find()
		s.ok(s.store.Extend(s.Context(), l, time.Hour))
		s.lost(in.Forget(s.Context(), r))
		s.ok(in.Forget(s.Context(), s.find())) // which shows that its lease lasts
		s.want(s.look(), idempotency.Absent)
	}},
	{"an operator deletes a record in any state, and the next run starts anew", func(s *scene) {
		in := s.inspector()
		forget := func() {
			s.Helper()
			r := s.find()
			s.ok(in.Forget(s.Context(), r))
			s.lost(in.Forget(s.Context(), r))
			s.wantFound(nil)
			if b := s.look(); b.State != idempotency.Absent || b.TakenOver {
				s.Errorf("got %v, taken over %v", b.State, b.TakenOver)
			}
		}
		s.run("a")
		forget()
		s.ok(s.releaseEffect(s.run("b")))
		forget()
		s.ok(s.complete(s.run("c"), outcome))
		r := s.find()
		if err := in.Free(s.Context(), r); !errors.Is(err, idempotency.ErrLeaseLost) {
			s.Errorf("freeing an outcome: %v", err)
		}
		forget()
		s.run("d")
	}},
}

// inspector returns the store as an inspector, or skips the test.
func (s *scene) inspector() idempotency.Inspector {
	s.Helper()
	in, ok := s.store.(idempotency.Inspector)
	if !ok {
		s.Skip("the store is not an idempotency.Inspector")
	}
	return in
}

func (s *scene) find() *idempotency.Record {
	s.Helper()
	r, err := s.inspector().Find(s.Context(), s.id)
	if err != nil || r == nil {
		s.Fatalf("found %v, %v", r, err)
	}
	return r
}

// wantFound fails the test unless the record is as wanted. It ignores times and the owner.
func (s *scene) wantFound(want *idempotency.Record) {
	s.Helper()
	r, err := s.inspector().Find(s.Context(), s.id)
	switch {
	case err != nil:
		s.Error(err)
	case want == nil && r != nil:
		s.Errorf("found %+v, want none", r)
	case want == nil:
	case r == nil:
		s.Error("found none")
	case r.ID != s.id || r.State != want.State || r.Method != want.Method || r.KeyHash != want.KeyHash ||
		r.Fence != want.Fence || r.Attempts != want.Attempts || r.TakenOver != want.TakenOver ||
		string(r.Checkpoint) != string(want.Checkpoint) || string(r.Outcome) != string(want.Outcome):
		s.Errorf("found %+v, want %+v", r, want)
	}
}
