package sqlitestore

// SetClock replaces the machine's clock, in nanoseconds since 1970.
func (s *Store) SetClock(wall func() int64) { s.wall = wall }
