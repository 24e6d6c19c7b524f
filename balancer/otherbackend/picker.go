package otherbackend

import (
	"math/rand/v2"

	"github.com/hopbound/hopbound/internal/tried"
	"google.golang.org/grpc/balancer"
)

// If the child picks a backend that the call has tried, the picker asks for as many further picks as there
// are backends. After such a round, a round-robin child is at the same backend as before, so first attempts
// are spread as evenly as without retries. One round can miss the untried backends, because other calls pick
// at the same time; therefore there are up to maxRounds.
const (
	maxRounds = 3
	maxPicks  = 100 // per round
)

// picker asks the child's picker for a backend that the call has not tried.
type picker struct {
	child    balancer.Picker
	backends int
}

// Pick picks a backend for an attempt.
func (p *picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	result, err := p.child.Pick(info)
	earlier, ok := info.Ctx.Value(tried.Key{}).(*tried.Backends)
	if err != nil || !ok {
		return result, err
	}
	for round := 0; round < maxRounds && p.backends > 1 && earlier.Has(result.SubConn); round++ {
		result = p.another(info, earlier, result)
	}
	earlier.Add(result.SubConn)
	return result, nil
}

// another asks the child for one round of picks. It returns a random one of those whose backend the call has
// not tried, or first if there is none.
func (p *picker) another(info balancer.PickInfo, earlier *tried.Backends, first balancer.PickResult) balancer.PickResult {
	chosen, found := first, 0
	for range min(p.backends, maxPicks) {
		next, err := p.child.Pick(info)
		if err != nil {
			break
		}
		unused := next
		if !earlier.Has(next.SubConn) {
			found++
			if rand.IntN(found) == 0 { //nolint:gosec // the choice need not be secret
				chosen, unused = next, chosen
			}
		}
		if unused.Done != nil {
			unused.Done(balancer.DoneInfo{})
		}
	}
	return chosen
}
