package redisstore

import (
	"context"
	"crypto/sha1" //nolint:gosec // Redis identifies scripts by SHA-1
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/watch"
	"github.com/redis/rueidis"
)

// Store is an [idempotency.Store] in Redis. It is safe for concurrent use. Any number of processes may
// use the same prefix, each with a store of its own.
//
// The scripts and record.go implement the rules of [idempotency.StoredRecord] again, because each step
// must be one round trip. The linearizability check of package storetest compares them with the model
// of all stores.
type Store struct {
	settings
	client  rueidis.Client
	waiting watch.Group
}

var _ idempotency.Store = (*Store)(nil)

// New returns a store that uses a client. It sends nothing to Redis; see [Store.Check]. The caller
// closes the client. New returns the errors of all invalid options, joined.
func New(client rueidis.Client, opts ...Option) (*Store, error) {
	s, err := newSettings(opts)
	if client == nil {
		err = errors.Join(err, errors.New("redisstore: the client is nil"))
	}
	if err != nil {
		return nil, err
	}
	return &Store{settings: s, client: client}, nil
}

// Kind returns "redis", the name of the store in metrics.
func (s *Store) Kind() string { return "redis" }

// script is one step of the store. Once Redis has run a script, it knows the script by its hash.
type script struct{ text, sha string }

func newScript(text string) script {
	sum := sha1.Sum([]byte(text)) //nolint:gosec // Redis identifies scripts by SHA-1
	return script{text, hex.EncodeToString(sum[:])}
}

var (
	//go:embed scripts/begin.lua
	beginText string
	//go:embed scripts/complete.lua
	completeText string
	//go:embed scripts/extend.lua
	extendText string
	//go:embed scripts/save.lua
	saveText string
	//go:embed scripts/forget.lua
	forgetText string
	//go:embed scripts/release.lua
	releaseText string
	//go:embed scripts/look.lua
	lookText string
	//go:embed scripts/read.lua
	readText string

	beginScript    = newScript(beginText)
	completeScript = newScript(completeText)
	extendScript   = newScript(extendText)
	saveScript     = newScript(saveText)
	forgetScript   = newScript(forgetText)
	releaseScript  = newScript(releaseText)
	lookScript     = newScript(lookText)
	readScript     = newScript(readText)
)

// Pauses between the attempts to run a script.
const (
	minPause = 5 * time.Millisecond
	maxPause = 200 * time.Millisecond
)

// run runs a script. It tries again until ctx ends if Redis cannot run the script yet: the slot in the
// Cluster has no server or is being moved, or the server is starting.
func (s *Store) run(ctx context.Context, sc *script, keys, args []string) rueidis.RedisResult {
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		result := s.runOnce(ctx, sc, keys, args)
		err, ok := rueidis.IsRedisErr(result.Error())
		if !ok || !err.IsClusterDown() && !err.IsTryAgain() && !err.IsLoading() {
			return result
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return result
		}
	}
}

// runOnce runs a script by its hash, or by its text if Redis does not know the hash.
func (s *Store) runOnce(ctx context.Context, sc *script, keys, args []string) rueidis.RedisResult {
	result := s.client.Do(ctx, s.client.B().Evalsha().Sha1(sc.sha).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build())
	if err, ok := rueidis.IsRedisErr(result.Error()); ok && err.IsNoScript() {
		return s.client.Do(ctx, s.client.B().Eval().Script(sc.text).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build())
	}
	return result
}

// appendKey appends the key of a record. A record has only one key, so that its steps succeed while a
// Cluster moves its slot. The key has no hash tag, so that records spread evenly over the slots.
func (s *Store) appendKey(b []byte, id *idempotency.ID) []byte {
	return base64.RawURLEncoding.AppendEncode(append(append(b, s.prefix...), ':'), id[:])
}

// millis returns a duration in milliseconds, as Redis takes it. It adds one millisecond, because
// Redis's clock may be behind by that much, and no lease or retention may end early.
func millis(d time.Duration) int64 {
	const longest = 100 * 365 * 24 * time.Hour
	return int64((max(0, min(d, longest))+time.Millisecond-1)/time.Millisecond) + 1
}

// argsLen is about how many bytes the key and the arguments of a step have, without its data. They
// share one allocation.
const argsLen = 224

// Begin claims a write, or returns its state.
func (s *Store) Begin(ctx context.Context, claim idempotency.Claim) (idempotency.BeginResult, error) {
	if claim.Owner == "" || claim.Lease <= 0 {
		return idempotency.BeginResult{}, errors.New("redisstore: a claim must have an owner and a positive lease")
	}
	b := s.appendKey(make([]byte, 0, argsLen), &claim.ID)
	claimAt := len(b)
	b = appendClaim(b, &claim)
	ttlAt := len(b)
	text := rueidis.BinaryString(strconv.AppendInt(b, millis(claim.Lease)+millis(claim.KeepFor()), 10))
	answer, err := s.run(ctx, &beginScript, []string{text[:claimAt]}, []string{text[claimAt:ttlAt], text[ttlAt:]}).ToMessage()
	if err != nil {
		return idempotency.BeginResult{}, wrap("begin", err)
	}
	result, err := readAnswer(&answer, &claim)
	return result, wrap("begin", err)
}

// readAnswer reads the answer to a claim: a fence if the record is new, and otherwise the record as the
// script has left it.
func readAnswer(answer *rueidis.RedisMessage, claim *idempotency.Claim) (idempotency.BeginResult, error) {
	if answer.IsInt64() {
		fence, err := answer.AsInt64()
		return idempotency.BeginResult{State: idempotency.Run, Fence: uint64(fence)}, err //nolint:gosec // it is not negative
	}
	value, err := answer.AsBytes()
	if err != nil {
		return idempotency.BeginResult{}, err
	}
	r, err := parse(value)
	if err != nil {
		return idempotency.BeginResult{}, err
	}
	return r.ask(claim), nil
}

// Complete ends a write with its outcome.
func (s *Store) Complete(ctx context.Context, lease idempotency.Lease, outcome []byte, retention time.Duration) error {
	return s.step(ctx, "complete", &completeScript, &lease, millis(retention), rueidis.BinaryString(outcome))
}

// Extend makes the lease last for d from now.
func (s *Store) Extend(ctx context.Context, lease idempotency.Lease, d time.Duration) error {
	return s.step(ctx, "extend", &extendScript, &lease, millis(d))
}

// Save stores a checkpoint.
func (s *Store) Save(ctx context.Context, lease idempotency.Lease, checkpoint []byte) error {
	return s.step(ctx, "save", &saveScript, &lease, 0, rueidis.BinaryString(checkpoint))
}

// Release ends a run without an outcome.
func (s *Store) Release(ctx context.Context, lease idempotency.Lease, effect bool, retention time.Duration) error {
	mayHaveEffect := "0"
	if effect {
		mayHaveEffect = "1"
	}
	return s.step(ctx, "release", &releaseScript, &lease, millis(retention), mayHaveEffect)
}

// Look returns the state of a write, and claims nothing.
func (s *Store) Look(ctx context.Context, claim idempotency.Claim) (idempotency.BeginResult, error) {
	r, ttl, _, err := s.read(ctx, claim.ID, true)
	switch {
	case err != nil:
		return idempotency.BeginResult{}, wrap("look", err)
	case r == nil:
		return idempotency.BeginResult{State: idempotency.Absent}, nil
	default:
		return r.look(&claim, ttl), nil
	}
}

// step takes a step of an owner, with a duration in milliseconds.
func (s *Store) step(ctx context.Context, name string, sc *script, lease *idempotency.Lease, ms int64, args ...string) error {
	b := s.appendKey(make([]byte, 0, argsLen), &lease.ID)
	leaseAt := len(b)
	b = appendLease(b, lease)
	msAt := len(b)
	text := rueidis.BinaryString(strconv.AppendInt(b, ms, 10))
	mine, err := s.run(ctx, sc, []string{text[:leaseAt]}, append([]string{text[leaseAt:msAt], text[msAt:]}, args...)).AsBool()
	if err != nil {
		return wrap(name, err)
	}
	if !mine {
		return idempotency.ErrLeaseLost
	}
	if name != "extend" && name != "save" {
		s.waiting.Wake(lease.ID)
	}
	return nil
}

func wrap(step string, err error) error {
	if err == nil {
		return nil
	}
	switch text := err.Error(); {
	case step == "begin" && strings.HasPrefix(text, "OOM"): // out of memory
		return fmt.Errorf("redisstore: %s: %w: %w", step, idempotency.ErrFull, err)
	case strings.Contains(text, "WRONGTYPE"): // the key is not the store's
		return fmt.Errorf("redisstore: %s: %w: %w", step, idempotency.ErrCorrupt, err)
	default:
		return fmt.Errorf("redisstore: %s: %w", step, err)
	}
}
