package redisstore

import (
	"context"
	"crypto/sha1" //nolint:gosec // it names scripts, as Redis has it
	_ "embed"
	"encoding/base64"
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
	begin   []string // what keys begin with, by hash tag
	fences  []string // the keys of fences, by hash tag
}

var _ idempotency.Store = (*Store)(nil)

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
	store := &Store{settings: s, client: client}
	store.begin, store.fences = newTags(s.prefix)
	return store, nil
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
	//go:embed scripts/read.lua
	readText string

	beginScript    = newScript(beginText)
	completeScript = newScript(completeText)
	extendScript   = newScript(extendText)
	releaseScript  = newScript(releaseText)
	lookScript     = newScript(lookText)
	readScript     = newScript(readText)
)

// run runs a script by its hash, and by its text where Redis does not know it.
func (s *Store) run(ctx context.Context, sc *script, keys, args []string) rueidis.RedisResult {
	result := s.client.Do(ctx, s.client.B().Evalsha().Sha1(sc.sha).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build())
	if err, ok := rueidis.IsRedisErr(result.Error()); ok && err.IsNoScript() {
		return s.client.Do(ctx, s.client.B().Eval().Script(sc.text).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build())
	}
	return result
}

// tags is how many hash tags there are: three octal digits, of which each has 32 of
// a Cluster's slots for itself, so that they spread as evenly as they can over its
// nodes. With more of them the counters of their fences would not stay in a
// processor's cache (ADR 0013).
const tags = 1 << 9

// tag returns the number of a record's hash tag, which is the first bits of its ID.
// The fences of all records with the tag are drawn from one counter, which outlives
// them.
func tag(id *idempotency.ID) int { return int(id[0])<<1 | int(id[1])>>7 }

// newTags returns what the keys with each hash tag begin with, and those of the
// fences.
func newTags(prefix string) (begin, fences []string) {
	begin, fences = make([]string, tags), make([]string, tags)
	for i := range tags {
		fences[i] = fmt.Sprintf("%s:{%03o}:fence", prefix, i)
		begin[i] = strings.TrimSuffix(fences[i], "fence")
	}
	return begin, fences
}

// appendKey appends the key of a record.
func (s *Store) appendKey(b []byte, id *idempotency.ID) []byte {
	return base64.RawURLEncoding.AppendEncode(append(b, s.begin[tag(id)]...), id[:])
}

// millis returns a duration as Redis takes it. Redis's own time is that of the last
// millisecond, so that one more is needed for nothing to end early.
func millis(d time.Duration) int64 {
	const longest = 100 * 365 * 24 * time.Hour
	return int64((max(0, min(d, longest))+time.Millisecond-1)/time.Millisecond) + 1
}

// argsLen is as many bytes as the key and the arguments of a step have that a
// server takes, but for the outcome. They share one allocation.
const argsLen = 128

// Begin claims a write, or tells what is known of it.
func (s *Store) Begin(ctx context.Context, claim idempotency.Claim) (idempotency.Begun, error) {
	if claim.Owner == "" || claim.Lease <= 0 {
		return idempotency.Begun{}, errors.New("redisstore: a claim needs an owner, and a lease of more than nothing")
	}
	b := s.appendKey(make([]byte, 0, argsLen), &claim.ID)
	claimAt := len(b)
	b = appendClaim(b, &claim)
	keptAt := len(b)
	text := rueidis.BinaryString(strconv.AppendInt(b, millis(claim.Lease)+millis(claim.KeepFor()), 10))
	keys := []string{text[:claimAt], s.fences[tag(&claim.ID)]}
	answer, err := s.run(ctx, &beginScript, keys, []string{text[claimAt:keptAt], text[keptAt:]}).ToMessage()
	if err != nil {
		return idempotency.Begun{}, wrap("begin", err)
	}
	begun, err := readAnswer(&answer, &claim)
	return begun, wrap("begin", err)
}

// readAnswer reads what a claim is answered with: a fence, or the record that is
// there.
func readAnswer(answer *rueidis.RedisMessage, claim *idempotency.Claim) (idempotency.Begun, error) {
	if answer.IsInt64() {
		fence, err := answer.AsInt64()
		return idempotency.Begun{State: idempotency.Run, Fence: uint64(max(fence, -fence)), TakenOver: fence < 0}, err //nolint:gosec // it is not negative
	}
	record, err := answer.AsBytes()
	if err != nil {
		return idempotency.Begun{}, err
	}
	return readRecord(record, claim)
}

// Complete ends a write with its outcome.
func (s *Store) Complete(ctx context.Context, lease idempotency.Lease, outcome []byte, retention time.Duration) error {
	return s.step(ctx, "complete", &completeScript, &lease, millis(retention), rueidis.BinaryString(outcome))
}

// Extend makes the lease last for d from now.
func (s *Store) Extend(ctx context.Context, lease idempotency.Lease, d time.Duration) error {
	return s.step(ctx, "extend", &extendScript, &lease, millis(d))
}

// Release gives up a write.
func (s *Store) Release(ctx context.Context, lease idempotency.Lease, effect bool, retention time.Duration) error {
	had := "0"
	if effect {
		had = "1"
	}
	return s.step(ctx, "release", &releaseScript, &lease, millis(retention), had)
}

// Look tells what is known of a write, and claims nothing.
func (s *Store) Look(ctx context.Context, claim idempotency.Claim) (idempotency.Begun, error) {
	answer, err := s.run(ctx, &readScript, []string{string(s.appendKey(nil, &claim.ID))}, nil).ToArray()
	switch {
	case rueidis.IsRedisNil(err):
		return idempotency.Begun{State: idempotency.Absent}, nil
	case err == nil && len(answer) != 2:
		err = fmt.Errorf("%d answers", len(answer))
	}
	if err != nil {
		return idempotency.Begun{}, wrap("look", err)
	}
	record, err := answer[0].AsBytes()
	lives, other := answer[1].AsInt64()
	if err = errors.Join(err, other); err != nil {
		return idempotency.Begun{}, wrap("look", err)
	}
	known, err := lookRecord(record, &claim, lives)
	return known, wrap("look", err)
}

// step takes a step of an owner's, with a time in milliseconds.
func (s *Store) step(ctx context.Context, name string, sc *script, lease *idempotency.Lease, ms int64, args ...string) error {
	b := s.appendKey(make([]byte, 0, argsLen), &lease.ID)
	leaseAt := len(b)
	b = appendLease(b, lease)
	keptAt := len(b)
	text := rueidis.BinaryString(strconv.AppendInt(b, ms, 10))
	mine, err := s.run(ctx, sc, []string{text[:leaseAt]}, append([]string{text[leaseAt:keptAt], text[keptAt:]}, args...)).AsBool()
	if err != nil {
		return wrap(name, err)
	}
	if !mine {
		return idempotency.ErrLeaseLost
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
	case step == "begin" && strings.HasPrefix(text, "OOM"): // it may not use more memory
		return fmt.Errorf("redisstore: %s: %w: %w", step, idempotency.ErrFull, err)
	case strings.Contains(text, "WRONGTYPE"): // somebody else has written to the key
		return fmt.Errorf("redisstore: %s: %w: %w", step, idempotency.ErrCorrupt, err)
	default:
		return fmt.Errorf("redisstore: %s: %w", step, err)
	}
}
