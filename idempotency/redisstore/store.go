package redisstore

import (
	"context"
	"crypto/sha1" //nolint:gosec // it names scripts, as Redis has it
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/watch"
	"github.com/redis/rueidis"
)

// Store is an [idempotency.Store] in Redis. It is safe for concurrent use, and to
// be used by any number of processes at once.
type Store struct {
	settings
	client  rueidis.Client
	waiting watch.Group
}

var _ idempotency.Store = (*Store)(nil)

// abandoned is how long a pending record is kept after its lease has run out, so
// that its owner may still complete it if nobody takes over.
const abandoned = time.Hour

// New returns a store that uses a client, which stays the caller's to close. It
// asks Redis for nothing; see [Store.Check].
func New(client rueidis.Client, opts ...Option) (*Store, error) {
	s, err := newSettings(opts)
	if client == nil {
		err = errors.Join(err, errors.New("redisstore: no client"))
	}
	if err != nil {
		return nil, err
	}
	return &Store{settings: s, client: client}, nil
}

// Kind returns "redis", as metrics name the store.
func (s *Store) Kind() string { return "redis" }

// script is one step of the store. Redis knows it by its hash once it has run it.
type script struct{ text, sha string }

func newScript(text string) script {
	sum := sha1.Sum([]byte(text)) //nolint:gosec // as Redis has it
	return script{text, hex.EncodeToString(sum[:])}
}

var (
	//go:embed scripts/begin.lua
	beginText string
	//go:embed scripts/complete.lua
	completeText string
	//go:embed scripts/extend.lua
	extendText string
	//go:embed scripts/release.lua
	releaseText string
	//go:embed scripts/look.lua
	lookText string

	beginScript    = newScript(beginText)
	completeScript = newScript(completeText)
	extendScript   = newScript(extendText)
	releaseScript  = newScript(releaseText)
	lookScript     = newScript(lookText)
)

// run runs a script by its hash, and by its text where Redis does not know it.
func (s *Store) run(ctx context.Context, sc script, keys, args []string) rueidis.RedisResult {
	result := s.client.Do(ctx, s.client.B().Evalsha().Sha1(sc.sha).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build())
	if err, ok := rueidis.IsRedisErr(result.Error()); ok && err.IsNoScript() {
		return s.client.Do(ctx, s.client.B().Eval().Script(sc.text).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build())
	}
	return result
}

// tag is the hash tag of a record: it has one of 4,096, by the first bits of its
// ID, so that a counter of fences for each outlives all records.
func (s *Store) tag(id idempotency.ID) string {
	return s.prefix + ":{" + hex.EncodeToString(id[:2])[:3] + "}:"
}

func (s *Store) record(id idempotency.ID) string { return s.tag(id) + id.String() }

// micros returns a duration as the scripts take it, rounded up.
func micros(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Microsecond-1)/time.Microsecond), 10)
}

// Begin claims a write, or tells what is known of it.
func (s *Store) Begin(ctx context.Context, claim idempotency.Claim) (idempotency.Begun, error) {
	if claim.Owner == "" || claim.Lease <= 0 {
		return idempotency.Begun{}, errors.New("redisstore: a claim needs an owner, and a lease of more than nothing")
	}
	answer, err := s.run(ctx, beginScript,
		[]string{s.record(claim.ID), s.tag(claim.ID) + "fence"},
		[]string{claim.Owner, claim.Fingerprint.Schema, string(claim.Fingerprint.Sum[:]), micros(claim.Lease), micros(abandoned)},
	).AsStrSlice()
	if err != nil {
		return idempotency.Begun{}, wrap("begin", err)
	}
	begun, err := readBegun(answer)
	return begun, wrap("begin", err)
}

// readBegun reads what the script answers.
func readBegun(answer []string) (idempotency.Begun, error) {
	corrupt := fmt.Errorf("%w: the answer is %q", idempotency.ErrCorrupt, answer)
	if len(answer) == 0 {
		return idempotency.Begun{}, corrupt
	}
	switch rest := answer[1:]; {
	case answer[0] == "reused" && len(rest) == 0:
		return idempotency.Begun{State: idempotency.Reused}, nil
	case answer[0] == "join" && len(rest) == 0:
		return idempotency.Begun{State: idempotency.Join}, nil
	case answer[0] == "replay" && len(rest) == 1:
		return idempotency.Begun{State: idempotency.Replay, Outcome: []byte(rest[0])}, nil
	case answer[0] == "run" && len(rest) == 2:
		fence, err := strconv.ParseUint(rest[0], 10, 64)
		if err != nil {
			return idempotency.Begun{}, corrupt
		}
		return idempotency.Begun{State: idempotency.Run, Fence: fence, TakenOver: rest[1] == "1"}, nil
	default:
		return idempotency.Begun{}, corrupt
	}
}

// Complete ends a write with its outcome.
func (s *Store) Complete(ctx context.Context, lease idempotency.Lease, outcome []byte, retention time.Duration) error {
	return s.step(ctx, "complete", completeScript, lease,
		rueidis.BinaryString(outcome), micros(max(0, retention)))
}

// Extend makes the lease last for d from now.
func (s *Store) Extend(ctx context.Context, lease idempotency.Lease, d time.Duration) error {
	return s.step(ctx, "extend", extendScript, lease, micros(max(0, d)), micros(abandoned))
}

// Release gives up a write that had no effect.
func (s *Store) Release(ctx context.Context, lease idempotency.Lease) error {
	return s.step(ctx, "release", releaseScript, lease)
}

// step takes a step of an owner's.
func (s *Store) step(ctx context.Context, name string, sc script, lease idempotency.Lease, args ...string) error {
	args = append([]string{lease.Owner, strconv.FormatUint(lease.Fence, 10)}, args...)
	answer, err := s.run(ctx, sc, []string{s.record(lease.ID)}, args).ToString()
	switch {
	case err != nil:
		return wrap(name, err)
	case answer == "lost":
		return idempotency.ErrLeaseLost
	case answer != "ok":
		return wrap(name, fmt.Errorf("the answer is %q", answer))
	}
	if name != "extend" {
		s.waiting.Wake(lease.ID)
	}
	return nil
}

func wrap(step string, err error) error {
	if err == nil {
		return nil
	}
	switch text := err.Error(); {
	case strings.HasPrefix(text, "OOM"): // it may not use more memory
		return fmt.Errorf("redisstore: %s: %w: %w", step, idempotency.ErrFull, err)
	case strings.Contains(text, "WRONGTYPE"): // somebody else has written to the key
		return fmt.Errorf("redisstore: %s: %w: %w", step, idempotency.ErrCorrupt, err)
	default:
		return fmt.Errorf("redisstore: %s: %w", step, err)
	}
}
