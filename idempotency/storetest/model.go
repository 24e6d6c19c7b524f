package storetest

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/hopbound/hopbound/idempotency"
)

// model is the specification of a store, for one ID at a time. It is the same for all stores.
func model() porcupine.Model {
	return (&porcupine.NondeterministicModel{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byID := map[idempotency.ID][]porcupine.Operation{}
			for _, op := range history {
				if in, ok := op.Input.(input); ok {
					byID[in.id] = append(byID[in.id], op)
				}
			}
			return slices.Collect(maps.Values(byID))
		},
		Init: func() []any { return []any{record{}} },
		Step: func(state, i, o any) []any {
			r, _ := state.(record)
			in, _ := i.(input)
			out, _ := o.(output)
			next := r.step(in, out)
			if out.unknown {
				next = append([]record{r}, r.effects(in, out)...)
			}
			states := make([]any, len(next))
			for i := range next {
				states[i] = next[i]
			}
			return states
		},
		DescribeOperation: func(in, out any) string { return fmt.Sprintf("%v → %v", in, out) },
		DescribeState:     func(state any) string { return fmt.Sprint(state) },
	}).ToModel()
}

// stepKind is a method of a store.
type stepKind string

const (
	kindBegin    stepKind = "begin"
	kindComplete stepKind = "complete"
	kindExtend   stepKind = "extend"
	kindSave     stepKind = "save"
	kindRelease  stepKind = "release"
	kindLook     stepKind = "look"
)

type input struct {
	kind    stepKind
	id      idempotency.ID
	owner   string
	fence   uint64
	lease   time.Duration
	late    time.Duration
	outcome string
	effect  bool // of a release
	called  time.Duration
}

func (i input) String() string {
	if i.effect {
		return fmt.Sprintf("%s %s/%d with an effect", i.kind, i.owner, i.fence)
	}
	return fmt.Sprintf("%s %s/%d", i.kind, i.owner, i.fence)
}

type output struct {
	unknown   bool // no answer: the step may have taken effect, or may still do so
	lost      bool
	state     idempotency.State
	fence     uint64
	takenOver bool
	outcome   string // or the checkpoint, of a claim
	answered  time.Duration
}

func (o output) String() string {
	switch {
	case o.unknown:
		return "?"
	case o.lost:
		return "lost"
	case o.state != 0 && o.takenOver:
		return fmt.Sprintf("%v %d after an effect %s", o.state, o.fence, o.outcome)
	case o.state != 0:
		return fmt.Sprintf("%v %d %s", o.state, o.fence, o.outcome)
	default:
		return "ok"
	}
}

// record is the state of one ID. Its lease expires between earliest and latest; only the store knows
// when.
type record struct {
	pending, done    bool
	effect           bool // a run may have had an effect, and no outcome is stored
	owner            string
	fence            uint64 // 0 of a pending record whose owner got no answer
	highest          uint64
	outcome          string
	checkpoint       string
	earliest, latest time.Duration
}

// step returns the states that an answer leads to, or none if the answer is wrong.
func (r record) step(in input, out output) []record {
	mine := (r.pending || r.done) && r.owner == in.owner && (r.fence == in.fence || in.kind == kindBegin)
	switch {
	case in.kind == kindLook:
		return only(r, r.look(in, out))
	case in.kind == kindBegin:
		return r.begin(in, out, mine)
	case out.lost && in.kind == kindRelease:
		return only(r, r.done || r.pending && !mine)
	case out.lost && (in.kind == kindExtend || in.kind == kindSave):
		return only(r, !mine || r.done)
	case out.lost:
		return only(r, !mine)
	case in.kind == kindRelease && !mine:
		return only(r, !r.pending && !r.done)
	case !mine || r.done && in.kind != kindComplete:
		return nil
	default:
		return r.effects(in, out)
	}
}

// begin returns the states that the answer to a claim leads to.
func (r record) begin(in input, out output, mine bool) []record {
	switch out.state {
	case idempotency.Join:
		return only(r, r.pending && !mine && in.called <= r.latest)
	case idempotency.Replay:
		return only(r, r.done && out.outcome == r.outcome)
	case idempotency.Run:
		if out.outcome != r.checkpoint {
			return nil
		}
		if mine && r.pending && out.takenOver == r.effect {
			switch {
			case r.fence == out.fence:
				return []record{r}
			case r.fence == 0 && out.fence > r.highest: // its owner got no answer before
				r.fence, r.highest = out.fence, out.fence
				return []record{r}
			}
			return nil
		}
		expired := r.pending && out.answered >= r.earliest
		if out.fence <= r.highest || r.done || r.pending && !expired || (r.pending || r.effect) != out.takenOver {
			return nil
		}
		return []record{r.claimed(in, out)}
	default:
		return nil
	}
}

// look reports whether the answer to Look is right.
func (r record) look(in input, out output) bool {
	switch out.state {
	case idempotency.Join:
		return r.pending && in.called <= r.latest
	case idempotency.Replay:
		return r.done && out.outcome == r.outcome
	default:
		return out.state == idempotency.Absent && !r.done && (!r.pending || out.answered >= r.earliest) &&
			out.takenOver == (r.pending || r.effect)
	}
}

// claimed returns the state after a claim.
func (r record) claimed(in input, out output) record {
	return record{
		pending: true, effect: r.pending || r.effect, checkpoint: r.checkpoint,
		owner: in.owner, fence: out.fence, highest: max(r.highest, out.fence),
		earliest: in.called + in.lease, latest: out.answered + in.lease + in.late,
	}
}

// effects returns the states that a step may lead to if it takes effect.
func (r record) effects(in input, out output) []record {
	mine := r.pending && r.owner == in.owner && r.fence == in.fence
	switch {
	case in.kind == kindLook:
		return nil
	case in.kind == kindBegin && r.done, in.kind == kindBegin && r.pending && r.owner == in.owner:
		return nil
	case in.kind == kindBegin: // without an answer
		return []record{r.claimed(in, out)}
	case !mine && (!r.done || in.kind != kindComplete):
		return nil
	case in.kind == kindComplete && r.done:
		return []record{r}
	case in.kind == kindComplete:
		r.pending, r.done, r.effect, r.outcome, r.checkpoint = false, true, false, in.outcome, ""
	case in.kind == kindExtend:
		r.earliest, r.latest = max(r.earliest, in.called+in.lease), max(r.latest, out.answered+in.lease+in.late)
	case in.kind == kindSave:
		r.checkpoint = in.outcome
	case in.kind == kindRelease && !r.effect && !in.effect:
		r = record{highest: r.highest}
	case in.kind == kindRelease:
		r = record{highest: r.highest, effect: true, checkpoint: r.checkpoint}
	}
	return []record{r}
}

// only returns the state if the answer is right, and none otherwise.
func only(r record, legal bool) []record {
	if legal {
		return []record{r}
	}
	return nil
}
