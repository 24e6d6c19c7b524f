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

// History is how many clients do how much at once in a check. Zero values mean the
// numbers in parentheses.
type History struct {
	Clients int           // (8)
	Steps   int           // of each client (60)
	IDs     int           // that they work at, one after another (10)
	Lease   time.Duration // of their claims, which they now and then outlive (20 ms)
	Late    time.Duration // by how much longer a lease may last than was asked for (5 ms)

	// Drawing is the HTML file for the drawing of a history that is not linearizable
	// ("history.html" in the test's artifact folder).
	Drawing string
}

// CheckLinearizable lets clients claim, complete, extend, release and take over
// the same writes at once, and fails the test unless the history is linearizable:
// one order of steps, each between its call and its answer, explains all answers.
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
		return output{unknown: err != nil, state: b.State, fence: b.Fence, takenOver: b.TakenOver, outcome: string(b.Outcome) + string(b.Checkpoint)}
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
			case kindSave:
				err = c.store.Save(ctx, l, []byte(in.outcome))
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
