package idempotency

// table finds the slots of IDs: a hash table with open addressing, whose entries
// are no larger than they must be, so that looking one up costs a cache miss and
// the record's own. A map would keep the IDs a second time.
type table struct {
	n       int
	entries []entry // a power of two of them
}

// entry is a place in the table. The hash says where it belongs.
type entry struct {
	hash uint32
	at   slot // none if it is empty
}

const leastEntries = 16

func newTable() table { return table{entries: make([]entry, leastEntries)} }

// find returns the place of an ID with this hash, or of where it is to be put.
func (t *table) find(s *slab, id *ID, hash uint32) int {
	mask := uint32(len(t.entries) - 1) //nolint:gosec // there are as many slots at most
	i := hash & mask
	for {
		e := t.entries[i]
		if e.at == none || e.hash == hash && s.at(e.at).id == *id {
			return int(i)
		}
		i = (i + 1) & mask
	}
}

// get returns the slot of an ID with this hash, or none.
func (t *table) get(s *slab, id *ID, hash uint32) slot { return t.entries[t.find(s, id, hash)].at }

// add puts in the record in a slot, whose ID is not there.
func (t *table) add(at slot, hash uint32) {
	if 4*(t.n+1) > 3*len(t.entries) {
		t.grow()
	}
	t.put(entry{hash, at})
	t.n++
}

// put puts an entry where it belongs, or behind those that are there.
func (t *table) put(e entry) {
	mask := uint32(len(t.entries) - 1) //nolint:gosec // there are as many slots at most
	i := e.hash & mask
	for t.entries[i].at != none {
		i = (i + 1) & mask
	}
	t.entries[i] = e
}

// grow doubles the table.
func (t *table) grow() {
	old := t.entries
	t.entries = make([]entry, 2*len(old))
	for _, e := range old {
		if e.at != none {
			t.put(e)
		}
	}
}

// remove takes out the record in a slot, and moves back those after it that were
// kept from where they belong.
func (t *table) remove(at slot, hash uint32) {
	mask := uint32(len(t.entries) - 1) //nolint:gosec // there are as many slots at most
	hole := hash & mask
	for t.entries[hole].at != at {
		hole = (hole + 1) & mask
	}
	for i := (hole + 1) & mask; t.entries[i].at != none; i = (i + 1) & mask {
		if home := t.entries[i].hash & mask; (i-home)&mask >= (i-hole)&mask {
			t.entries[hole] = t.entries[i]
			hole = i
		}
	}
	t.entries[hole] = entry{}
	t.n--
}
