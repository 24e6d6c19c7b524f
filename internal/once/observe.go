package once

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/cache"
	"github.com/hopbound/hopbound/internal/hoperr"
	"github.com/hopbound/hopbound/internal/telemetry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// observe runs the handler of a call that is only observed. A write runs each time it arrives, as it
// would without Hopbound. If the store has transactions, the handler can get one. Telemetry counts
// what an enforcing server would have done.
func (s *Server) observe(call *Call, req any, handler grpc.UnaryHandler) (any, error) {
	r := call.Request
	r.WouldRun = call.KeyExpected || r.MetadataKey() != ""
	if call.Method == nil {
		return handler(r, req)
	}
	key, rejected := readKey(call, req)
	if rejected != nil {
		r.Telemetry.Rejected(r, rejected.reason)
	}
	r.Key = key
	r.WouldRun = r.WouldRun || key != ""
	run := func() (any, error) { return handler(r, req) }
	if s.transactor != nil && (r.WouldRun || rejected != nil) {
		run = func() (any, error) { return s.observeTransaction(call, req, handler) }
	}
	if key == "" || call.KeyExpected { // then the key, if there is one, is that of the caller's own request
		return run()
	}
	c := claim{server: s, call: call, key: key}
	return c.observe(req, run)
}

// observeTransaction runs the handler with a transaction, which is committed if the handler
// succeeds.
func (s *Server) observeTransaction(call *Call, req any, handler grpc.UnaryHandler) (reply any, err error) {
	failed := s.transactor.Observe(call.Request, func(ctx context.Context) bool {
		reply, err = handler(ctx, req)
		return err == nil
	})
	switch {
	case failed == nil || err != nil:
		return reply, err
	case errors.Is(failed, idempotency.ErrOutcomeUnknown):
		return nil, hoperr.New(codes.Unavailable, hoperr.OutcomeUnknown, "the handler ran, and it is unknown whether its transaction was committed")
	default:
		return nil, hoperr.New(codes.Unavailable, hoperr.StoreUnavailable, "the transaction of the call was not committed")
	}
}

// observe runs a write, and counts what an enforcing server would have done.
func (c *claim) observe(req any, run func() (any, error)) (reply any, err error) {
	defer c.record()
	r := c.call.Request
	if c.prepare(req) != nil {
		c.outcome = unsupported
		r.Telemetry.Rejected(r, hoperr.KeyUnsupported)
		return run()
	}
	c.outcome = c.server.sightings.begin(&c.claim)
	switch c.outcome { //nolint:exhaustive // a sighting has no other
	case "":
		c.outcome = telemetry.KeyReleased // if the handler panics
		stored := false
		defer func() { c.server.sightings.end(&c.claim, stored) }()
		if reply, err = run(); c.call.Method.stores(err) {
			c.outcome, stored = telemetry.KeyExecuted, true
		}
		return reply, err
	case telemetry.KeyReused:
		r.Telemetry.Rejected(r, hoperr.KeyReused)
	}
	return run()
}

// sightings are the keys that a server has observed recently. Other servers may have observed the
// same keys, so a server counts only some of the calls whose outcome would have been replayed.
type sightings struct {
	mu   sync.Mutex
	keys *cache.LRU[idempotency.ID, *sighting]
}

// maxSightings is how many keys a server remembers, at about 200 bytes each.
const maxSightings = 16384

// sighting is one key. A call with the key is running, or has run and its outcome would have been
// stored, or neither.
type sighting struct {
	fingerprint idempotency.Fingerprint
	running     bool
	storedUntil time.Time
}

func newSightings() *sightings {
	return &sightings{keys: cache.NewLRU[idempotency.ID, *sighting](maxSightings)}
}

// begin returns the outcome that a call would have had without running. If the call would have run,
// begin returns "", and end must follow.
func (s *sightings) begin(c *idempotency.Claim) telemetry.KeyOutcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.keys.Get(c.ID, func() *sighting { return &sighting{fingerprint: c.Fingerprint} })
	stored := time.Now().Before(seen.storedUntil)
	switch {
	case (seen.running || stored) && seen.fingerprint.Differs(c.Fingerprint):
		return telemetry.KeyReused
	case seen.running:
		return telemetry.KeyJoined
	case stored:
		return telemetry.KeyReplayed
	}
	seen.fingerprint, seen.running = c.Fingerprint, true
	return ""
}

// end ends a call that has run. The argument stored says that its outcome would have been stored.
func (s *sightings) end(c *idempotency.Claim, stored bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.keys.Get(c.ID, func() *sighting { return &sighting{fingerprint: c.Fingerprint} })
	seen.running = false
	if stored {
		seen.storedUntil = time.Now().Add(c.Retention)
	}
}
