package once

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/hoperr"
	"github.com/hopbound/hopbound/internal/telemetry"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

const unsupported = telemetry.KeyUnsupported

// noLimit stands for a wait without a limit.
const noLimit = time.Duration(math.MaxInt64)

// claim is the attempt of one call to become the one that runs a write. Its states are those of
// ADR 0012.
type claim struct {
	server *Server
	call   *Call
	key    idempotency.Key

	claim      idempotency.Claim
	waiting    context.Context    // bounds waits; nil if there has been none
	stop       context.CancelFunc // of waiting
	waits      int
	superseded bool // the handler has run here, and another server has taken over
	alive      atomic.Bool
	shared     *sharedRun // for which other calls wait; nil if it is not this call's

	takenOver  bool // an earlier run may have had an effect
	checkpoint []byte
	outcome    telemetry.KeyOutcome
	replayed   bool
}

// record records the idempotency outcome of the call.
func (c *claim) record() {
	if c.outcome == "" { // something panicked before the outcome was known
		c.outcome = telemetry.KeyGivenUp
	}
	c.call.Request.Telemetry.KeyedCall(c.call.Request, c.key, c.outcome, c.takenOver)
}

// prepare makes the claim that is sent to the store.
func (c *claim) prepare(req any) error {
	m, s := c.call.Method, c.server
	if m.unsupported != nil {
		return hoperr.New(codes.Internal, hoperr.KeyUnsupported, "the server cannot store outcomes of the method: "+m.unsupported.Error())
	}
	message, ok := req.(proto.Message)
	if !ok {
		return hoperr.New(codes.Internal, hoperr.KeyUnsupported, "the server cannot store outcomes of the method: its request is not a protobuf message")
	}
	fingerprint, err := m.fingerprints.Of(message)
	if err != nil {
		return hoperr.New(codes.Internal, hoperr.KeyUnsupported, err.Error())
	}
	tenant := s.tenant(c.call.Request)
	if tenant == "" {
		s.WarnShared()
	}
	c.claim = idempotency.Claim{
		ID:          idempotency.NewID(tenant, c.call.FullMethod, c.key),
		Tenant:      s.share(tenant),
		Method:      c.call.FullMethod,
		KeyHash:     c.key.Hash(),
		Owner:       rand.Text(),
		Fingerprint: fingerprint,
		Lease:       s.settings.Lease,
		Retention:   m.Retention,
		Running:     &c.alive,
	}
	return nil
}

// once runs the handler, or returns the outcome of another call.
func (c *claim) once(req any, handler grpc.UnaryHandler) (reply any, err error) {
	defer func() {
		c.alive.Store(false)
		if c.stop != nil {
			c.stop()
		}
		c.endShared(err)
	}()
	if err := c.join(); err != nil {
		return nil, err
	}
	if c.server.transactor != nil {
		return c.transact(req, handler)
	}
	return c.askAndRun(req, handler)
}

// askAndRun asks the store until the handler has run or an outcome is stored.
func (c *claim) askAndRun(req any, handler grpc.UnaryHandler) (any, error) {
	c.alive.Store(true)
	for {
		result, err := c.ask()
		if err != nil {
			return nil, c.storeError(err)
		}
		switch result.State {
		case idempotency.Run:
			lease := idempotency.Lease{ID: c.claim.ID, Owner: c.claim.Owner, Fence: result.Fence}
			if c.call.Request.Err() != nil || c.tooLate() {
				_ = c.release(lease, false)
				return nil, c.notRun()
			}
			c.takenOver = c.takenOver || result.TakenOver
			if c.checkpoint, err = c.lastCheckpoint(&result); err != nil {
				_ = c.release(lease, false)
				return nil, c.storeError(err)
			}
			reply, err := c.run(lease, req, handler)
			if !c.superseded {
				return reply, err
			}
		case idempotency.Join:
			if err := c.wait(); err != nil {
				return nil, err
			}
		default:
			if result.State == idempotency.Absent && c.superseded { // and the successor has released the key
				return nil, c.leaseLost()
			}
			return c.answer(&result)
		}
	}
}

// answer returns the result of a call whose claim got neither Run nor Join.
func (c *claim) answer(result *idempotency.BeginResult) (any, error) {
	switch result.State {
	case idempotency.Replay:
		return c.replay(result.Outcome)
	case idempotency.Reused:
		c.outcome = telemetry.KeyReused
		return nil, hoperr.New(codes.FailedPrecondition, hoperr.KeyReused, "the idempotency key was used for another request")
	default:
		err := fmt.Errorf("the store returned an unknown state: %v", result.State)
		c.storeFailed(telemetry.StepBegin, err)
		return nil, c.storeError(err)
	}
}

// lastCheckpoint returns the checkpoint of an earlier run, or nil.
func (c *claim) lastCheckpoint(result *idempotency.BeginResult) ([]byte, error) {
	if len(result.Checkpoint) == 0 {
		return nil, nil
	}
	checkpoint, err := c.server.settings.Codec.DecodeCheckpoint(c.claim.ID, result.Checkpoint)
	if err != nil {
		c.storeFailed(telemetry.StepBegin, err)
	}
	return checkpoint, err
}

// ask claims the write in the store. If the handler has already run here, it only looks up the
// record. The caller's cancellation does not end the step, so that this call always learns whether
// it has claimed the write. If the store does not answer, ask tries once more.
func (c *claim) ask() (result idempotency.BeginResult, err error) {
	name, ask := telemetry.StepBegin, c.server.store.Begin
	if c.superseded {
		name, ask = telemetry.StepLook, c.server.store.Look
	}
	for range 2 {
		timeout := c.server.settings.StoreTimeout
		if d, ok := c.call.Request.Deadline(); ok {
			timeout = max(min(timeout, time.Until(d)), time.Millisecond)
		}
		c.takenOver = c.takenOver || err != nil // the lost answer may have said so
		err = c.step(name, timeout, func(ctx context.Context) error {
			result, err = ask(ctx, c.claim)
			return err
		})
		if err == nil || errors.Is(err, idempotency.ErrFull) || errors.Is(err, idempotency.ErrCorrupt) || c.call.Request.Err() != nil {
			break
		}
	}
	return result, err
}

// Pauses between two waits, because a store may end a wait early.
const maxWaitPause = 100 * time.Millisecond

// wait waits until the store should be asked again. It returns an error if the call can wait no
// longer.
func (c *claim) wait() error {
	c.startWaiting()
	err := c.step(telemetry.StepWait, 0, func(ctx context.Context) error { return c.server.store.Wait(ctx, c.claim.ID) })
	if c.waits > 0 || err != nil {
		pause := time.NewTimer(min(time.Millisecond<<c.waits, maxWaitPause))
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-c.waiting.Done():
		}
	}
	c.waits = min(c.waits+1, 10)
	if c.waiting.Err() != nil {
		return c.waitEnded()
	}
	return nil
}

// startWaiting starts the time for which the call may wait, at its first wait.
func (c *claim) startWaiting() {
	if c.waiting != nil {
		return
	}
	if limit := c.waitLimit(); limit == noLimit {
		c.waiting, c.stop = context.WithCancel(c.call.Request)
	} else {
		c.waiting, c.stop = context.WithTimeout(c.call.Request, limit)
	}
	c.call.Request.Telemetry.Waits()
}

// tooLate reports whether a call that has waited has less time left than its method needs.
func (c *claim) tooLate() bool {
	d, ok := c.call.Request.Deadline()
	return ok && c.waits > 0 && time.Until(d) < c.call.Floor
}

// waitLimit returns how long the call may still wait. It leaves time to return an answer.
func (c *claim) waitLimit() time.Duration {
	if c.waiting != nil {
		until, ok := c.waiting.Deadline()
		if !ok {
			return noLimit
		}
		return max(time.Until(until), 1)
	}
	limit := noLimit
	if d, ok := c.call.Request.Deadline(); ok {
		left := time.Until(d)
		limit = max(left-min(left/20, 20*time.Millisecond), 1)
	}
	if c.server.settings.MaxWait > 0 {
		limit = min(limit, c.server.settings.MaxWait)
	}
	return limit
}

// waitEnded returns the error of a call that can wait no longer.
func (c *claim) waitEnded() error {
	switch {
	case errors.Is(c.call.Request.Err(), context.Canceled):
		c.outcome = telemetry.KeyGivenUp
		return hoperr.NewCanceled()
	case c.superseded:
		return c.leaseLost()
	default:
		c.outcome = telemetry.KeyInProgress
		return c.retryLater(codes.Aborted, hoperr.InProgress, "another call with the same idempotency key is still running")
	}
}

// notRun returns the error of a call that ended before its handler ran.
func (c *claim) notRun() error {
	c.outcome = telemetry.KeyGivenUp
	switch {
	case errors.Is(c.call.Request.Err(), context.Canceled):
		return hoperr.NewCanceled()
	case c.call.Request.Err() == nil:
		return hoperr.New(codes.DeadlineExceeded, hoperr.DeadlineUnreachable, "the deadline leaves less time after waiting than the method needs")
	default:
		return hoperr.New(codes.DeadlineExceeded, hoperr.DeadlineExpired, "the deadline passed before the handler could run")
	}
}

func (c *claim) leaseLost() error {
	c.outcome = telemetry.KeyLeaseLost
	return c.retryLater(codes.Aborted, hoperr.LeaseLost, "another server has taken over, and its outcome is not stored yet")
}

// storeError returns the error of a call for an error of the store.
func (c *claim) storeError(err error) error {
	const full = "the idempotency store has no room for another key"
	switch {
	case errors.Is(err, idempotency.ErrCorrupt):
		c.outcome = telemetry.KeyCorrupt
		return hoperr.New(codes.Internal, hoperr.RecordCorrupt, "the record of the idempotency key cannot be read")
	case errors.Is(err, idempotency.ErrFull):
		c.outcome = telemetry.KeyStoreFull
		room := (*idempotency.FullError)(nil)
		if errors.As(err, &room) && room.Room > time.Second { // no retry of this request waits that long
			c.call.Request.Downstream.Overrule(-1)
			return hoperr.New(codes.ResourceExhausted, hoperr.StoreFull, full, &errdetails.RetryInfo{RetryDelay: durationpb.New(room.Room)})
		}
		return c.retryLater(codes.ResourceExhausted, hoperr.StoreFull, full)
	case c.call.Request.Err() != nil:
		return c.notRun()
	default:
		c.outcome = telemetry.KeyNoStore
		return hoperr.New(codes.Unavailable, hoperr.StoreUnavailable, "the idempotency store does not answer")
	}
}

// retryLater makes an error that tells the caller to retry after a pause.
func (c *claim) retryLater(code codes.Code, reason, message string) error {
	after := max(min(c.server.settings.Lease/10, time.Second), 10*time.Millisecond)
	c.call.Request.Downstream.Overrule(after.Milliseconds())
	return hoperr.New(code, reason, message, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
}

// step takes a step of the store and measures it. The end of the call does not end the step. A
// timeout of 0 means that the step is a wait, which c.waiting bounds.
func (c *claim) step(name telemetry.Step, timeout time.Duration, take func(ctx context.Context) error) error {
	started := time.Now()
	detached := context.WithoutCancel(c.call.Request)
	var ctx context.Context
	bounds := detached
	if name == telemetry.StepBegin || name == telemetry.StepLook {
		bounds = c.call.Request // the timeout is not longer than the caller's
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(detached, timeout)
		defer cancel()
	} else { // renewals and checkpoints of other goroutines do not get here, and must not read it
		ctx = c.waiting
	}
	err := take(ctx)
	c.call.Request.Telemetry.StoreStep(bounds, c.key, name, time.Since(started), err)
	return err
}

// storeFailed records a failure of the store that its step did not return.
func (c *claim) storeFailed(step telemetry.Step, err error) {
	c.call.Request.Telemetry.StoreFailed(c.call.Request, c.key, step, err)
}
