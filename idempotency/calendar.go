package idempotency

import "time"

// slot is the place of a record in a slab. The zero value is none.
type slot uint32

const none slot = 0

// slab keeps records in chunks, which are used again and not given back.
type slab struct {
	chunks []*[chunkLen]memoryRecord
	used   slot // how many have ever been used
	unused slot // the first that is free again; the others come after it
}

const chunkLen = 64

// at returns the record in a slot.
func (s *slab) at(at slot) *memoryRecord {
	i := at - 1
	return &s.chunks[i/chunkLen][i%chunkLen]
}

// take returns a slot with a record that is the zero one but for what every claim
// sets.
func (s *slab) take() slot {
	if at := s.unused; at != none {
		s.unused = s.at(at).after
		return at
	}
	if int(s.used) == len(s.chunks)*chunkLen {
		s.chunks = append(s.chunks, new([chunkLen]memoryRecord))
	}
	s.used++
	return s.used
}

// free empties a slot: what it refers to is let go.
func (s *slab) free(at slot) {
	r := s.at(at)
	r.owner, r.outcome, r.changed, r.fingerprint.Schema, r.done = "", nil, nil, "", false
	r.after = s.unused
	s.unused = at
}

// page is an instant of the store's time, in units of near.
type page int64

// How exactly it is known when a record is due: to near within the next minute,
// and later to far, so that there are few pages however many records there are.
const (
	near    = 8 * time.Millisecond
	far     = 128 * near
	horizon = time.Minute
)

// pageOf returns the page of a time, which is no earlier than the time.
func pageOf(t, now time.Duration) page {
	p := page((t + near - 1) / near)
	if t-now > horizon {
		const pages = page(far / near)
		p = (p + pages - 1) / pages * pages
	}
	return p
}

// calendar has a page for each instant at which records are due, and on it these
// records, in a ring. To put a record on a page, or to take it off, takes the
// same time however many there are.
type calendar struct {
	pages map[page]slot // the first of each ring, or none if all were taken off
	order []page        // a heap of them
}

// add puts the record in a slot on a page.
func (c *calendar) add(s *slab, at slot, p page) {
	r := s.at(at)
	r.page, r.before, r.after = p, at, at
	first, known := c.pages[p]
	if !known {
		c.push(p)
	}
	if first == none {
		c.pages[p] = at
		return
	}
	head := s.at(first)
	last := s.at(head.before)
	r.before, r.after = head.before, first
	last.after, head.before = at, at
}

// remove takes a record off its page, and returns its slot.
func (c *calendar) remove(s *slab, r *memoryRecord) slot {
	before, after := s.at(r.before), s.at(r.after)
	at := before.after
	before.after, after.before = r.after, r.before
	switch {
	case r.after == at: // it was alone
		c.pages[r.page] = none
	case c.pages[r.page] == at:
		c.pages[r.page] = r.after
	}
	r.before, r.after = none, none
	return at
}

// first returns a record that is due, or none.
func (c *calendar) first(now time.Duration) slot {
	for len(c.order) > 0 && c.order[0] <= page(now/near) {
		if at := c.pages[c.order[0]]; at != none {
			return at
		}
		delete(c.pages, c.order[0])
		c.pop()
	}
	return none
}

func (c *calendar) push(p page) {
	c.order = append(c.order, p)
	for i := len(c.order) - 1; i > 0; {
		parent := (i - 1) / 2
		if c.order[parent] <= c.order[i] {
			return
		}
		c.order[i], c.order[parent] = c.order[parent], c.order[i]
		i = parent
	}
}

// pop drops the earliest page from the heap.
func (c *calendar) pop() {
	last := len(c.order) - 1
	c.order[0] = c.order[last]
	c.order = c.order[:last]
	for i := 0; ; {
		least := i
		for _, child := range [...]int{2*i + 1, 2*i + 2} {
			if child < last && c.order[child] < c.order[least] {
				least = child
			}
		}
		if least == i {
			return
		}
		c.order[i], c.order[least] = c.order[least], c.order[i]
		i = least
	}
}
