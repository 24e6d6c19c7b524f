package budget

import (
	"flag"
	"math/rand/v2"
	"testing"
)

var fixedSeed = flag.Uint64("seed", 0, "run the random tests with this seed alone, as a failure names it")

// checkRandom runs a check with 100 random seeds. Module pgregory.net/rapid could also shrink what
// fails, but users of this module would then have its checksum in their go.sum.
func checkRandom(t *testing.T, check func(t *testing.T, rng *rand.Rand)) {
	t.Helper()
	runs := 100
	if *fixedSeed != 0 {
		runs = 1
	}
	for range runs {
		seed := *fixedSeed
		if seed == 0 {
			seed = rand.Uint64()
		}
		func() {
			defer func() {
				if t.Failed() {
					t.Logf("run it again with -seed=%d", seed)
				}
			}()
			check(t, rand.New(rand.NewPCG(seed, 0)))
		}()
	}
}

// pick returns one of the values.
func pick[T any](rng *rand.Rand, values ...T) T { return values[rng.IntN(len(values))] }

// between returns a number from least to most, inclusive.
func between(rng *rand.Rand, least, most int) int { return least + rng.IntN(most-least+1) }
