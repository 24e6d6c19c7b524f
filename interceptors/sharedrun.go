package interceptors

import (
	"sync"
	"sync/atomic"

	"github.com/hopbound/hopbound/idempotency"
	"google.golang.org/grpc/codes"
)

// Calls with one key that come to one process share its runs: one call asks the store and
// runs the handler if it is told to, and the others wait for it. Without that, each of many
// duplicates would run a handler that fails, one after another.
//
// A shared run is open until its call ends. Then it is
//
//   - settled: an outcome is stored, or the store has told something else for good. All
//     who waited ask the store.
//   - failed: the handler has run, and its failure is not stored. One of those who waited
//     makes the next run, which the others wait for. Who has waited for two runs that
//     failed gets the failure of the second.
//   - refused: the store failed. All who waited get its failure.
//   - given up: the call ended before the handler ran. One of those who waited takes its
//     place.
type sharedRun struct {
	fingerprint idempotency.Fingerprint
	taken       atomic.Bool   // a call has it
	ended       chan struct{} // closed when the rest is set
	result      runResult
	err         error
	downstream  *downstream // of the call that failed, by which its failure is marked
	next        *sharedRun  // unless it is settled or refused
}

type runResult int

const (
	runGivenUp runResult = iota
	runSettled
	runFailed
	runRefused
)

func newSharedRun(f idempotency.Fingerprint) *sharedRun {
	return &sharedRun{fingerprint: f, ended: make(chan struct{})}
}

// sharedRuns are the runs that are open. The zero value has none.
type sharedRuns struct {
	mu   sync.Mutex
	byID map[idempotency.ID]*sharedRun
}

// enter returns the open run of a write, or one for the caller to make.
func (s *sharedRuns) enter(c *idempotency.Claim) (run *sharedRun, mine bool) {
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

// take reports whether the caller is the one to make a run. If no other call has come in
// between, later calls wait for it, too.
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

// join waits for the run of another call, if there is one. Without an error, the call is
// to ask the store; and if c.shared is set, others wait for that.
func (c *claim) join() error {
	run, mine := c.runs.enter(&c.claim)
	for failures := 0; !mine; {
		if c.claim.Fingerprint.Differs(run.fingerprint) {
			return nil // the store says what that means
		}
		c.startWaiting()
		select {
		case <-run.ended:
		case <-c.waiting.Done():
			return c.waitedInVain()
		}
		c.waits = max(c.waits, 1)
		if run.result == runSettled {
			return nil
		}
		if run.result == runFailed {
			failures++
		}
		if run.result == runRefused || failures == 2 {
			c.became = keyShared
			c.request.downstream.copyFrom(run.downstream)
			return run.err
		}
		run = run.next
		mine = c.runs.take(c.claim.ID, run)
	}
	c.shared = run
	return nil
}

// endShared ends the run that others wait for, by what became of the call.
func (c *claim) endShared(err error) {
	if c.shared == nil {
		return
	}
	result := runGivenUp
	switch c.became {
	case keyExecuted, keyReplayed, keyJoined, keyReused, keyCorrupt:
		result = runSettled
	case keyReleased:
		result = runFailed
		if err == nil { // it has panicked, or ended its goroutine
			err = newError(codes.Internal, ReasonRunFailed, "the handler that ran for this key has panicked")
		}
	case keyNoStore, keyFull:
		result = runRefused
	}
	c.shared.downstream = &c.request.downstream
	c.runs.end(c.claim.ID, c.shared, result, err)
}
