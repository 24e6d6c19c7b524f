package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// testCase is one test of the suite.
type testCase struct {
	name string
	run  func(s *scene)
}

// claimCases test claims, outcomes, fingerprints and waits.
var claimCases = []testCase{ //nolint:gochecknoglobals // a table that nothing changes
	{"the first owner runs, and the others join", func(s *scene) {
		s.run("a")
		s.want(s.begin("b"), idempotency.Join)
		s.want(s.begin("c"), idempotency.Join)
	}},
	{"IDs that differ in one byte are different", func(s *scene) {
		start := time.Now()
		s.run("a")
		first := s.id
		for i := range first {
			s.id = first
			s.id[i]++
			s.want(s.begin("b"), idempotency.Run)
			if b := s.look(); b.State != idempotency.Join {
				s.Errorf("byte %d: Look returned %v", i, b.State)
			}
		}
		s.id = first
		if b := s.begin("c"); time.Since(start) < lease {
			s.want(b, idempotency.Join)
		}
	}},
	{"an owner that repeats its claim gets the same answer", func(s *scene) {
		first, again := s.run("a"), s.run("a")
		if first != again {
			s.Errorf("fence %d, and then %d", first.Fence, again.Fence)
		}
		time.Sleep(lease + beyond)
		if late := s.run("a"); late != first {
			s.Errorf("fence %d, and then %d", first.Fence, late.Fence)
		}
	}},
	{"every claim of a done write gets its outcome", func(s *scene) {
		s.ok(s.complete(s.run("a"), outcome))
		for _, owner := range []string{"a", "b"} {
			b := s.begin(owner)
			s.want(b, idempotency.Replay)
			if string(b.Outcome) != outcome {
				s.Errorf("%s got %q", owner, b.Outcome)
			}
		}
	}},
	{"a second completion changes nothing", func(s *scene) {
		l := s.run("a")
		s.ok(s.complete(l, outcome))
		s.ok(s.complete(l, "another"))
		if b := s.begin("b"); string(b.Outcome) != outcome {
			s.Errorf("got %q", b.Outcome)
		}
	}},
	{"only the owner completes", func(s *scene) {
		l := s.run("a")
		s.lost(s.complete(idempotency.Lease{ID: l.ID, Owner: "b", Fence: l.Fence}, "theirs"))
		s.lost(s.complete(idempotency.Lease{ID: l.ID, Owner: "a", Fence: l.Fence + 1}, "theirs"))
		s.lost(s.store.Extend(s.Context(), idempotency.Lease{ID: l.ID, Owner: "b", Fence: l.Fence}, lease))
		s.want(s.begin("c"), idempotency.Join)
	}},
	{"steps with a wrong fence fail, and a done write stays done", func(s *scene) {
		l := s.run("a")
		for _, off := range []uint64{1, math.MaxUint64, 1 << 32, 1 << 56, 1 << 63} {
			wrong := l
			wrong.Fence += off
			s.lost(s.store.Extend(s.Context(), wrong, time.Hour))
			s.lost(s.release(wrong))
			s.lost(s.complete(wrong, "theirs"))
		}
		s.want(s.begin("b"), idempotency.Join)
		s.ok(s.complete(l, outcome))
		s.lost(s.store.Extend(s.Context(), l, time.Hour))
		s.lost(s.release(l))
		s.want(s.begin("b"), idempotency.Replay)
	}},
	{"a wait ends when its context ends", func(s *scene) {
		b, err := s.store.Begin(s.Context(), idempotency.Claim{ID: s.id, Owner: "a", Lease: time.Hour})
		s.ok(err)
		s.want(b, idempotency.Run)
		ctx, cancel := context.WithTimeout(s.Context(), lease)
		defer cancel()
		ended := make(chan error, 1)
		go func() {
			for {
				if err := s.store.Wait(ctx, s.id); err != nil {
					ended <- err
					return
				}
			}
		}()
		select {
		case err := <-ended:
			if !errors.Is(err, context.DeadlineExceeded) {
				s.Errorf("got %v", err)
			}
		case <-time.After(time.Minute):
			s.Error("it still waits after its context has ended")
		}
	}},
	{"a write that was never claimed cannot be completed", func(s *scene) {
		s.lost(s.complete(idempotency.Lease{ID: s.id, Owner: "a", Fence: 1}, "of nothing"))
		s.lost(s.store.Extend(s.Context(), idempotency.Lease{ID: s.id, Owner: "a", Fence: 1}, lease))
	}},
	{"another request with the key gets Reused", func(s *scene) {
		s.want(s.begin("a", schema("x", "1")), idempotency.Run)
		s.want(s.begin("b", schema("x", "2")), idempotency.Reused)
		last := schema("x", "1")
		last.Sum[len(last.Sum)-1]++
		s.want(s.begin("b", last), idempotency.Reused)
		swapped := schema("x", "")
		copy(swapped.Sum[16:], "1")
		s.want(s.begin("b", swapped), idempotency.Reused)
		s.want(s.begin("b", schema("", "2")), idempotency.Join)
		s.want(s.begin("b", schema("y", "2")), idempotency.Join)
		s.want(s.begin("b"), idempotency.Join)
	}},
	{"another request gets Reused after the lease has expired and after completion", func(s *scene) {
		b := s.begin("a", schema("x", "1"))
		time.Sleep(lease + beyond)
		s.want(s.begin("b", schema("x", "2")), idempotency.Reused)
		s.ok(s.complete(idempotency.Lease{ID: s.id, Owner: "a", Fence: b.Fence}, outcome))
		s.want(s.begin("b", schema("x", "2")), idempotency.Reused)
		s.want(s.begin("b", schema("x", "1")), idempotency.Replay)
		s.want(s.begin("b", schema("y", "2")), idempotency.Replay)
	}},
	{"requests of different schemas are not compared, and may take over", func(s *scene) {
		s.want(s.begin("a", schema("x", "1")), idempotency.Run)
		time.Sleep(lease + beyond)
		s.want(s.begin("b", schema("y", "2")), idempotency.Run)
		s.want(s.begin("c", schema("y", "3")), idempotency.Reused)
		s.want(s.begin("c", schema("x", "3")), idempotency.Join)
		time.Sleep(lease + beyond)
		s.want(s.begin("c"), idempotency.Run)
		s.want(s.begin("d", schema("y", "3")), idempotency.Join)
	}},
	{"requests without a schema are not compared", func(s *scene) {
		s.want(s.begin("a", schema("", "1")), idempotency.Run)
		s.want(s.begin("b", schema("", "2")), idempotency.Join)
		time.Sleep(lease + beyond)
		s.want(s.begin("c", schema("", "3")), idempotency.Run)
	}},
	{"long owners that differ in their last byte are different", func(s *scene) {
		long := strings.Repeat("o", 300)
		l := s.run(long + "a")
		s.want(s.begin(long+"b"), idempotency.Join)
		s.want(s.begin(long+"a"), idempotency.Run)
		s.lost(s.complete(idempotency.Lease{ID: l.ID, Owner: long + "b", Fence: l.Fence}, "theirs"))
		time.Sleep(lease + beyond)
		next := s.run(long + "b")
		s.lost(s.complete(l, "of a zombie"))
		s.ok(s.complete(next, outcome))
		s.want(s.begin("c"), idempotency.Replay)
	}},
	{"an outcome is kept for its retention", func(s *scene) {
		old := s.run("a")
		s.ok(s.completeBriefly(old))
		time.Sleep(retention / 2)
		s.want(s.begin("b"), idempotency.Replay)
		time.Sleep(retention/2 + beyond)
		b := s.begin("b")
		s.want(b, idempotency.Run)
		if b.Fence <= old.Fence {
			s.Errorf("fence %d after %d: it did not outlive the record", b.Fence, old.Fence)
		}
		s.lost(s.complete(old, "of a zombie"))
	}},
	{"outcomes of any size and content are stored unchanged", func(s *scene) {
		for i, with := range [][]byte{nil, {}, {0}, bytes.Repeat([]byte{0, 255, '\n', '\''}, 256<<10)} {
			s.id = newID(s.T)
			s.ok(s.store.Complete(s.Context(), s.run("a"), with, retention))
			if b := s.begin("b"); b.State != idempotency.Replay || !bytes.Equal(b.Outcome, with) {
				s.Errorf("outcome %d: %v with %d bytes, want replay with %d", i, b.State, len(b.Outcome), len(with))
			}
		}
	}},
	{"a claim without an owner or a lease is an error", func(s *scene) {
		for _, claim := range []idempotency.Claim{{ID: s.id, Lease: lease}, {ID: s.id, Owner: "a"}, {ID: s.id, Owner: "a", Lease: -1}} {
			if b, err := s.store.Begin(s.Context(), claim); err == nil {
				s.Errorf("%+v got %v", claim, b.State)
			}
		}
		s.run("b")
	}},
	{"no step is taken for a context that has ended", func(s *scene) {
		ended, cancel := context.WithCancel(s.Context())
		cancel()
		refused := func(err error) {
			s.Helper()
			if !errors.Is(err, context.Canceled) {
				s.Errorf("got %v, want that the context was cancelled", err)
			}
		}
		_, err := s.store.Begin(ended, idempotency.Claim{ID: s.id, Owner: "a", Lease: time.Hour})
		refused(err)
		l := s.run("b")
		refused(s.store.Complete(ended, l, nil, retention))
		refused(s.store.Extend(ended, l, time.Hour))
		refused(s.store.Release(ended, l, true, retention))
		refused(s.store.Wait(ended, s.id))
		s.want(s.begin("c"), idempotency.Join)
	}},
	{"a wait ends when the write completes, is released or loses its lease", func(s *scene) {
		for name, end := range map[string]func(l idempotency.Lease) error{
			"completed": func(l idempotency.Lease) error { return s.complete(l, outcome) },
			"released":  func(l idempotency.Lease) error { return s.release(l) },
			"abandoned": nil,
		} {
			s.id = newID(s.T)
			claim := idempotency.Claim{ID: s.id, Owner: "a", Lease: time.Hour}
			if end == nil {
				claim.Lease = lease
			}
			a, err := s.store.Begin(s.Context(), claim)
			s.ok(err)
			ended := make(chan struct{})
			time.AfterFunc(lease/4, func() {
				defer close(ended)
				if end != nil {
					s.ok(end(idempotency.Lease{ID: s.id, Owner: "a", Fence: a.Fence}))
				}
			})
			for {
				ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
				err := s.store.Wait(ctx, s.id)
				cancel()
				if err != nil {
					s.Fatalf("%s: %v", name, err)
				}
				if b := s.begin("b"); b.State != idempotency.Join {
					break
				}
			}
			<-ended
		}
		ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
		defer cancel()
		s.id = newID(s.T) // which nobody has claimed
		s.ok(s.store.Wait(ctx, s.id))
		s.ok(s.store.Complete(ctx, s.run("a"), []byte(outcome), 24*time.Hour))
		s.ok(s.store.Wait(ctx, s.id))
	}},
	{"of many concurrent claims one runs, and all get its outcome", func(s *scene) {
		const clients = 64
		var (
			wg  sync.WaitGroup
			ran atomic.Int64
		)
		for i := range clients {
			wg.Go(func() {
				owner := fmt.Sprint("owner ", i)
				for {
					b, err := s.store.Begin(s.Context(), idempotency.Claim{ID: s.id, Owner: owner, Lease: time.Minute})
					switch {
					case err != nil:
						s.Error(err)
						return
					case b.State == idempotency.Run:
						ran.Add(1)
						s.ok(s.store.Complete(s.Context(), idempotency.Lease{ID: s.id, Owner: owner, Fence: b.Fence}, []byte(owner), time.Minute))
					case b.State == idempotency.Join:
						if err := s.store.Wait(s.Context(), s.id); err != nil {
							s.Error(err)
							return
						}
					default:
						return
					}
				}
			})
		}
		wg.Wait()
		if ran.Load() != 1 {
			s.Errorf("%d ran", ran.Load())
		}
	}},
}
