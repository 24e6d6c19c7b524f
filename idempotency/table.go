package idempotency

import (
	"encoding/binary"
	"math/bits"
)

// table finds the slots of IDs: a hash table of groups of records, each of which is in
// the group that its hash names, or in a later one if that was full. A group keeps a byte
// of each hash, its tag, and apart from these the slots: an ID that is not there is told
// by the tags alone, which are small enough for the processor's cache for longest. It
// counts the records that went on to the next group, so that a search knows where to end,
// also when others were taken out. Tags are those of Abseil's Swiss tables, counts those
// of Folly's F14.
type table struct {
	tags  []tags // a power of two of them
	slots []slots
}

type tags struct {
	of     [groupLen]uint8 // 0 where there is no record
	passed uint32          // how many went on
}

type slots [groupLen]slot

// entry is what tables and calendars know of a record. The zero value is none.
type entry struct {
	at   slot
	hash uint32
}

const (
	groupLen = 12
	mostEach = 9 // how many records a group has at most, if all had as many
)

func newTable() table { return table{make([]tags, 1), make([]slots, 1)} }

// group returns the group with number i, counted around.
func (t *table) group(i uint32) (*tags, *slots) {
	at := int(i) & (len(t.tags) - 1)
	return &t.tags[at], &t.slots[at]
}

// get returns the slot of an ID with this hash, or none. It looks once at each group at most:
// there may be records that went on from all of them, each at another time.
func (t *table) get(s *slab, id *ID, hash uint32) slot {
	for n := range uint32(len(t.tags)) { //nolint:gosec // there are as many slots at most
		tags, slots := t.group(hash + n)
		for p := tags.places(tagOf(hash)); p != 0; p = p.others() {
			if at := slots[p.first()]; s.at(at).id == *id {
				return at
			}
		}
		if tags.passed == 0 {
			break
		}
	}
	return none
}

// add puts in a record whose ID is not there. There must be room.
func (t *table) add(e entry) {
	for i := e.hash; ; i++ {
		tags, slots := t.group(i)
		if tags.add(slots, e) {
			return
		}
		tags.passed++
	}
}

// remove takes out a record that is there.
func (t *table) remove(e entry) {
	for i := e.hash; ; i++ {
		tags, slots := t.group(i)
		if tags.remove(slots, e) {
			return
		}
		tags.passed--
	}
}

// fetch has the processor fetch at once what adding or removing these records needs, for
// which it would else wait one by one. What it returns means nothing.
//
//go:noinline
func (t *table) fetch(records []entry) (n uint32) { //nolint:unparam // without a result, nothing would be read
	for _, e := range records {
		tags, slots := t.group(e.hash)
		n += tags.passed + uint32(slots[0])
	}
	return n
}

// reserve makes room for n records. Those that are there are on pages of the calendar.
func (t *table) reserve(s *slab, n int) {
	if n <= mostEach*len(t.tags) {
		return
	}
	*t = table{make([]tags, 2*len(t.tags)), make([]slots, 2*len(t.tags))}
	for at := none + 1; at <= s.used; at++ { // in the order of memory
		if r := s.at(at); r.page != noPage {
			t.add(entry{at, r.hash})
		}
	}
}

// tagOf returns the tag of a hash, whose lower bits name the group.
func tagOf(hash uint32) uint8 { return max(1, uint8(hash>>24)) }

// add puts in a record, if there is room.
func (t *tags) add(slots *slots, e entry) bool {
	p := t.places(0)
	if p == 0 {
		return false
	}
	t.of[p.first()], slots[p.first()] = tagOf(e.hash), e.at
	return true
}

// remove takes out a record that is there or went on, if it is there.
func (t *tags) remove(slots *slots, e entry) bool {
	p := t.places(tagOf(e.hash))
	for p != 0 && slots[p.first()] != e.at {
		p = p.others()
	}
	if p == 0 {
		return false
	}
	t.of[p.first()] = 0
	return true
}

// places is a set of places in a group: each eighth bit is one of the first eight, and
// the bits next to these are the others.
type places uint64

// places returns where a tag is.
func (t *tags) places(tag uint8) places {
	const each = 0x01010101_01010101
	same := uint64(tag) * each
	head := zeros(binary.LittleEndian.Uint64(t.of[:8]) ^ same)
	tail := zeros(uint64(binary.LittleEndian.Uint32(t.of[8:])) ^ same)
	return places(head | tail&(each>>32)<<1)
}

// zeros returns which bytes are zero, in the lowest bit of each.
func zeros(v uint64) uint64 {
	const most = 0x7f7f7f7f_7f7f7f7f
	return ^(v&most + most | v | most) >> 7
}

func (p places) first() int {
	i := bits.TrailingZeros64(uint64(p))
	return i/8 + i%8*8
}

func (p places) others() places { return p & (p - 1) }
