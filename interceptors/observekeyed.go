package interceptors

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/lru"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// observe runs the handler of a call that is only observed. A write runs each time it
// arrives, as it would without Hopbound, but finds its transaction if the store has
// one for it. What a server that enforces would have done is counted.
func (in *incoming) observe(req any, handler grpc.UnaryHandler) (any, error) {
	in.request.wouldRun = in.keyExpected || in.request.headerKey() != ""
	m := in.method.keyed
	if m == nil {
		return handler(&in.request, req)
	}
	key, reason, invalid := in.readKey(m, req)
	if invalid != nil {
		in.refused(&in.request, reason)
	}
	in.request.key = key
	in.request.wouldRun = in.request.wouldRun || key != ""
	run := func() (any, error) { return handler(&in.request, req) }
	if in.transactor != nil && (in.request.wouldRun || invalid != nil) {
		run = func() (any, error) { return in.observeTransaction(req, handler) }
	}
	if key == "" || in.keyExpected { // the key, if there is one, is that of the caller's own request
		return run()
	}
	c := claim{incoming: in, m: m, key: key}
	return c.observe(req, run)
}

// observeTransaction runs the handler with a transaction to find, which is committed
// if the handler succeeds.
func (in *incoming) observeTransaction(req any, handler grpc.UnaryHandler) (reply any, err error) {
	failed := in.transactor.Observe(&in.request, func(ctx context.Context) bool {
		reply, err = handler(ctx, req)
		return err == nil
	})
	switch {
	case failed == nil || err != nil:
		return reply, err
	case errors.Is(failed, idempotency.ErrOutcomeUnknown):
		return nil, newError(codes.Unavailable, ReasonOutcomeUnknown, "the handler ran, and it is not known whether its transaction was committed")
	default:
		return nil, newError(codes.Unavailable, ReasonStoreUnavailable, "the transaction of the call was not committed")
	}
}

// observe runs a write, and counts what would have become of it: whether it would have
// been refused, or answered with the outcome of an earlier call.
func (c *claim) observe(req any, run func() (any, error)) (reply any, err error) {
	defer c.tell()
	if unsupported := c.prepare(req); unsupported != nil {
		c.became = keyUnsupported
		c.incoming.refused(&c.request, ReasonKeyUnsupported)
		return run()
	}
	c.became = c.sightings.begin(&c.claim)
	switch c.became {
	case "":
		c.became = keyReleased // if it panics
		kept := false
		defer func() { c.sightings.end(&c.claim, kept) }()
		if reply, err = run(); c.m.keeps(err) {
			c.became, kept = keyExecuted, true
		}
		return reply, err
	case keyReused:
		c.incoming.refused(&c.request, ReasonKeyReused)
	}
	return run()
}

// sightings are the keys that a server has observed last. Other servers may have seen
// the same keys, so that a server counts only some of the calls whose outcome would
// have been replayed.
type sightings struct {
	mu   sync.Mutex
	keys *lru.Cache[idempotency.ID, *sighting]
}

// sightingLimit is how many keys a server that observes remembers, at about 200 bytes
// each.
const sightingLimit = 16384

// sighting is one key: a call with it runs, or has run and its outcome would have been
// stored, or neither.
type sighting struct {
	fingerprint idempotency.Fingerprint
	running     bool
	keptUntil   time.Time
}

func newSightings() *sightings {
	return &sightings{keys: lru.New[idempotency.ID, *sighting](sightingLimit)}
}

// begin returns what would have become of a call, or "" if it would have run. Then end
// must follow.
func (s *sightings) begin(c *idempotency.Claim) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.keys.Get(c.ID, func() *sighting { return &sighting{fingerprint: c.Fingerprint} })
	kept := time.Now().Before(seen.keptUntil)
	switch {
	case (seen.running || kept) && seen.fingerprint.Differs(c.Fingerprint):
		return keyReused
	case seen.running:
		return keyJoined
	case kept:
		return keyReplayed
	}
	seen.fingerprint, seen.running = c.Fingerprint, true
	return ""
}

// end ends a call that has run.
func (s *sightings) end(c *idempotency.Claim, kept bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.keys.Get(c.ID, func() *sighting { return &sighting{fingerprint: c.Fingerprint} })
	seen.running = false
	if kept {
		seen.keptUntil = time.Now().Add(c.Retention)
	}
}
