package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// anySpan returns a span with random contents.
func anySpan(random *rand.Rand) *tree.Span {
	text := func() string { return strings.Repeat("é", random.IntN(3)) + strconv.Itoa(random.IntN(5)) }
	attributes := func() map[string]any {
		var all map[string]any
		for range random.IntN(5) {
			if all == nil {
				all = map[string]any{}
			}
			all[text()] = []any{text(), int64(random.Uint64()), random.NormFloat64(), true, false}[random.IntN(5)]
		}
		return all
	}
	s := &tree.Span{
		Trace: fmt.Sprintf("%032x", random.IntN(3)+1), ID: idText(random.Uint64()), Name: text(), Service: text(), Kind: tree.Kind(random.IntN(3)),
		Began: time.Unix(0, random.Int64()), Failed: random.IntN(2) == 0, Message: text(), Attributes: attributes(),
	}
	s.Ended = s.Began.Add(time.Duration(random.IntN(1e9)))
	if random.IntN(2) == 0 {
		s.Parent = idText(random.Uint64())
	}
	for range random.IntN(3) {
		s.Events = append(s.Events, tree.Event{Name: text(), At: time.Unix(0, random.Int64()), Attributes: attributes()})
	}
	return s
}

func TestSpansComeOutOfTheStoreAsTheyWentIn(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(7, 8))
	s := newStore("", 1<<30)
	want := map[string][]*tree.Span{}
	for range 20_000 { // more than a chunk
		span := anySpan(random)
		want[span.Trace] = append(want[span.Trace], span)
		mark := s.mark()
		if err := s.add(span); err != nil {
			t.Fatal(err)
		}
		if random.IntN(3) == 0 {
			name := "renamed " + span.Service
			span.Service = name
			s.rename(mark, func(string) string { return name })
		}
		if err := s.add(span); err != nil { // again
			t.Fatal(err)
		}
		other := *span
		other.Name += "!"
		if err := s.add(&other); err != errOtherID { //nolint:errorlint // as it is
			t.Fatal(err)
		}
	}
	if len(s.arena.chunks) < 2 {
		t.Error("the spans fit into one chunk")
	}
	for i := range s.requests {
		got, more := s.spans(&s.requests[i], 1<<40)
		if more != 0 || !reflect.DeepEqual(got, want[s.requests[i].name()]) {
			t.Errorf("request %d has other spans", i)
		}
	}
}

func TestTextsBeyondTheNumberedOnesAreKept(t *testing.T) {
	t.Parallel()
	s := newStore("", 1<<30)
	const n = 2 * maxNumbered
	for i := range n {
		if err := s.add(&tree.Span{Trace: traceID, ID: fmt.Sprintf("%016x", i+1), Name: fmt.Sprint("name ", i), Began: time.Unix(1, 0), Ended: time.Unix(2, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	spans, _ := s.spans(&s.requests[0], 1<<40)
	if len(spans) != n || len(s.packer.texts.list) != maxNumbered {
		t.Fatalf("%d spans, %d texts", len(spans), len(s.packer.texts.list))
	}
	for i, span := range spans {
		if span.Name != fmt.Sprint("name ", i) {
			t.Fatalf("span %d is %q", i, span.Name)
		}
	}
}

func TestArenaKeepsSpansOfAnySize(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(9, 10))
	var a arena
	var places []place
	var want [][]byte
	for i, size := range []int{0, chunkSize - 2*headerSize, 5, chunkSize, 3 * chunkSize, 7, chunkSize - headerSize, 1} {
		packed := make([]byte, size)
		for j := range packed {
			packed[j] = byte(random.Uint32())
		}
		mark := a.end()
		p, ok := a.add(header{service: uint32(i)}, packed)
		if !ok {
			t.Fatal("no room")
		}
		places, want = append(places, p), append(want, packed)
		var since []place
		a.each(mark, func(p place) { since = append(since, p) })
		if len(since) != 1 || since[0] != p {
			t.Errorf("span %d is at %d, and since the mark there are %d", i, p, since)
		}
	}
	for i, p := range places {
		if h := a.header(p); !bytes.Equal(a.packed(p), want[i]) || h.service != uint32(i) || h.next != 0 {
			t.Errorf("span %d has changed", i)
		}
	}
}
