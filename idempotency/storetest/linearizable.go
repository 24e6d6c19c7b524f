package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/hopbound/hopbound/idempotency"
)

// History is the size of a history that [CheckLinearizable] makes. If a field is zero or negative, the
// default in parentheses applies.
type History struct {
	Clients int           // concurrent clients (8)
	Steps   int           // claims of each client (60)
	IDs     int           // IDs, which the clients claim one after another (10)
	Lease   time.Duration // of the claims; clients sometimes take longer (20 ms)
	Late    time.Duration // how much longer than asked for a lease may last (5 ms)

	// Drawing is the path of the HTML file that shows a history that is not linearizable. The default
	// is history.html in the artifact folder of the test.
	Drawing string
}

// CheckLinearizable makes clients claim, complete, extend, release and take over the same writes
// concurrently. It fails the test unless the history is linearizable (Herlihy and Wing, 1990): the
// steps can be ordered, each at some time between its call and its answer, so that a model of a store
// gives the same answers. The model is the same for all stores.
func CheckLinearizable(t *testing.T, store idempotency.Store, h History) {
	t.Helper()
	if h.Drawing == "" {
		h.Drawing = filepath.Join(t.ArtifactDir(), "history.html")
	}
	if err := linearizable(t.Context(), store, h); err != nil {
		t.Error(err)
	}
}

// Errors of linearizable.
var (
	errNoAnswer        = errors.New("no step got an answer")
	errNotLinearizable = errors.New("no order of the steps explains their answers")
	errUndecided       = errors.New("the check has found no order of the steps in time")
)

// linearizable returns an error unless the history of clients of a store is linearizable. If it is not,
// it draws the history.
func linearizable(ctx context.Context, store idempotency.Store, h History) error {
	h.defaults()
	r := &recorder{store: store, started: time.Now()}
	ids := make([]idempotency.ID, h.IDs)
	for i := range ids {
		ids[i] = idempotency.NewID(string(idempotency.NewKey()), "history", idempotency.Key(strconv.Itoa(i)))
	}
	var wg sync.WaitGroup
	for i := range h.Clients {
		wg.Go(func() {
			c := &client{recorder: r, number: i, lease: h.Lease, late: h.Late, rng: rand.New(rand.NewPCG(rand.Uint64(), uint64(i)))} //nolint:gosec // not secret
			for n := range h.Steps {                                                                                                 // all clients use one ID, and then the next
				c.step(ctx, ids[n*len(ids)/h.Steps])
			}
		})
	}
	wg.Wait()
	if r.answers.Load() == 0 {
		return errNoAnswer
	}
	model := model()
	result, info := porcupine.CheckOperationsVerbose(model, r.history(), time.Minute)
	switch result {
	case porcupine.Ok:
		return nil
	case porcupine.Illegal:
		if err := porcupine.VisualizePath(model, info, h.Drawing); err != nil {
			return fmt.Errorf("%w; drawing the history: %w", errNotLinearizable, err)
		}
		return fmt.Errorf("%w; see %s", errNotLinearizable, h.Drawing)
	default:
		return errUndecided
	}
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

// recorder records the steps of a history.
type recorder struct {
	store   idempotency.Store
	started time.Time
	answers atomic.Int64
	order   atomic.Int64 // of calls and answers, which may have the same time
	mu      sync.Mutex
	steps   []porcupine.Operation
}

// record takes a step, and records when it was called and answered.
func (r *recorder) record(client int, in input, run func() output) output {
	called := r.order.Add(1)
	in.called = time.Since(r.started)
	out := run()
	out.answered = time.Since(r.started)
	if !out.unknown {
		r.answers.Add(1)
	}
	answered := r.order.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.steps = append(r.steps, porcupine.Operation{ClientId: client, Input: in, Call: called, Output: out, Return: answered})
	return out
}

// history returns the steps. A step without an answer may take effect at any later time.
func (r *recorder) history() []porcupine.Operation {
	end, last := time.Since(r.started)+time.Hour, r.order.Add(1)
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

// step claims a write. If the result is Run, it ends the run in one of many ways, sometimes after the
// lease has expired.
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
		c.other(ctx, kindSave, l)
	case 1:
		c.other(ctx, kindRelease, l)
	case 2:
		c.look(ctx, id)
		c.other(ctx, kindSave, l)
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

// look looks at a record, as a superseded owner does.
func (c *client) look(ctx context.Context, id idempotency.ID) {
	c.record(c.number, input{kind: kindLook, id: id}, func() output {
		b, err := c.store.Look(ctx, idempotency.Claim{ID: id})
		return output{unknown: err != nil, state: b.State, takenOver: b.TakenOver, outcome: string(b.Outcome)}
	})
}

func (c *client) begin(ctx context.Context, l idempotency.Lease) output {
	return c.record(c.number, input{kind: kindBegin, id: l.ID, owner: l.Owner, lease: c.lease, late: c.late}, func() output {
		b, err := c.store.Begin(ctx, idempotency.Claim{ID: l.ID, Owner: l.Owner, Lease: c.lease})
		return output{unknown: err != nil, state: b.State, fence: b.Fence, takenOver: b.TakenOver, outcome: string(b.Outcome) + string(b.Checkpoint)}
	})
}

// longRetention outlasts a history. The model has no retentions.
const longRetention = time.Hour

// other takes a step of the owner of a lease. It repeats the step while it gets no answer.
func (c *client) other(ctx context.Context, k stepKind, l idempotency.Lease) {
	in := input{
		kind: k, id: l.ID, owner: l.Owner, fence: l.Fence, lease: c.lease, late: c.late, outcome: "by " + l.Owner,
		effect: k == kindRelease && c.rng.IntN(2) == 0,
	}
	for range 3 {
		out := c.record(c.number, in, func() output {
			var err error
			switch k {
			case kindComplete:
				err = c.store.Complete(ctx, l, []byte(in.outcome), longRetention)
			case kindExtend:
				err = c.store.Extend(ctx, l, c.lease)
			case kindSave:
				err = c.store.Save(ctx, l, []byte(in.outcome))
			default:
				err = c.store.Release(ctx, l, in.effect, longRetention)
			}
			lost := errors.Is(err, idempotency.ErrLeaseLost)
			return output{lost: lost, unknown: err != nil && !lost}
		})
		if !out.unknown {
			return
		}
	}
}
