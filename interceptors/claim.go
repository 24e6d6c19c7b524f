package interceptors

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// What became of a call with a key, in traces and metrics.
const (
	keyExecuted   = "executed"    // the handler ran, and its outcome was kept
	keyReleased   = "released"    // the handler ran, and the next call may run it again
	keyReplayed   = "replayed"    // the outcome was there
	keyJoined     = "joined"      // it came while the call waited for it
	keyShared     = "shared"      // it waited for a run that failed, and got its failure
	keyReused     = "reused"      // the key was another request's
	keyInProgress = "in_progress" // the wait ended first
	keyLost       = "lease_lost"
	keyUnknown    = "outcome_unknown"
	keyFull       = "store_full"
	keyCorrupt    = "corrupt"
	keyNoStore    = "store_unavailable"
	keyGivenUp    = "given_up" // the call ended before its handler ran

	keyUnsupported = "unsupported" // the method's outcomes cannot be kept
)

// serve runs the handler: as it is or, if the call carries a key, once for that.
func (in *incoming) serve(req any, handler grpc.UnaryHandler) (any, error) {
	if in.mode == Observe {
		return in.observe(req, handler)
	}
	m := in.method.keyed
	if m == nil {
		return handler(in.unkept(), req)
	}
	key, reason, err := in.readKey(m, req)
	in.request.key = key
	if err != nil {
		in.refused(&in.request, reason)
		return nil, err
	}
	if key == "" {
		return handler(in.unkept(), req)
	}
	c := claim{incoming: in, m: m, key: key}
	defer c.tell()
	if err := c.prepare(req); err != nil {
		c.became = keyUnsupported
		return nil, err
	}
	return c.once(req, handler)
}

// once runs the handler, or answers with what another call has come to.
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
	if c.transactor != nil {
		return c.transact(req, handler)
	}
	return c.serve(req, handler)
}

// unkept returns the context of a handler that is run each time. If its call has a
// key all the same, its own calls get children of that: who repeats it, repeats
// those too.
func (in *incoming) unkept() context.Context {
	key := in.request.headerKey()
	if key == "" {
		in.request.wouldRun = in.keyExpected
		return &in.request
	}
	run := idempotency.HandlerRun{ID: idempotency.NewID(in.tenant(), in.method.full, key), Key: key}
	if in.keyed != nil {
		run.Secret = in.keyed.ChildSecret
	}
	return idempotency.WithRun(&in.request, run)
}

// tenant returns whose key the call carries.
func (in *incoming) tenant() string {
	if in.keyed != nil && in.keyed.Tenant != nil {
		return in.keyed.Tenant(&in.request)
	}
	return TransportIdentity(&in.request)
}

// readKey returns the call's key, or none, or the reason and the error that it
// is refused with.
func (in *incoming) readKey(m *keyedMethod, req any) (key idempotency.Key, reason string, err error) {
	values := metadata.ValueFromIncomingContext(&in.request, idempotency.Header)
	if len(values) == 0 && m.keyField != nil {
		if message, ok := req.(proto.Message); ok {
			if text := message.ProtoReflect().Get(m.keyField).String(); text != "" {
				values = []string{text}
			}
		}
	}
	switch {
	case len(values) > 1:
		return "", ReasonKeyInvalid, newError(codes.InvalidArgument, ReasonKeyInvalid, "the call has several idempotency keys")
	case len(values) == 1:
		if key, err = idempotency.ParseKey(values[0]); err != nil {
			return "", ReasonKeyInvalid, newError(codes.InvalidArgument, ReasonKeyInvalid, err.Error())
		}
	case m.KeyRequired && !in.keyExpected:
		return "", ReasonKeyMissing, newError(codes.InvalidArgument, ReasonKeyMissing, "the method requires an idempotency key")
	}
	return key, "", nil
}

// claim is one call's business with one key. Its states are those of ADR 0012.
type claim struct {
	*incoming
	m   *keyedMethod
	key idempotency.Key

	claim    idempotency.Claim
	waiting  context.Context    // bounds waits; nil if there has been none
	stop     context.CancelFunc // of waiting
	waits    int
	outvoted bool // the handler has run here, and another has taken over
	alive    atomic.Bool
	shared   *sharedRun // which others wait for; nil if it is not this call's

	takenOver  bool // an earlier run may have had an effect
	checkpoint []byte
	became     string
}

// prepare makes what the store is asked with.
func (c *claim) prepare(req any) error {
	if c.m.unsupported != nil {
		return newError(codes.Internal, ReasonKeyUnsupported, "the server cannot keep outcomes of the method: "+c.m.unsupported.Error())
	}
	message, ok := req.(proto.Message)
	if !ok {
		return newError(codes.Internal, ReasonKeyUnsupported, "the server cannot keep outcomes of the method: its request is not protobuf's")
	}
	fingerprint, err := c.m.fingerprints.Of(message)
	if err != nil {
		return newError(codes.Internal, ReasonKeyUnsupported, err.Error())
	}
	tenant := c.tenant()
	c.claim = idempotency.Claim{
		ID:          idempotency.NewID(tenant, c.method.full, c.key),
		Tenant:      c.share(tenant),
		Method:      c.method.full,
		KeyHash:     c.key.Hash(),
		Owner:       rand.Text(),
		Fingerprint: fingerprint,
		Lease:       c.keyed.Lease,
		Retention:   c.m.Retention,
		Running:     &c.alive,
	}
	return nil
}

// share returns whose share of the store a record takes: nobody's if callers are not told
// apart.
func (in *incoming) share(tenant string) string {
	if tenant == "" && in.keyed.Tenant != nil {
		return "(none)" // all that the function does not know
	}
	return tenant
}

// lastCheckpoint returns the checkpoint of an earlier run, or nil.
func (c *claim) lastCheckpoint(begun *idempotency.BeginResult) ([]byte, error) {
	if len(begun.Checkpoint) == 0 {
		return nil, nil
	}
	checkpoint, err := c.keyed.Codec.DecodeCheckpoint(c.claim.ID, begun.Checkpoint)
	if err != nil {
		c.storeFailed(stepBegin, err)
	}
	return checkpoint, err
}

// serve asks the store until the handler has run or the outcome is there.
func (c *claim) serve(req any, handler grpc.UnaryHandler) (any, error) {
	c.alive.Store(true)
	for {
		begun, err := c.ask()
		if err != nil {
			return nil, c.refused(err)
		}
		switch begun.State {
		case idempotency.Run:
			lease := idempotency.Lease{ID: c.claim.ID, Owner: c.claim.Owner, Fence: begun.Fence}
			if c.request.Err() != nil || c.tooLate() {
				_ = c.release(lease, false)
				return nil, c.notRun()
			}
			c.takenOver = c.takenOver || begun.TakenOver
			if c.checkpoint, err = c.lastCheckpoint(&begun); err != nil {
				_ = c.release(lease, false)
				return nil, c.refused(err)
			}
			reply, err := c.run(lease, req, handler)
			if !c.outvoted {
				return reply, err
			}
		case idempotency.Join:
			if err := c.wait(); err != nil {
				return nil, err
			}
		default:
			if begun.State == idempotency.Absent && c.outvoted { // and whoever took over has given up
				return nil, c.leaseLost()
			}
			return c.answer(begun)
		}
	}
}

// answer answers with what the store has said, other than to run or to wait.
func (c *claim) answer(begun idempotency.BeginResult) (any, error) {
	switch begun.State {
	case idempotency.Replay:
		return c.replay(begun.Outcome)
	case idempotency.Reused:
		c.became = keyReused
		return nil, newError(codes.FailedPrecondition, ReasonKeyReused, "the idempotency key was used for another request")
	default:
		err := fmt.Errorf("the store returned an unknown state: %v", begun.State)
		c.storeFailed(stepBegin, err)
		return nil, c.refused(err)
	}
}

// ask asks the store, which it claims the write from unless the handler has run here. What it
// does is not cut short by the caller, so that nothing is claimed that nobody knows of;
// without an answer it is asked again.
func (c *claim) ask() (begun idempotency.BeginResult, err error) {
	name, ask := stepBegin, c.store.Begin
	if c.outvoted {
		name, ask = stepLook, c.store.Look
	}
	for range 2 {
		timeout := c.keyed.StoreTimeout
		if d, ok := c.request.Deadline(); ok {
			timeout = max(min(timeout, time.Until(d)), time.Millisecond)
		}
		c.takenOver = c.takenOver || err != nil // who knows what that answer was
		err = c.step(name, timeout, func(ctx context.Context) error {
			begun, err = ask(ctx, c.claim)
			return err
		})
		if err == nil || errors.Is(err, idempotency.ErrFull) || errors.Is(err, idempotency.ErrCorrupt) || c.request.Err() != nil {
			break
		}
	}
	return begun, err
}

// wait waits until it is worth asking again, and fails when the wait is over.
func (c *claim) wait() error {
	c.startWaiting()
	err := c.step(stepWait, 0, func(ctx context.Context) error { return c.store.Wait(ctx, c.claim.ID) })
	if c.waits > 0 || err != nil { // the store may wake whoever waits for nothing
		pause := time.NewTimer(min(time.Millisecond<<c.waits, 100*time.Millisecond))
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-c.waiting.Done():
		}
	}
	c.waits = min(c.waits+1, 10)
	if c.waiting.Err() != nil {
		return c.waitedInVain()
	}
	return nil
}

// startWaiting bounds the waits of the call, from the first on.
func (c *claim) startWaiting() {
	if c.waiting == nil {
		if patience := c.patience(); patience == unbounded {
			c.waiting, c.stop = context.WithCancel(&c.request)
		} else {
			c.waiting, c.stop = context.WithTimeout(&c.request, patience)
		}
		c.traceWait()
	}
}

// tooLate reports whether a call that has waited has less time left than its
// method needs.
func (c *claim) tooLate() bool {
	d, ok := c.request.Deadline()
	return ok && c.waits > 0 && time.Until(d) < max(c.method.limits.Floor, c.method.declared.floor)
}

// patience returns how long the call may still wait for others: as long as leaves time for
// an answer.
func (c *claim) patience() time.Duration {
	if c.waiting != nil {
		until, ok := c.waiting.Deadline()
		if !ok {
			return unbounded
		}
		return max(time.Until(until), 1)
	}
	patience := unbounded
	if d, ok := c.request.Deadline(); ok {
		left := time.Until(d)
		patience = max(left-min(left/20, 20*time.Millisecond), 1)
	}
	if c.keyed.MaxWait > 0 {
		patience = min(patience, c.keyed.MaxWait)
	}
	return patience
}

// waitedInVain returns the error of a call whose wait has ended.
func (c *claim) waitedInVain() error {
	switch {
	case errors.Is(c.request.Err(), context.Canceled):
		c.became = keyGivenUp
		return cancelledError()
	case c.outvoted:
		return c.leaseLost()
	default:
		c.became = keyInProgress
		return c.later(codes.Aborted, ReasonInProgress, "another call with the same idempotency key is still running")
	}
}

// notRun returns the error of a call that was told to run and did not.
func (c *claim) notRun() error {
	switch {
	case errors.Is(c.request.Err(), context.Canceled):
		c.became = keyGivenUp
		return cancelledError()
	case c.request.Err() == nil:
		c.became = keyGivenUp
		return newError(codes.DeadlineExceeded, ReasonDeadlineUnreachable, "what remains of the deadline after waiting is less than the method needs")
	default:
		c.became = keyGivenUp
		return newError(codes.DeadlineExceeded, ReasonDeadlineExpired, "the deadline had passed before the handler could run")
	}
}

func (c *claim) leaseLost() error {
	c.became = keyLost
	return c.later(codes.Aborted, ReasonLeaseLost, "another server has taken over, and its outcome is not there yet")
}

// refused returns the error for one of the store's.
func (c *claim) refused(err error) error {
	switch {
	case errors.Is(err, idempotency.ErrCorrupt):
		c.became = keyCorrupt
		return newError(codes.Internal, ReasonRecordCorrupt, "what is stored under the idempotency key cannot be read")
	case errors.Is(err, idempotency.ErrFull):
		c.became = keyFull
		full := (*idempotency.FullError)(nil)
		if errors.As(err, &full) && full.Room > time.Second { // no retry of this request waits for that
			c.request.downstream.overrule(-1)
			return newError(codes.ResourceExhausted, ReasonStoreFull, "the idempotency store has no room for another key",
				&errdetails.RetryInfo{RetryDelay: durationpb.New(full.Room)})
		}
		return c.later(codes.ResourceExhausted, ReasonStoreFull, "the idempotency store has no room for another key")
	case c.request.Err() != nil:
		return c.notRun()
	default:
		c.became = keyNoStore
		return newError(codes.Unavailable, ReasonStoreUnavailable, "the idempotency store does not answer")
	}
}

// later makes an error that tells the caller to retry after a pause.
func (c *claim) later(code codes.Code, reason, message string) error {
	after := max(min(c.keyed.Lease/10, time.Second), 10*time.Millisecond)
	c.request.downstream.overrule(after.Milliseconds())
	return newError(code, reason, message, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
}
