package once

import (
	"sync"
	"sync/atomic"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/hoperr"
	"github.com/hopbound/hopbound/internal/request"
	"github.com/hopbound/hopbound/internal/telemetry"
	"google.golang.org/grpc/codes"
)

// Calls of one process with the same key share the runs of the write: one call asks the store, and
// runs the handler if the store says so. The others wait for this call. If they did not, each of
// many duplicates would run a failing handler, one after another.
//
// A shared run is open until its call ends. Then it is
//
//   - settled: an outcome is stored, or the store has given an answer that will not change. All
//     waiting calls ask the store.
//   - failed: the handler has run, and its failure is not stored. One of the waiting calls makes
//     the next run, for which the others wait. A call that has waited for two failed runs returns
//     the failure of the second.
//   - rejected: the store failed. All waiting calls return its failure.
//   - given up: the call ended before the handler ran. One of the waiting calls takes its place.
type sharedRun struct {
	fingerprint idempotency.Fingerprint
	taken       atomic.Bool   // a call makes the run
	ended       chan struct{} // closed when the rest is set
	result      runResult
	err         error
	downstream  *request.Downstream // of the call that failed, by which its failure is marked
	next        *sharedRun          // nil if the run was settled or rejected
}

type runResult int

const (
	runGivenUp runResult = iota
	runSettled
	runFailed
	runRejected
)

func newSharedRun(f idempotency.Fingerprint) *sharedRun {
	return &sharedRun{fingerprint: f, ended: make(chan struct{})}
}

// sharedRuns are the open runs of a server. The zero value has none.
type sharedRuns struct {
	mu   sync.Mutex
	byID map[idempotency.ID]*sharedRun
}

// join returns the open run of a write, or a new one that the caller makes.
func (s *sharedRuns) join(c *idempotency.Claim) (run *sharedRun, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if run := s.byID[c.ID]; run != nil {
		return run, false
	}
	if s.byID == nil {
		s.byID = map[idempotency.ID]*sharedRun{}
	}
	run = newSharedRun(c.Fingerprint)
	s.byID[c.ID] = run
	return run, true
}

// take reports whether the caller makes the run. If no other run of the write is open, later calls
// also wait for this run.
func (s *sharedRuns) take(id idempotency.ID, run *sharedRun) bool {
	if !run.taken.CompareAndSwap(false, true) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[id] == nil {
		s.byID[id] = run
	}
	return true
}

// end ends a run.
func (s *sharedRuns) end(id idempotency.ID, run *sharedRun, result runResult, err error) {
	run.result, run.err = result, err
	if result == runFailed || result == runGivenUp {
		run.next = newSharedRun(run.fingerprint)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[id] == run {
		delete(s.byID, id)
	}
	close(run.ended)
}

// join waits for the run of another call with the key, if there is one. If it returns no error, the
// call asks the store. If c.shared is set, other calls wait for this one.
func (c *claim) join() error {
	run, mine := c.server.runs.join(&c.claim)
	for failures := 0; !mine; {
		if c.claim.Fingerprint.Differs(run.fingerprint) {
			return nil // the store decides what that means
		}
		c.startWaiting()
		select {
		case <-run.ended:
		case <-c.waiting.Done():
			return c.waitEnded()
		}
		c.waits = max(c.waits, 1)
		if run.result == runSettled {
			return nil
		}
		if run.result == runFailed {
			failures++
		}
		if run.result == runRejected || failures == 2 {
			c.outcome = telemetry.KeyShared
			c.call.Request.Downstream.CopyFrom(run.downstream)
			return run.err
		}
		run = run.next
		mine = c.server.runs.take(c.claim.ID, run)
	}
	c.shared = run
	return nil
}

// endShared ends the run for which other calls wait, when this call has ended with err.
func (c *claim) endShared(err error) {
	if c.shared == nil {
		return
	}
	result := runGivenUp
	switch c.outcome { //nolint:exhaustive // the run was given up
	case telemetry.KeyExecuted, telemetry.KeyReplayed, telemetry.KeyJoined, telemetry.KeyReused, telemetry.KeyCorrupt:
		result = runSettled
	case telemetry.KeyReleased:
		result = runFailed
		if err == nil { // the handler has panicked or ended its goroutine
			err = hoperr.New(codes.Internal, hoperr.RunFailed, "the handler that ran for this key has panicked")
		}
	case telemetry.KeyNoStore, telemetry.KeyStoreFull:
		result = runRejected
	}
	c.shared.downstream = &c.call.Request.Downstream
	c.server.runs.end(c.claim.ID, c.shared, result, err)
}
