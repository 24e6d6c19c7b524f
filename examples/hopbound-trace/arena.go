package main

import "encoding/binary"

// arena keeps the bytes of packed spans. It has no pointers into them, so that the garbage collector has little to
// do, and it never copies them.
type arena struct{ chunks [][]byte }

// place is where a packed span begins in an arena. The zero value is no place.
type place uint32

const (
	chunkBits = 20
	chunkSize = 1 << chunkBits
	maxChunks = 1<<(32-chunkBits) - 1
)

// header is what comes before the bytes of a packed span. It can be changed later.
type header struct {
	next    place  // the next span of the request
	service uint32 // its index
	size    uint32 // bytes of the packed span
}

const headerSize = 12

// add adds the bytes of a span. It returns false if the arena is full.
func (a *arena) add(h header, packed []byte) (place, bool) {
	size := headerSize + len(packed)
	last := len(a.chunks) - 1
	if last < 0 || len(a.chunks[last])+size > cap(a.chunks[last]) {
		if len(a.chunks) == maxChunks {
			return 0, false
		}
		a.chunks = append(a.chunks, make([]byte, 0, max(chunkSize, size)))
		last++
	}
	chunk := a.chunks[last]
	at := len(chunk)
	chunk = append(chunk, make([]byte, headerSize)...)
	a.chunks[last] = append(chunk, packed...)
	p := place((last+1)<<chunkBits | at) //nolint:gosec // there are at most maxChunks chunks
	h.size = uint32(len(packed))         //nolint:gosec // a span has less than limits.value bytes
	a.setHeader(p, h)
	return p, true
}

func (a *arena) at(p place) []byte { return a.chunks[p>>chunkBits-1][p&(chunkSize-1):] }

func (a *arena) header(p place) header {
	b := a.at(p)
	return header{
		next:    place(binary.LittleEndian.Uint32(b)),
		service: binary.LittleEndian.Uint32(b[4:]),
		size:    binary.LittleEndian.Uint32(b[8:]),
	}
}

func (a *arena) setHeader(p place, h header) {
	b := a.at(p)
	binary.LittleEndian.PutUint32(b, uint32(h.next))
	binary.LittleEndian.PutUint32(b[4:], h.service)
	binary.LittleEndian.PutUint32(b[8:], h.size)
}

// packed returns the bytes of a span.
func (a *arena) packed(p place) []byte { return a.at(p)[headerSize:][:a.header(p).size] }

// end returns the place after the last span: the next span will be there, or at the beginning of a new chunk.
func (a *arena) end() place {
	last := len(a.chunks) - 1
	if last < 0 {
		return 1 << chunkBits
	}
	return place((last+1)<<chunkBits + min(len(a.chunks[last]), chunkSize)) //nolint:gosec // there are at most maxChunks chunks
}

// each calls visit for each span that was added since end returned from.
func (a *arena) each(from place, visit func(place)) {
	for chunk, at := int(from>>chunkBits)-1, int(from&(chunkSize-1)); chunk < len(a.chunks); chunk, at = chunk+1, 0 {
		for at < len(a.chunks[chunk]) {
			p := place((chunk+1)<<chunkBits | at) //nolint:gosec // as above
			visit(p)
			at += headerSize + int(a.header(p).size)
		}
	}
}
