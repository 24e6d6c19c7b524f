package storetest

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// leaseCases test leases that expire, releases and possible effects.
var leaseCases = []testCase{ //nolint:gochecknoglobals // a table that nothing changes
	{"a superseded owner cannot extend its successor's lease", func(s *scene) {
		old := s.run("a")
		time.Sleep(lease + beyond)
		s.want(s.begin("b"), idempotency.Run)
		s.lost(s.store.Extend(s.Context(), old, time.Hour))
		time.Sleep(lease + beyond)
		s.want(s.begin("c"), idempotency.Run)
	}},
	{"leases and retentions do not end early, however long they are", func(s *scene) {
		l := s.run("a")
		start := time.Now()
		s.ok(s.store.Extend(s.Context(), l, 3*lease))
		time.Sleep(2 * lease)
		if b := s.begin("b"); time.Since(start) < 3*lease {
			s.want(b, idempotency.Join)
		}
		s.id = newID(s.T)
		s.ok(s.completeBriefly(s.run("a")))
		start = time.Now()
		time.Sleep(retention * 3 / 4)
		if b := s.begin("b"); time.Since(start) < retention {
			s.want(b, idempotency.Replay)
		}
		s.id = newID(s.T)
		b, err := s.store.Begin(s.Context(), idempotency.Claim{ID: s.id, Owner: "a", Lease: math.MaxInt64})
		s.ok(err)
		s.want(b, idempotency.Run)
		s.want(s.begin("b"), idempotency.Join)
		forever := idempotency.Lease{ID: s.id, Owner: "a", Fence: b.Fence}
		s.ok(s.store.Extend(s.Context(), forever, math.MaxInt64))
		s.ok(s.store.Complete(s.Context(), forever, []byte(outcome), math.MaxInt64))
		s.want(s.begin("b"), idempotency.Replay)
	}},
	{"fences grow when writes are released, too", func(s *scene) {
		var (
			wg   sync.WaitGroup
			last atomic.Uint64
		)
		for i := range 8 {
			wg.Go(func() {
				owner := fmt.Sprint("owner ", i)
				for range 40 {
					b, err := s.store.Begin(s.Context(), idempotency.Claim{ID: s.id, Owner: owner, Lease: time.Minute})
					if err != nil {
						s.Error(err)
						return
					}
					if b.State != idempotency.Run {
						continue
					}
					if before := last.Swap(b.Fence); before >= b.Fence {
						s.Errorf("fence %d after %d", b.Fence, before)
					}
					s.ok(s.release(idempotency.Lease{ID: s.id, Owner: owner, Fence: b.Fence}))
				}
			})
		}
		wg.Wait()
	}},
	{"an expired lease is taken over", func(s *scene) {
		old := s.run("a")
		time.Sleep(lease + beyond)
		b := s.begin("b")
		s.want(b, idempotency.Run)
		if !b.TakenOver || b.Fence <= old.Fence {
			s.Errorf("taken over %v with fence %d after %d", b.TakenOver, b.Fence, old.Fence)
		}
		s.lost(s.complete(old, "of a superseded owner"))
		s.lost(s.store.Extend(s.Context(), old, time.Hour))
		s.lost(s.release(old))
		s.want(s.begin("c"), idempotency.Join)
		s.ok(s.complete(idempotency.Lease{ID: s.id, Owner: "b", Fence: b.Fence}, outcome))
		s.lost(s.complete(old, "of a superseded owner"))
		if b := s.begin("a"); string(b.Outcome) != outcome {
			s.Errorf("the superseded owner got %v %q, want its successor's outcome", b.State, b.Outcome)
		}
	}},
	{"a late owner completes if nobody took over", func(s *scene) {
		l := s.run("a")
		time.Sleep(lease + beyond)
		s.ok(s.complete(l, "late"))
		s.want(s.begin("b"), idempotency.Replay)
	}},
	{"an extended lease is not taken over", func(s *scene) {
		l := s.run("a")
		for range 3 {
			time.Sleep(lease / 2)
			s.ok(s.store.Extend(s.Context(), l, lease))
		}
		s.want(s.begin("b"), idempotency.Join)
		time.Sleep(lease + beyond)
		s.want(s.begin("b"), idempotency.Run)
	}},
	{"Extend never makes a lease shorter", func(s *scene) {
		l := s.run("a")
		s.ok(s.store.Extend(s.Context(), l, time.Hour))
		for _, d := range []time.Duration{time.Millisecond, 0, -time.Hour} {
			s.ok(s.store.Extend(s.Context(), l, d))
		}
		time.Sleep(lease + beyond)
		s.want(s.begin("b"), idempotency.Join)
	}},
	{"a retention may be shorter than the lease, or zero, or negative", func(s *scene) {
		for _, retention := range []time.Duration{time.Millisecond, 0, -time.Hour} {
			s.id = newID(s.T)
			b, err := s.store.Begin(s.Context(), idempotency.Claim{ID: s.id, Owner: "a", Lease: time.Hour})
			s.ok(err)
			s.want(b, idempotency.Run)
			s.ok(s.store.Complete(s.Context(), idempotency.Lease{ID: s.id, Owner: "a", Fence: b.Fence}, []byte(outcome), retention))
			time.Sleep(beyond)
			if b := s.begin("b"); b.State != idempotency.Run || b.TakenOver {
				s.Errorf("retention %v: got %v, taken over %v", retention, b.State, b.TakenOver)
			}
		}
	}},
	{"the next owner runs a released write, with a higher fence", func(s *scene) {
		l := s.run("a")
		s.ok(s.release(l))
		s.ok(s.release(l))
		next := s.run("b")
		if next.Fence <= l.Fence {
			s.Errorf("fence %d after %d", next.Fence, l.Fence)
		}
		s.lost(s.complete(l, "of a superseded owner"))
	}},
	{"TakenOver is true for every run after a possible effect, until an outcome is stored", func(s *scene) {
		runAs := func(owner string, want bool) idempotency.Lease {
			s.Helper()
			for range 2 { // the same owner gets the same answer
				if b := s.begin(owner); b.State != idempotency.Run || b.TakenOver != want {
					s.Errorf("%s got %v, taken over %v, want run and %v", owner, b.State, b.TakenOver, want)
				}
			}
			return s.run(owner)
		}
		a := runAs("a", false)
		s.ok(s.release(a))
		b := runAs("b", false)
		for range 2 {
			s.ok(s.releaseEffect(b))
		}
		s.ok(s.release(b))
		s.ok(s.release(runAs("c", true)))
		runAs("d", true)
		time.Sleep(lease + beyond)
		e := runAs("e", true)
		s.lost(s.releaseEffect(b))
		s.ok(s.completeBriefly(e))
		s.lost(s.releaseEffect(e))
		time.Sleep(retention + beyond)
		runAs("f", false)
	}},
	{"an expired lease is a possible effect, which a release without an effect does not erase", func(s *scene) {
		s.run("a")
		time.Sleep(lease + beyond)
		s.ok(s.release(s.run("b")))
		if b := s.begin("c"); b.State != idempotency.Run || !b.TakenOver {
			s.Errorf("got %v, taken over %v", b.State, b.TakenOver)
		}
	}},
	{"a released record with a possible effect keeps its fingerprint", func(s *scene) {
		b := s.begin("a", schema("x", "1"))
		s.ok(s.releaseEffect(idempotency.Lease{ID: s.id, Owner: "a", Fence: b.Fence}))
		s.want(s.begin("b", schema("x", "2")), idempotency.Reused)
		s.want(s.look(schema("x", "2")), idempotency.Reused)
		s.want(s.begin("b", schema("x", "1")), idempotency.Run)
	}},
	{"Look claims nothing", func(s *scene) {
		absent := func(takenOver bool) {
			s.Helper()
			if b := s.look(); b.State != idempotency.Absent || b.TakenOver != takenOver {
				s.Errorf("got %v, taken over %v, want absent and %v", b.State, b.TakenOver, takenOver)
			}
		}
		absent(false)
		l := s.run("a")
		s.want(s.look(), idempotency.Join)
		time.Sleep(lease + beyond)
		absent(true)
		s.ok(s.store.Extend(s.Context(), l, lease)) // it is late, and nobody took over
		s.want(s.look(), idempotency.Join)
		s.ok(s.completeBriefly(l))
		if b := s.look(); b.State != idempotency.Replay || string(b.Outcome) != outcome {
			s.Errorf("got %v %q", b.State, b.Outcome)
		}
		time.Sleep(retention + beyond)
		absent(false)
	}},
	{"a done write cannot be released", func(s *scene) {
		l := s.run("a")
		s.ok(s.complete(l, outcome))
		s.lost(s.release(l))
		s.want(s.begin("b"), idempotency.Replay)
	}},
}
