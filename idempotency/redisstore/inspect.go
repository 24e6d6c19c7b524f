package redisstore

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/redis/rueidis"
)

var _ idempotency.Inspector = (*Store)(nil)

// scanCount is about how many keys Redis returns in one step of listing records.
const scanCount = 500

// Find returns the record of an ID, or nil if there is none. The owner is the first 12 bytes of a hash
// of its name, in hexadecimal digits.
func (s *Store) Find(ctx context.Context, id idempotency.ID) (*idempotency.Record, error) {
	r, ttl, now, err := s.read(ctx, id, true)
	if r == nil || err != nil {
		return nil, wrap("find", err)
	}
	return r.inspect(id, ttl, now), nil
}

// Records returns the records of all servers. It goes through all keys of each server, with SCAN.
func (s *Store) Records(ctx context.Context) iter.Seq2[*idempotency.Record, error] {
	return func(yield func(*idempotency.Record, error) bool) {
		for addr, node := range s.client.Nodes() {
			if role, err := node.Do(ctx, node.B().Role().Build()).ToArray(); err == nil && len(role) > 0 {
				if name, _ := role[0].ToString(); name != "master" {
					continue // a replica has the same records
				}
			}
			for cursor := uint64(0); ; {
				entry, err := node.Do(ctx, node.B().Scan().Cursor(cursor).Match(s.prefix+":*").Count(scanCount).Build()).AsScanEntry()
				if err != nil {
					yield(nil, fmt.Errorf("redisstore: records of %s: %w", addr, err))
					return
				}
				for _, key := range entry.Elements {
					r, err := s.recordOf(ctx, key)
					if (r != nil || err != nil) && !yield(r, err) || err != nil && r == nil {
						return
					}
				}
				if cursor = entry.Cursor; cursor == 0 {
					break
				}
			}
		}
	}
}

// recordOf returns the record of a key, or nil if the key was deleted or is not the store's.
func (s *Store) recordOf(ctx context.Context, key string) (*idempotency.Record, error) {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(key, s.prefix+":"))
	if err != nil || len(raw) != len(idempotency.ID{}) {
		return nil, nil //nolint:nilnil,nilerr // not a key of the store
	}
	id := idempotency.ID(raw)
	r, ttl, now, err := s.read(ctx, id, false)
	switch err = wrap("records", err); {
	case errors.Is(err, idempotency.ErrCorrupt):
		return &idempotency.Record{ID: id}, err
	case r == nil || err != nil:
		return nil, err
	}
	return r.inspect(id, ttl, now), nil
}

// read reads a record, its time to live and the server's time, both in milliseconds. The record is nil
// if there is none.
func (s *Store) read(ctx context.Context, id idempotency.ID, outcome bool) (r record, ttl, now int64, err error) {
	withOutcome := "0"
	if outcome {
		withOutcome = "1"
	}
	answer, err := s.run(ctx, &readScript, []string{string(s.appendKey(nil, &id))}, []string{withOutcome}).ToArray()
	switch {
	case rueidis.IsRedisNil(err):
		return nil, 0, 0, nil
	case err == nil && len(answer) != 3:
		err = fmt.Errorf("the script returned %d values", len(answer))
	}
	if err != nil {
		return nil, 0, 0, err
	}
	value, err := answer[0].AsBytes()
	ttl, err1 := answer[1].AsInt64()
	now, err2 := answer[2].AsInt64()
	if err = errors.Join(err, err1, err2); err != nil {
		return nil, 0, 0, err
	}
	r, err = parse(value)
	return r, ttl, now, err
}

// inspect returns what an operator sees of a record.
func (r record) inspect(id idempotency.ID, ttl, now int64) *idempotency.Record {
	const longest = int64(1<<63-1) / int64(time.Millisecond)
	if ttl < 0 { // an operator has removed its expiry
		ttl = longest
	}
	created := int64(binary.BigEndian.Uint64(r[createdAt-2:]) & (1<<48 - 1))
	found := &idempotency.Record{
		ID:       id,
		State:    idempotency.Pending,
		Method:   string(r[minLen:r.head()]),
		KeyHash:  hex.EncodeToString(r[keyHashAt:methodAt]),
		Owner:    hex.EncodeToString(r[ownerAt:fingerprintAt]),
		Fence:    r.fence(),
		Attempts: int(binary.BigEndian.Uint16(r[attemptsAt:])),
		Age:      time.Duration(max(0, now-created)) * time.Millisecond,
		Left:     time.Duration(min(ttl, longest)) * time.Millisecond,
	}
	switch r[0] {
	case done:
		found.State, found.Outcome = idempotency.Done, r.data()
	case released:
		found.State, found.Owner, found.TakenOver, found.Checkpoint = idempotency.Released, "", true, r.data()
	default:
		found.Left -= time.Duration(r.keep()) * time.Millisecond //nolint:gosec // it is small
		found.TakenOver, found.Checkpoint = r[effectAt] != 0 || found.Left <= 0, r.data()
	}
	return found
}

// prefixOf returns the first bytes that a record had when it was found: its kind, fence and owner. If
// the record has changed since, it has other first bytes.
func prefixOf(r *idempotency.Record) []byte {
	kind := map[idempotency.RecordState]uint64{idempotency.Pending: pending, idempotency.Released: released, idempotency.Done: done}[r.State]
	b := binary.BigEndian.AppendUint64(nil, kind<<56|r.Fence&sevenBytes)
	var owner [fingerprintAt - ownerAt]byte
	_, _ = hex.Decode(owner[:], []byte(r.Owner[:min(len(r.Owner), 2*len(owner))])) // zeros if there is none
	return append(b, owner[:]...)
}

// Free releases a pending record with a possible effect. The effect is remembered for as long as the
// owner's claim has asked.
func (s *Store) Free(ctx context.Context, r *idempotency.Record) error {
	if r.State != idempotency.Pending {
		return idempotency.ErrLeaseLost
	}
	return s.operate(ctx, "free", &releaseScript, r, "0", "2")
}

// Forget deletes a record.
func (s *Store) Forget(ctx context.Context, r *idempotency.Record) error {
	expired := "0"
	if r.State == idempotency.Pending && r.Left <= 0 {
		expired = "1"
	}
	return s.operate(ctx, "forget", &forgetScript, r, expired)
}

// operate takes a step of an operator, unless the record has changed.
func (s *Store) operate(ctx context.Context, name string, sc *script, r *idempotency.Record, args ...string) error {
	args = append([]string{string(prefixOf(r))}, args...)
	same, err := s.run(ctx, sc, []string{string(s.appendKey(nil, &r.ID))}, args).AsBool()
	switch {
	case err != nil:
		return wrap(name, err)
	case !same:
		return idempotency.ErrLeaseLost
	default:
		s.waiting.Wake(r.ID)
		return nil
	}
}
