package idempotency

import "time"

// slot is the place of a record in a slab. The zero value is none.
type slot uint32

const none slot = 0

// slab keeps records in chunks, which are used again and not given back. A chunk is
// so large that Go gives it pages of its own, and its records lie on cache lines.
type slab struct {
	chunks []*[chunkLen]memoryRecord
	used   slot // how many have ever been used
	unused slot // the first that is free again; the others come after it
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
	r.page = noPage
	r.outcome, r.changed = nil, nil
	r.after = s.unused
	s.unused = at
}

// instant is a time of the store's, in units of near.
type instant int64

// How exactly it is known when a record is due: to near within the next minute,
// and later to far, so that there are few pages however many records there are.
const (
	near    = 8 * time.Millisecond
	far     = farInstants * near
	horizon = time.Minute

	farInstants = 128
)

// instantOf returns the instant at which a record is dropped that is due at t,
// and no earlier than that.
func instantOf(t, now time.Duration) instant {
	i := instant((t + near - 1) / near)
	if t-now > horizon {
		i = (i + farInstants - 1) / farInstants * farInstants
	}
	return i
}

// calendar has a page for each instant at which records are due, and on it these
// records, in no order: each knows its place there. To put a record on a page, or to
// take it off, takes the same time however many there are, and none of the others is
// looked at: records that are due are out of the processor's cache by then.
type calendar struct {
	pages  []page
	unused []int32 // pages
	known  map[instant]int32
	recent [recentPages]int32 // pages that were asked for last, as most are again
	order  []int32            // a heap of pages
	room   [][]entry          // of pages that were near and are no more
}

type page struct {
	at      instant // noInstant if it is unused
	records []entry
}

const (
	noInstant instant = -1
	noPage    int32   = -1
)

const (
	recentPages = 8    // a power of two
	keptPages   = 16   // of how many pages room is kept
	keptOfPage  = 1024 // for how many records of each, at most
)

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
	p := &c.pages[i]
	p.at = at
	if last := len(c.room) - 1; last >= 0 && at%farInstants != 0 { // what is far may keep it for long, for few records
		p.records, c.room = c.room[last], c.room[:last]
	}
	c.known[at] = i
	c.push(i)
	return i
}

// add puts a record on the page of an instant.
func (c *calendar) add(s *slab, e entry, due instant) {
	r := s.at(e.at)
	r.page = c.page(due)
	p := &c.pages[r.page]
	r.place = uint32(len(p.records)) //nolint:gosec // there are as many slots at most
	p.records = append(p.records, e)
}

// remove takes a record off its page, whose last takes its place.
func (c *calendar) remove(s *slab, r *memoryRecord) entry {
	p := &c.pages[r.page]
	e, last := p.records[r.place], len(p.records)-1
	if moved := p.records[last]; moved != e {
		p.records[r.place] = moved
		s.at(moved.at).place = r.place
	}
	p.records = p.records[:last]
	if last < cap(p.records)/4 { // it may be long until it is due
		p.records = append([]entry(nil), p.records...)
	}
	return e
}

// take takes off records that are due, at most so many, or none if there are none.
// They are valid until the next is added.
func (c *calendar) take(now time.Duration, most int) []entry {
	for len(c.order) > 0 {
		i := c.order[0]
		p := &c.pages[i]
		if p.at > instant(now/near) {
			break
		}
		if n := len(p.records); n > 0 {
			left := max(0, n-most)
			due := p.records[left:]
			p.records = p.records[:left]
			return due
		}
		delete(c.known, p.at)
		p.at = noInstant
		if n := cap(p.records); n > 0 && n <= keptOfPage && len(c.room) < keptPages {
			c.room = append(c.room, p.records)
		}
		p.records = nil
		c.unused = append(c.unused, i)
		c.pop()
	}
	return nil
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
