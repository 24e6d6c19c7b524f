package redisstore

import (
	"context"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/watch"
)

// Bounds of the pauses between two looks at a record that callers wait for. ADR 0013
// compares polling with publishing the end of a run.
const (
	minLookPause = 2 * time.Millisecond
	maxLookPause = 250 * time.Millisecond
)

// Wait returns when the record may no longer be pending.
func (s *Store) Wait(ctx context.Context, id idempotency.ID) error {
	err := s.waiting.Wait(ctx, id, watch.Pace{Min: minLookPause, Max: maxLookPause}, func(ctx context.Context) (time.Duration, error) {
		ms, err := s.run(ctx, &lookScript, []string{string(s.appendKey(nil, &id))}, nil).AsInt64()
		return time.Duration(ms) * time.Millisecond, err
	})
	return wrap("wait", err)
}
