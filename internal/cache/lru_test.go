package cache_test

import (
	"slices"
	"testing"

	"github.com/hopbound/hopbound/internal/cache"
)

func TestFullCacheDropsTheEntryUsedLeastRecently(t *testing.T) {
	t.Parallel()
	c := cache.NewLRU[string, int](2)
	made := 0
	get := func(key string) int {
		return c.Get(key, func() int { made++; return made })
	}
	get("a")
	get("b")
	get("a")
	get("c") // drops b
	if got := slices.Collect(c.Values()); !slices.Equal(got, []int{3, 1}) {
		t.Errorf("values %v, want those of c and a", got)
	}
	if _, ok := c.Peek("b"); ok {
		t.Error("b is still there")
	}
	if v, ok := c.Peek("a"); !ok || v != 1 {
		t.Errorf("a is %d, %v; want 1", v, ok)
	}
	if got := get("b"); got != 4 {
		t.Errorf("b is %d, want a new value", got)
	}
}

func TestCacheHasRoomForOneEntryAtLeast(t *testing.T) {
	t.Parallel()
	c := cache.NewLRU[int, int](-1)
	if got := c.Get(1, func() int { return 7 }); got != 7 {
		t.Errorf("got %d, want 7", got)
	}
	if v, ok := c.Peek(1); !ok || v != 7 {
		t.Errorf("got %d, %v; want 7", v, ok)
	}
}
