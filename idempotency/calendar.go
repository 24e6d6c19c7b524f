package idempotency

import "time"

// slot is the place of a record in a slab. The zero value is none.
type slot uint32

const none slot = 0

// slab keeps records in chunks, which are used again and not given back. A chunk is
// so large that Go gives it pages of its own, and its records lie on cache lines.
type slab struct {
	used   slot // how many have ever been used
	unused slot // the first that is free again; the others come after it
	chunks []*[chunkLen]memoryRecord
}

const chunkLen = 256

// at returns the record in a slot.
func (s *slab) at(at slot) *memoryRecord {
	i := at - 1
	return &s.chunks[i/chunkLen][i%chunkLen]
}

// take returns a slot, whose record has neither an outcome nor anybody who waits.
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

// free empties a slot for whose record nobody waits: its outcome is let go.
func (s *slab) free(at slot) {
	r := s.at(at)
	r.outcome = nil
	r.after = s.unused
	s.unused = at
}

// instant is a time of the store's, in units of near.
type instant int64

// How exactly it is known when a record is due: to near within the next minute,
// and later to far, so that there are few pages however many records there are.
const (
	near    = 8 * time.Millisecond
	far     = 128 * near
	horizon = time.Minute
)

// instantOf returns the instant at which a record is dropped that is due at t,
// and no earlier than that.
func instantOf(t, now time.Duration) instant {
	i := instant((t + near - 1) / near)
	if t-now > horizon {
		const instants = instant(far / near)
		i = (i + instants - 1) / instants * instants
	}
	return i
}

// calendar has a page for each instant at which records are due, and on it these
// records, in a ring. To put a record on a page, or to take it off, takes the
// same time however many there are.
type calendar struct {
	pages  []page
	unused []int32 // pages
	known  map[instant]int32
	recent [recentPages]int32 // pages that were asked for last, as most are again
	order  []int32            // a heap of pages
}

type page struct {
	at    instant // noInstant if it is unused
	first slot    // of the ring, or none if all were taken off
}

const noInstant instant = -1

const recentPages = 8 // a power of two

func newCalendar() calendar { return calendar{known: map[instant]int32{}} }

// page returns the page of an instant.
func (c *calendar) page(at instant) int32 {
	recent := &c.recent[(at^at>>7)&(recentPages-1)] // those that are far are multiples of 128
	if i := *recent; int(i) < len(c.pages) && c.pages[i].at == at {
		return i
	}
	i, ok := c.known[at]
	if !ok {
		i = c.turn(at)
	}
	*recent = i
	return i
}

// turn begins a page.
func (c *calendar) turn(at instant) int32 {
	var i int32
	if last := len(c.unused) - 1; last >= 0 {
		i = c.unused[last]
		c.unused = c.unused[:last]
	} else {
		i = int32(len(c.pages)) //nolint:gosec // there are as many as instants in some years
		c.pages = append(c.pages, page{})
	}
	c.pages[i] = page{at: at}
	c.known[at] = i
	c.push(i)
	return i
}

// add puts the record in a slot on the page of an instant.
func (c *calendar) add(s *slab, at slot, due instant) {
	r := s.at(at)
	r.page, r.before, r.after = c.page(due), at, at
	p := &c.pages[r.page]
	if p.first == none {
		p.first = at
		return
	}
	head := s.at(p.first)
	last := s.at(head.before)
	r.before, r.after = head.before, p.first
	last.after, head.before = at, at
}

// remove takes a record off its page, and returns its slot.
func (c *calendar) remove(s *slab, r *memoryRecord) slot {
	before, after := s.at(r.before), s.at(r.after)
	at := before.after
	before.after, after.before = r.after, r.before
	switch p := &c.pages[r.page]; {
	case r.after == at: // it was alone
		p.first = none
	case p.first == at:
		p.first = r.after
	}
	r.before, r.after = none, none
	return at
}

// first returns a record that is due, or none.
func (c *calendar) first(now time.Duration) slot {
	for len(c.order) > 0 {
		i := c.order[0]
		p := &c.pages[i]
		switch {
		case p.at > instant(now/near):
			return none
		case p.first != none:
			return p.first
		}
		delete(c.known, p.at)
		p.at = noInstant
		c.unused = append(c.unused, i)
		c.pop()
	}
	return none
}

func (c *calendar) earlier(a, b int) bool { return c.pages[c.order[a]].at < c.pages[c.order[b]].at }

func (c *calendar) push(p int32) {
	c.order = append(c.order, p)
	for i := len(c.order) - 1; i > 0; {
		parent := (i - 1) / 2
		if !c.earlier(i, parent) {
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
			if child < last && c.earlier(child, least) {
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
