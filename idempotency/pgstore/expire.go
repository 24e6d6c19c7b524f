package pgstore

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// batch is how many records are deleted at once, so that no lock is held for
// long.
const batch = 500

// Expire deletes records whose retention has ended, in small batches that leave
// alone what is locked, until there are none or ctx ends, and returns how many.
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

func (s *Store) keepExpiring(ctx context.Context) {
	for {
		pause := time.NewTimer(s.expireEvery/2 + rand.N(s.expireEvery)) //nolint:gosec // jitter need not be secret
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
		// Those who ask for an expired key see that it is, whether it is deleted or
		// not, so that a failure is only to be tried again. But the table grows.
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
