package redisstore

import (
	"context"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/watch"
)

// How often a record that is waited for is looked at, by one of all who wait for
// it in a process. See ADR 0013 for what publishing its end would bring.
const (
	leastLook = 2 * time.Millisecond
	mostLook  = 250 * time.Millisecond
)

// Wait returns when the record may no longer be pending.
func (s *Store) Wait(ctx context.Context, id idempotency.ID) error {
	err := s.waiting.Wait(ctx, id, watch.Pace{Min: leastLook, Max: mostLook}, func(ctx context.Context) (time.Duration, error) {
		ms, err := s.run(ctx, &lookScript, []string{string(s.appendKey(nil, &id))}, nil).AsInt64()
		return time.Duration(ms) * time.Millisecond, err
	})
	return wrap("wait", err)
}
