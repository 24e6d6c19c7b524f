package pgstore

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// batch is how many records are deleted at once, so that no lock is held for long.
const batch = 500

// Expire deletes expired records until there are none or ctx ends, and returns how many it has deleted.
// It deletes them in small batches, and skips those that are locked.
func (s *Store) Expire(ctx context.Context) (int64, error) {
	var all int64
	for {
		tag, err := s.own.Exec(ctx, s.sql.expire, batch)
		if err != nil {
			return all, wrap("expire", err)
		}
		all += tag.RowsAffected()
		s.purged.Add(tag.RowsAffected())
		if tag.RowsAffected() < batch {
			return all, nil
		}
	}
}

func (s *Store) expireRegularly(ctx context.Context) {
	for {
		pause := time.NewTimer(s.expireEvery/2 + rand.N(s.expireEvery)) //nolint:gosec // jitter need not be secret
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
		// No step takes an expired record for a valid one, so that a failure does no harm at once.
		// But the table grows.
		if _, err := s.Expire(ctx); err != nil && ctx.Err() == nil {
			s.purgeFailures.Add(1)
			s.log().WarnContext(ctx, "hopbound: deleting expired idempotency records has failed; the table grows until it succeeds", "error", err)
		}
	}
}

// Stats returns how many expired records this process has deleted, and how often that failed.
func (s *Store) Stats() idempotency.Stats {
	return idempotency.Stats{Purged: s.purged.Load(), PurgeFailures: s.purgeFailures.Load()}
}
