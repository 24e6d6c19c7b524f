package idempotency

import (
	"log/slog"
	"sync"
	"time"
)

// memoryRoom counts the records and bytes in a [Memory], in all and by tenant, and bounds them. It
// is safe for concurrent use.
type memoryRoom struct {
	mu      sync.Mutex
	limit   use
	used    use
	tenants map[string]*use
}

// use is the room that a store has or a tenant uses.
type use struct {
	tenant         string
	records, bytes int64
}

// fill returns how full the store, or a tenant's share of it, would be with one more record. If that
// is above 1, there is no room for the record.
func (m *memoryRoom) fill(tenant string) float64 {
	fill := m.used.fill(&m.limit)
	if tenant == "" {
		return fill
	}
	var mine use
	if t := m.tenants[tenant]; t != nil {
		mine = *t
	}
	share := use{
		records: max(1, (m.limit.records-(m.used.records-mine.records))/2),
		bytes:   max(recordBytes, (m.limit.bytes-(m.used.bytes-mine.bytes))/2),
	}
	return max(fill, mine.fill(&share))
}

func (u *use) fill(limit *use) float64 {
	return max(float64(u.records+1)/float64(limit.records), float64(u.bytes+recordBytes)/float64(limit.bytes))
}

// take reserves room for one record of a tenant, and returns how full the store then is. If that is
// above 1, there is no room, and take has reserved nothing.
func (m *memoryRoom) take(tenant string) (of *use, fill float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if fill = m.fill(tenant); fill > 1 {
		return nil, fill
	}
	if tenant != "" {
		if of = m.tenants[tenant]; of == nil {
			of = &use{tenant: tenant}
			m.tenants[tenant] = of
		}
	}
	m.add(of, 1, recordBytes)
	return of, fill
}

// grow counts the bytes that a record has grown by. They may be negative.
func (m *memoryRoom) grow(of *use, bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.add(of, 0, bytes)
}

// give returns the room of a record.
func (m *memoryRoom) give(of *use, bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.add(of, -1, -bytes)
	if of != nil && of.records == 0 {
		delete(m.tenants, of.tenant)
	}
}

func (m *memoryRoom) add(of *use, records, bytes int64) {
	m.used.records += records
	m.used.bytes += bytes
	if of != nil {
		of.records += records
		of.bytes += bytes
	}
}

// sweep drops expired records.
func (m *Memory) sweep() {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		m.purged.Add(s.drop(time.Since(m.started), 1000))
		s.mu.Unlock()
	}
}

// full returns the error of a claim for which there is no room. It looks up the time until there is
// room at most once a second, because the lookup takes some milliseconds with a million records.
func (m *Memory) full() error {
	now := time.Since(m.started)
	second := int64(now/time.Second) + 1
	if second > m.lookedUp.Swap(second) {
		first := int64(0)
		for i := range m.shards {
			s := &m.shards[i]
			s.mu.Lock()
			if due := s.soonest(); due != 0 && (first == 0 || due < first) {
				first = due
			}
			s.mu.Unlock()
		}
		m.soonest.Store(first)
	}
	return &FullError{Room: max(time.Duration(m.soonest.Load())*time.Second-now, time.Second)}
}

// warnAt is how full the store is when it logs a warning.
const warnAt = 0.8

// warn logs that there is little room, at most once an hour. It deletes expired records first.
func (m *Memory) warn(tenant string) {
	hour := int64(time.Since(m.started)/time.Hour) + 1
	if m.warned.Load() == hour {
		return
	}
	m.sweep()
	m.room.mu.Lock()
	fill := m.room.fill(tenant)
	m.room.mu.Unlock()
	if fill <= warnAt || m.warned.Swap(hour) == hour {
		return
	}
	logger := m.logger
	if logger == nil {
		logger = slog.Default()
	}
	logger.Warn("hopbound: the idempotency store in memory is nearly full, and refuses new keys when it is full", "tenant", tenant,
		"percent", int(100*fill), "max_records", m.room.limit.records, "max_bytes", m.room.limit.bytes)
}
