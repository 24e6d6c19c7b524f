package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// tally counts names, of which a file may have any number.
type tally struct {
	counts map[string]int
	others int // of names beyond the first maxTallied
}

const (
	// maxTallied is the number of names that a tally counts one by one.
	maxTallied = 256
	// maxListed is the number of names that a tally lists. Hopbound has fewer decisions.
	maxListed = 16
)

func (t *tally) add(name string) {
	if _, ok := t.counts[name]; !ok && len(t.counts) == maxTallied {
		t.others++
		return
	}
	if t.counts == nil {
		t.counts = map[string]int{}
	}
	t.counts[name]++
}

// String lists the names with their counts, the most frequent first.
func (t *tally) String() string {
	names := slices.SortedFunc(maps.Keys(t.counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(t.counts[b], t.counts[a]), cmp.Compare(a, b))
	})
	others := t.others
	for i, name := range names {
		if i >= maxListed {
			others += t.counts[name]
			continue
		}
		names[i] = fmt.Sprintf("%s %d", name, t.counts[name])
	}
	names = names[:min(len(names), maxListed)]
	if others > 0 {
		names = append(names, fmt.Sprintf("others %d", others))
	}
	return cmp.Or(strings.Join(names, ", "), "–")
}
