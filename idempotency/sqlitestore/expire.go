package sqlitestore

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// batch is how many records one transaction deletes, so that no writer waits for long.
const batch = 500

// Expire deletes expired records, in small transactions, until there are none or ctx ends. It
// returns how many it has deleted.
func (s *Store) Expire(ctx context.Context) (int64, error) {
	const query = "DELETE FROM hopbound_idempotency WHERE id IN (SELECT id FROM hopbound_idempotency WHERE until + keep <= ? LIMIT ?)"
	for all := int64(0); ; {
		var deleted int64
		err := s.step(ctx, "expire", idempotency.ID{}, func(w *writer) error {
			result, err := w.conn.ExecContext(ctx, query, w.now, batch)
			if err == nil {
				deleted, err = result.RowsAffected()
			}
			return err
		})
		if err != nil {
			return all, err
		}
		all += deleted
		s.purged.Add(deleted)
		if deleted < batch {
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
		// But the file grows.
		if _, err := s.Expire(ctx); err != nil && ctx.Err() == nil {
			s.purgeFailures.Add(1)
			s.log().WarnContext(ctx, "hopbound: deleting expired idempotency records has failed; the file grows until it succeeds", "error", err)
		}
	}
}

// Stats returns how many expired records this process has deleted, and how often that failed.
func (s *Store) Stats() idempotency.Stats {
	return idempotency.Stats{Purged: s.purged.Load(), PurgeFailures: s.purgeFailures.Load()}
}
