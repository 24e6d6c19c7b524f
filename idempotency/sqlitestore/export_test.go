package sqlitestore

import "time"

// SetClock replaces the machine's clock, since the beginning of 1970.
func (s *Store) SetClock(wall func() time.Duration) { s.wall = wall }
