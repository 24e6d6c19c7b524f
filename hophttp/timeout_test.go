package hophttp

import (
	"math"
	"testing"
	"time"
)

// A timeout that is sent is read as the same, or as slightly longer because of the units.
func FuzzTimeout(f *testing.F) {
	for _, d := range []time.Duration{math.MinInt64, -1, 0, 1, time.Millisecond, 99_999_999 * time.Microsecond, 100 * time.Second, time.Hour, math.MaxInt64} {
		f.Add(int64(d), "1S")
	}
	f.Fuzz(func(t *testing.T, n int64, value string) {
		const century = 876_000 * time.Hour // near the longest duration, a whole hour has no room
		d := min(time.Duration(n), century)
		sent := formatTimeout(d)
		got, ok := parseTimeout(sent)
		if d = max(d, time.Microsecond); !ok || got < d || got-d > time.Microsecond && got-d > d/10_000 {
			t.Errorf("%v is sent as %q and read as %v, %v", d, sent, got, ok)
		}
		if got, ok := parseTimeout(value); got < 0 || !ok && got != 0 {
			t.Errorf("%q is read as %v, %v", value, got, ok)
		}
	})
}
