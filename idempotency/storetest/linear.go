package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/hopbound/hopbound/idempotency"
)

// History is how many clients do how much at once in a check. Zero values are
// those in parentheses.
type History struct {
	Clients int           // (8)
	Steps   int           // of each client (60)
	IDs     int           // that they work at, one after another (10)
	Lease   time.Duration // of their claims, which they now and then outlive (20 ms)
	Late    time.Duration // by how much longer a lease may last than was asked for (5 ms)

	// Drawing is the file that a history which no order explains is drawn to, as
	// HTML ("history.html" in a folder of the test's).
	Drawing string
}

// CheckLinearizable lets clients claim, complete, extend, release and take over
// the same writes at once, and fails the test unless what they were told is
// explained by one order of steps, each taken between its call and its answer.
func CheckLinearizable(t *testing.T, store idempotency.Store, h History) {
	t.Helper()
	if h.Drawing == "" {
		h.Drawing = filepath.Join(t.ArtifactDir(), "history.html")
	}
	switch result, err := Linearizable(t.Context(), store, h); {
	case err != nil:
		t.Error(err)
	case result == porcupine.Illegal:
		t.Errorf("no order of steps explains what the clients were told; it is drawn in %s", h.Drawing)
	case result == porcupine.Unknown:
		t.Error("it could not be told in time whether an order explains what the clients were told")
	}
}

// Linearizable is [CheckLinearizable] without a test.
func Linearizable(ctx context.Context, store idempotency.Store, h History) (porcupine.CheckResult, error) {
	h.defaults()
	r := &recorder{store: store, begun: time.Now()}
	ids := make([]idempotency.ID, h.IDs)
	for i := range ids {
		ids[i] = idempotency.NewID(string(idempotency.NewKey()), "history", idempotency.Key(strconv.Itoa(i)))
	}
	var wg sync.WaitGroup
	for i := range h.Clients {
		wg.Go(func() {
			c := &client{recorder: r, number: i, lease: h.Lease, late: h.Late, rng: rand.New(rand.NewPCG(rand.Uint64(), uint64(i)))} //nolint:gosec // not secret
			for n := range h.Steps {                                                                                                 // all at one ID, and then at the next
				c.step(ctx, ids[n*len(ids)/h.Steps])
			}
		})
	}
	wg.Wait()
	if r.answers.Load() == 0 {
		return porcupine.Unknown, errors.New("the store has answered nothing")
	}
	model := model()
	result, info := porcupine.CheckOperationsVerbose(model, r.history(), time.Minute)
	if result == porcupine.Illegal && h.Drawing != "" {
		if err := porcupine.VisualizePath(model, info, h.Drawing); err != nil {
			return result, fmt.Errorf("drawing the history: %w", err)
		}
	}
	return result, nil
}

func (h *History) defaults() {
	for _, d := range []struct {
		field *int
		value int
	}{{&h.Clients, 8}, {&h.Steps, 60}, {&h.IDs, 10}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if h.Lease <= 0 {
		h.Lease = 20 * time.Millisecond
	}
	if h.Late <= 0 {
		h.Late = 5 * time.Millisecond
	}
}

// recorder notes every step of a history.
type recorder struct {
	store   idempotency.Store
	begun   time.Time
	answers atomic.Int64
	order   atomic.Int64 // of calls and answers, which the clock may not tell apart
	mu      sync.Mutex
	steps   []porcupine.Operation
}

// note runs a step and notes when it was called and answered.
func (r *recorder) note(client int, in input, run func() output) output {
	called := r.order.Add(1)
	in.called = time.Since(r.begun)
	out := run()
	out.answered = time.Since(r.begun)
	if !out.unknown {
		r.answers.Add(1)
	}
	answered := r.order.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.steps = append(r.steps, porcupine.Operation{ClientId: client, Input: in, Call: called, Output: out, Return: answered})
	return out
}

// history returns the steps. One whose answer never came may have its effect at
// any time after.
func (r *recorder) history() []porcupine.Operation {
	end, last := time.Since(r.begun)+time.Hour, r.order.Add(1)
	for i := range r.steps {
		if out, ok := r.steps[i].Output.(output); ok && out.unknown {
			out.answered = end
			r.steps[i].Output, r.steps[i].Return = out, last
		}
	}
	return r.steps
}

// client is one of the clients of a history.
type client struct {
	*recorder
	number int
	lease  time.Duration
	late   time.Duration
	rng    *rand.Rand
	claims int
}

// step claims a write and, if it is to run it, ends it in one of many ways. Now
// and then it takes too long.
func (c *client) step(ctx context.Context, id idempotency.ID) {
	c.claims++
	l := idempotency.Lease{ID: id, Owner: fmt.Sprintf("%d.%d", c.number, c.claims)}
	out := c.begin(ctx, l)
	for tries := 0; out.unknown && tries < 100; tries++ { // the same owner gets the same answer
		out = c.begin(ctx, l)
	}
	switch out.state {
	case idempotency.Join:
		wait, cancel := context.WithTimeout(ctx, time.Duration(c.rng.Int64N(int64(2*c.lease))))
		defer cancel()
		_ = c.store.Wait(wait, id)
		return
	case idempotency.Run:
	default:
		return
	}
	l.Fence = out.fence
	if c.rng.IntN(3) == 0 {
		time.Sleep(time.Duration(c.rng.Int64N(int64(3 * c.lease))))
	}
	switch c.rng.IntN(8) {
	case 0: // it crashes
	case 1:
		c.other(ctx, kindRelease, l)
	case 2:
		c.look(ctx, id)
		c.other(ctx, kindRelease, l)
	case 3, 4:
		c.other(ctx, kindExtend, l)
		c.other(ctx, kindRelease, l)
	case 5, 6:
		c.other(ctx, kindExtend, l)
		c.other(ctx, kindComplete, l)
	default:
		c.other(ctx, kindComplete, l)
	}
}

// look asks for a record, as whoever was superseded does.
func (c *client) look(ctx context.Context, id idempotency.ID) {
	c.note(c.number, input{kind: kindLook, id: id}, func() output {
		b, err := c.store.Look(ctx, idempotency.Claim{ID: id})
		return output{unknown: err != nil, state: b.State, takenOver: b.TakenOver, outcome: string(b.Outcome)}
	})
}

func (c *client) begin(ctx context.Context, l idempotency.Lease) output {
	return c.note(c.number, input{kind: kindBegin, id: l.ID, owner: l.Owner, lease: c.lease, late: c.late}, func() output {
		b, err := c.store.Begin(ctx, idempotency.Claim{ID: l.ID, Owner: l.Owner, Lease: c.lease})
		return output{unknown: err != nil, state: b.State, fence: b.Fence, takenOver: b.TakenOver, outcome: string(b.Outcome)}
	})
}

// retained is long enough for a history, which knows of no retention.
const retained = time.Hour

func (c *client) other(ctx context.Context, k stepKind, l idempotency.Lease) {
	in := input{
		kind: k, id: l.ID, owner: l.Owner, fence: l.Fence, lease: c.lease, late: c.late, outcome: "by " + l.Owner,
		effect: k == kindRelease && c.rng.IntN(2) == 0,
	}
	for range 3 {
		out := c.note(c.number, in, func() output {
			var err error
			switch k {
			case kindComplete:
				err = c.store.Complete(ctx, l, []byte(in.outcome), retained)
			case kindExtend:
				err = c.store.Extend(ctx, l, c.lease)
			default:
				err = c.store.Release(ctx, l, in.effect, retained)
			}
			lost := errors.Is(err, idempotency.ErrLeaseLost)
			return output{lost: lost, unknown: err != nil && !lost}
		})
		if !out.unknown {
			return
		}
	}
}

// model is what a store means, one ID at a time.
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
	effect  bool // of a release: the run may have had one
	called  time.Duration
}

func (i input) String() string {
	if i.effect {
		return fmt.Sprintf("%s %s/%d with an effect", i.kind, i.owner, i.fence)
	}
	return fmt.Sprintf("%s %s/%d", i.kind, i.owner, i.fence)
}

type output struct {
	unknown   bool // no answer: it may have had its effect, or may have it yet
	lost      bool
	state     idempotency.State
	fence     uint64
	takenOver bool
	outcome   string
	answered  time.Duration
}

func (o output) String() string {
	switch {
	case o.unknown:
		return "?"
	case o.lost:
		return "lost"
	case o.state != 0 && o.takenOver:
		return fmt.Sprintf("%v %d after an effect", o.state, o.fence)
	case o.state != 0:
		return fmt.Sprintf("%v %d %s", o.state, o.fence, o.outcome)
	default:
		return "ok"
	}
}

// record is the state of one ID. When exactly a lease runs out only the store
// knows: between earliest and latest.
type record struct {
	pending, done    bool
	effect           bool // a run may have had one, and there is no outcome
	owner            string
	fence            uint64 // 0 of a pending record whose owner was not told
	highest          uint64
	outcome          string
	earliest, latest time.Duration
}

// step returns the states that an answer leads to: none if it cannot be.
func (r record) step(in input, out output) []record {
	mine := (r.pending || r.done) && r.owner == in.owner && (r.fence == in.fence || in.kind == kindBegin)
	switch {
	case in.kind == kindLook:
		return only(r, r.looked(in, out))
	case in.kind == kindBegin:
		return r.began(in, out, mine)
	case out.lost && in.kind == kindRelease:
		return only(r, r.done || r.pending && !mine)
	case out.lost && in.kind == kindExtend:
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

func (r record) began(in input, out output, mine bool) []record {
	switch out.state {
	case idempotency.Join:
		return only(r, r.pending && !mine && in.called <= r.latest)
	case idempotency.Replay:
		return only(r, r.done && out.outcome == r.outcome)
	case idempotency.Run:
		if mine && r.pending && out.takenOver == r.effect {
			switch {
			case r.fence == out.fence:
				return []record{r}
			case r.fence == 0 && out.fence > r.highest: // what it was not told
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

// looked reports whether a record may be told so.
func (r record) looked(in input, out output) bool {
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
		pending: true, effect: r.pending || r.effect, owner: in.owner, fence: out.fence, highest: max(r.highest, out.fence),
		earliest: in.called + in.lease, latest: out.answered + in.lease + in.late,
	}
}

// effects returns the states that a step may lead to if it has its effect.
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
		r.pending, r.done, r.effect, r.outcome = false, true, false, in.outcome
	case in.kind == kindExtend:
		r.earliest, r.latest = max(r.earliest, in.called+in.lease), max(r.latest, out.answered+in.lease+in.late)
	case in.kind == kindRelease:
		r = record{highest: r.highest, effect: r.effect || in.effect}
	}
	return []record{r}
}

func only(r record, legal bool) []record {
	if legal {
		return []record{r}
	}
	return nil
}
