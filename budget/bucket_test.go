package budget

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// moment is what had happened to a target by a time.
type moment struct {
	at        time.Time
	level     float64 // tokens in the bucket
	share     float64 // of these, for slow targets
	successes int
	extra     int // attempts that the bucket has paid for
	slow      int // of these, retries after timeouts and hedges
}

// The target bound holds over every period: between any two moments, the extra
// attempts are at most what the bucket held at the first and has earned since, and
// it never holds more than Burst or what the last second's successes have earned.
func TestTargetBoundHoldsOverEveryPeriod(t *testing.T) {
	t.Parallel()
	checkRandom(t, func(t *testing.T, rng *rand.Rand) {
		t.Helper()
		ratio := pick(rng, 0, 0.1, 0.2, 1.0/3, 0.6, 1)
		perSecond := pick(rng, 0, 0.02, 0.3, 1, 7)
		burst := rng.IntN(11)
		b := New(Ratio(ratio), MinPerSecond(perSecond), Burst(burst))
		now := moment{at: time.Unix(1_800_000_000, 0), level: float64(burst), share: float64(burst)}
		history := []moment{now}
		for range between(rng, 1, 60) {
			now.at = now.at.Add(time.Duration(rng.IntN(701)) * time.Millisecond)
			switch rng.IntN(3) {
			case 0:
				for range between(rng, 1, 40) {
					b.Success(now.at, "a")
					now.successes++
				}
			default:
				why := pick(rng, AfterFailure, AfterTimeout, Speculative)
				for range between(rng, 1, 20) {
					if b.Take(now.at, "a", why) {
						now.extra++
						if why != AfterFailure {
							now.slow++
						}
					}
				}
			}
			now.level = b.BalanceAt(now.at, "a")
			now.share = float64(b.bucket(now.at, "a").slow) / float64(token)
			history = append(history, now)
			checkBound(t, history, ratio, perSecond, float64(burst))
		}
	})
}

// checkBound checks the periods that end with the last moment.
func checkBound(t *testing.T, history []moment, ratio, perSecond, burst float64) {
	t.Helper()
	const rounding = 1e-6
	last := history[len(history)-1]
	recent := 0
	for i, m := range slices.Backward(history) {
		if last.at.Sub(m.at) < time.Second && i > 0 {
			recent = last.successes - history[i-1].successes
		}
		earned := ratio*float64(last.successes-m.successes) + perSecond*last.at.Sub(m.at).Seconds()
		if extra := float64(last.extra - m.extra); extra > m.level+earned+rounding {
			t.Fatalf("%v extra attempts since %v, with %v tokens then and %v earned", extra, m.at, m.level, earned)
		}
		if slow := float64(last.slow - m.slow); slow > m.share+earned+rounding {
			t.Fatalf("%v attempts to a slow target since %v, with %v tokens then and %v earned", slow, m.at, m.share, earned)
		}
	}
	most := max(burst, ratio*float64(recent))
	if last.level > most+rounding || last.share > max(burst, most/slowShare)+rounding {
		t.Fatalf("the bucket holds %v, and %v for a slow target, with a burst of %v and %d successes in the last second",
			last.level, last.share, burst, recent)
	}
}
