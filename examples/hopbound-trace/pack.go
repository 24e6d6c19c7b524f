package main

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// texts numbers texts, so that each is kept once.
type texts struct {
	list    []string
	numbers map[string]uint32
}

// number returns the number of a text.
func (t *texts) number(text string) uint32 {
	n, ok := t.numbers[text]
	if !ok {
		if t.numbers == nil {
			t.numbers = map[string]uint32{}
		}
		n = uint32(len(t.list)) //nolint:gosec // there is less room
		t.list = append(t.list, text)
		t.numbers[text] = n
	}
	return n
}

// textSize estimates the bytes that a numbered text needs besides its own.
const textSize = 80

// maxNumbered is the number of texts that packed spans refer to by number. Most spans have the same few texts, and
// texts that come later are kept in each span.
const maxNumbered = 1 << 14

// packer packs spans into bytes. Two spans have the same bytes if they are equal, but for their trace and service.
type packer struct {
	texts texts
	size  int // estimated bytes of the texts
	keys  []string
}

func (p *packer) text(to []byte, text string) []byte {
	n, ok := p.texts.numbers[text]
	switch {
	case ok:
	case len(p.texts.list) < maxNumbered:
		n = p.texts.number(text)
		p.size += textSize + len(text)
	default:
		to = binary.AppendUvarint(append(to, 0), uint64(len(text)))
		return append(to, text...)
	}
	return binary.AppendUvarint(to, uint64(n)+1)
}

// The kinds of an attribute's value.
const (
	packedText = iota
	packedInt
	packedFloat
	packedFalse
	packedTrue
)

// The bits of a packed span's first byte. The lowest ones are its kind.
const (
	kindBits  = 0b0011
	failedBit = 0b0100
	parentBit = 0b1000
)

// pack appends the bytes of a span.
func (p *packer) pack(to []byte, s *tree.Span) []byte {
	flags := byte(s.Kind) & kindBits //nolint:gosec // there are three kinds
	if s.Failed {
		flags |= failedBit
	}
	if s.Parent != "" {
		flags |= parentBit
	}
	to = binary.LittleEndian.AppendUint64(append(to, flags), idNumber(s.ID))
	if s.Parent != "" {
		to = binary.LittleEndian.AppendUint64(to, idNumber(s.Parent))
	}
	to = binary.LittleEndian.AppendUint64(to, uint64(s.Began.UnixNano()))
	to = binary.AppendVarint(to, s.Ended.UnixNano()-s.Began.UnixNano())
	to = p.text(p.text(to, s.Name), s.Message)
	to = p.attributes(to, s.Attributes)
	to = binary.AppendUvarint(to, uint64(len(s.Events)))
	for _, e := range s.Events {
		to = binary.AppendVarint(p.text(to, e.Name), e.At.UnixNano())
		to = p.attributes(to, e.Attributes)
	}
	return to
}

func (p *packer) attributes(to []byte, attributes map[string]any) []byte {
	to = binary.AppendUvarint(to, uint64(len(attributes)))
	p.keys = slices.AppendSeq(p.keys[:0], maps.Keys(attributes))
	slices.Sort(p.keys)
	for _, key := range p.keys {
		to = p.text(to, key)
		switch value := attributes[key].(type) {
		case string:
			to = p.text(append(to, packedText), value)
		case int64:
			to = binary.AppendVarint(append(to, packedInt), value)
		case float64:
			to = binary.LittleEndian.AppendUint64(append(to, packedFloat), math.Float64bits(value))
		case bool:
			if value {
				to = append(to, packedTrue)
			} else {
				to = append(to, packedFalse)
			}
		}
	}
	return to
}

// idNumber returns the number of a span's id, which is hexadecimal.
func idNumber(id string) uint64 {
	n, _ := strconv.ParseUint(id, 16, 64)
	return n
}

func idText(n uint64) string {
	const digits = "0123456789abcdef"
	var text [16]byte
	for i := range text {
		text[i] = digits[n>>(60-4*i)&0xf]
	}
	return string(text[:])
}

// unpacker reads packed spans.
type unpacker struct {
	list []string // the numbered texts
	rest []byte
}

// unpack returns the span with the given bytes.
func (u *unpacker) unpack(packed []byte) *tree.Span {
	u.rest = packed[1:]
	flags := packed[0]
	s := &tree.Span{Kind: tree.Kind(flags & kindBits), Failed: flags&failedBit != 0, ID: idText(u.fixed())}
	if flags&parentBit != 0 {
		s.Parent = idText(u.fixed())
	}
	began := int64(u.fixed()) //nolint:gosec // it was written as it is read
	s.Began, s.Ended = time.Unix(0, began), time.Unix(0, began+u.varint())
	s.Name, s.Message = u.text(), u.text()
	s.Attributes = u.attributes()
	for range u.uvarint() {
		name, at := u.text(), u.varint()
		s.Events = append(s.Events, tree.Event{Name: name, At: time.Unix(0, at), Attributes: u.attributes()})
	}
	return s
}

func (u *unpacker) attributes() map[string]any {
	n := u.uvarint()
	if n == 0 {
		return nil
	}
	attributes := make(map[string]any, n)
	for range n {
		key, kind := u.text(), u.rest[0]
		u.rest = u.rest[1:]
		switch kind {
		case packedText:
			attributes[key] = u.text()
		case packedInt:
			attributes[key] = u.varint()
		case packedFloat:
			attributes[key] = math.Float64frombits(u.fixed())
		default:
			attributes[key] = kind == packedTrue
		}
	}
	return attributes
}

func (u *unpacker) text() string {
	n := u.uvarint()
	if n > 0 {
		return u.list[n-1]
	}
	size := u.uvarint()
	text := string(u.rest[:size])
	u.rest = u.rest[size:]
	return text
}

func (u *unpacker) fixed() uint64 {
	n := binary.LittleEndian.Uint64(u.rest)
	u.rest = u.rest[8:]
	return n
}

func (u *unpacker) uvarint() uint64 {
	n, size := binary.Uvarint(u.rest)
	u.rest = u.rest[size:]
	return n
}

func (u *unpacker) varint() int64 {
	n, size := binary.Varint(u.rest)
	u.rest = u.rest[size:]
	return n
}
