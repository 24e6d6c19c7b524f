package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/boltstore"
	"github.com/hopbound/hopbound/idempotency/pgstore"
	"github.com/hopbound/hopbound/idempotency/redisstore"
	"github.com/hopbound/hopbound/idempotency/storetest/services"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
	bolt "go.etcd.io/bbolt"
)

const retention = time.Hour

// noise is a random text. Owners and outcomes are parts of it, so that each write has different ones: Redis's
// scripts reuse a string that they have seen before.
var noise = func() string {
	var b strings.Builder
	for b.Len() < 1<<16 {
		b.WriteString(rand.Text())
	}
	return b.String()
}()

// ownerOf returns an owner of the length that servers use.
func ownerOf(n uint64) string { return noise[n%(1<<15):][:26] }

// outcomeOf returns the outcome of a write.
func outcomeOf(n uint64) string { return noise[n%(1<<15):][:200] }

// bytesOf returns the bytes of a part of noise. They must not be changed.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// claimOf returns the claim of a write, with a fingerprint.
func claimOf(n uint64) idempotency.Claim {
	c := idempotency.Claim{ID: idOf(n), Owner: ownerOf(n), Lease: 10 * time.Second, Retention: retention}
	c.Fingerprint.Schema = "bank.v1.TransferRequest"
	binary.BigEndian.PutUint64(c.Fingerprint.Sum[:], n)
	return c
}

// idOf returns the ID of a write. Like real IDs, the IDs look random: they come from the finalizer of SplitMix64.
func idOf(n uint64) (id idempotency.ID) {
	h := n * 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	binary.BigEndian.PutUint64(id[:], h^h>>31)
	binary.BigEndian.PutUint64(id[8:], n)
	return id
}

// with returns a function that makes a write with a store.
func with(s idempotency.Store, retention time.Duration) func(ctx context.Context, n uint64) error {
	return func(ctx context.Context, n uint64) error {
		claim := claimOf(n)
		begin, err := s.Begin(ctx, claim)
		if err != nil {
			return err
		}
		if begin.State != idempotency.Run {
			return fmt.Errorf("begin of a new key returned %v", begin.State)
		}
		return s.Complete(ctx, idempotency.Lease{ID: claim.ID, Owner: claim.Owner, Fence: begin.Fence}, bytesOf(outcomeOf(n)), retention)
	}
}

// arithmetic keeps a core busy for about as long as a write, without using memory.
//
//go:noinline
func arithmetic(n uint64) uint64 {
	a, b, c, d := n, n+1, n+2, n+3
	for i := range uint64(300) {
		a ^= b + i
		c ^= d + i
		b += a>>3 + 7
		d += c>>3 + 9
	}
	return a ^ b ^ c ^ d
}

var memoryGroup = group{
	title:  "Memory",
	longer: 3,
	text: `The store is compared with a sync.Map that keeps the last 131,072 keys. The store keeps
records for 50 ms and drops them within two seconds. Arithmetic uses only a core: if two goroutines
are not twice as fast as one, they shared a core, or other processes used one.`,
	concurrency: []int{1, 2},
	open: func(*environment) ([]contender, error) {
		var m sync.Map
		const window = 1 << 17
		return []contender{
			{"sync.Map", func(_ context.Context, n uint64) error {
				id := idOf(n)
				m.LoadOrStore(id, ownerOf(n))
				m.Store(id, bytesOf(outcomeOf(n)))
				m.Delete(idOf(n - window))
				return nil
			}},
			{"memory", with(idempotency.NewMemory(idempotency.MemoryCapacity(1<<24), idempotency.MemoryBytes(1<<34)), 50*time.Millisecond)},
			{"arithmetic", func(_ context.Context, n uint64) error {
				_ = arithmetic(n)
				return nil
			}},
		}, nil
	},
}

var boltGroup = group{
	title: "bbolt",
	text: `The store is compared with two puts by bbolt's own Batch, one after the other. The file is
synced to the disk.`,
	concurrency: []int{1, 64},
	open: func(e *environment) ([]contender, error) {
		dir, err := os.MkdirTemp("", "hopbound")
		if err != nil {
			return nil, err
		}
		e.Cleanup(func() { _ = os.RemoveAll(dir) })
		db, err := bolt.Open(filepath.Join(dir, "raw"), 0o600, nil)
		if err != nil {
			return nil, err
		}
		e.Cleanup(func() { _ = db.Close() })
		if err := db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("b")); return err }); err != nil {
			return nil, err
		}
		s, err := boltstore.Open(filepath.Join(dir, "store"))
		if err != nil {
			return nil, err
		}
		e.Cleanup(func() { _ = s.Close() })
		return []contender{
			{"two puts", func(_ context.Context, n uint64) error {
				id := idOf(n)
				for _, value := range [][]byte{bytesOf(ownerOf(n)), bytesOf(outcomeOf(n))} {
					if err := db.Batch(func(tx *bolt.Tx) error { return tx.Bucket([]byte("b")).Put(id[:], value) }); err != nil {
						return err
					}
				}
				return nil
			}},
			{"boltstore", with(s, retention)},
		}, nil
	},
}

// The scripts of a bare claim and a bare completion in Redis, and the lengths of their values.
const (
	bareClaimLen    = 69
	bareCompleteLen = 69 + 200

	bareClaim    = "return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])"
	bareComplete = "return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])"
	nothing      = "return 'OK'"
)

// bareKey returns a key of the bare scripts.
func bareKey(n uint64) string {
	id := idOf(n)
	return string(base64.RawURLEncoding.AppendEncode(append(make([]byte, 0, 64), "bare:bar:"...), id[:]))
}

var redisGroup = group{
	title: "Redis",
	text: `The store is compared with two EVALSHA of scripts that only SET a value with an expiry, and
with two EVALSHA of empty scripts. Keys and values are as long as the store's. The client is rueidis,
which redisstore uses, or go-redis.`,
	concurrency: []int{1, 8, 64, 256},
	open: func(e *environment) ([]contender, error) {
		server := services.Redis(e)
		client, err := rueidis.NewClient(redisstore.ClientOption(rueidis.ClientOption{InitAddress: []string{server.Addr}}))
		if err != nil {
			return nil, err
		}
		e.Cleanup(client.Close)
		other := redis.NewClient(&redis.Options{Addr: server.Addr, PoolSize: 64})
		e.Cleanup(func() { _ = other.Close() })
		s, err := redisstore.New(client)
		if err != nil {
			return nil, err
		}
		bare := func(texts ...string) func(ctx context.Context, n uint64) error {
			scripts := []*rueidis.Lua{rueidis.NewLuaScript(texts[0]), rueidis.NewLuaScript(texts[1])}
			return func(ctx context.Context, n uint64) error {
				key, value := []string{bareKey(n)}, noise[n%(1<<15):]
				args := [2][]string{{value[:bareClaimLen], "3610001"}, {value[:bareCompleteLen], "3600001"}}
				for i, sc := range scripts {
					if err := sc.Exec(ctx, client, key, args[i]).Error(); err != nil {
						return err
					}
				}
				return nil
			}
		}
		theirs := []*redis.Script{redis.NewScript(bareClaim), redis.NewScript(bareComplete)}
		return []contender{
			{"two scripts that SET, rueidis", bare(bareClaim, bareComplete)},
			{"two scripts that SET, go-redis", func(ctx context.Context, n uint64) error {
				key, value := []string{bareKey(n)}, noise[n%(1<<15):]
				args := [2][]string{{value[:bareClaimLen], "3610001"}, {value[:bareCompleteLen], "3600001"}}
				for i, sc := range theirs {
					if err := sc.Run(ctx, other, key, args[i][0], args[i][1]).Err(); err != nil {
						return err
					}
				}
				return nil
			}},
			{"two empty scripts, rueidis", bare(nothing, nothing)},
			{"redisstore", with(s, retention)},
		}, nil
	},
}

// openPostgres starts a server and creates the tables.
func openPostgres(e *environment) (*pgxpool.Pool, error) {
	server := services.Postgres(e, "fsync=on")
	config, err := pgxpool.ParseConfig(server.URL())
	if err != nil {
		return nil, err
	}
	config.MaxConns = 33 // a store leaves one connection to handlers
	ctx := context.Background()
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	e.Cleanup(pool.Close)
	if err := pgstore.Migrate(ctx, pool); err != nil {
		return nil, err
	}
	for _, sql := range []string{
		"CREATE TABLE ledger (id bigint PRIMARY KEY, account text, cents bigint)",
		"CREATE TABLE record (id bytea PRIMARY KEY, owner text, outcome bytea)",
	} {
		if _, err := pool.Exec(ctx, sql); err != nil {
			return nil, err
		}
	}
	return pool, nil
}

var leaseGroup = group{
	title: "PostgreSQL with leases",
	text: `The store is compared with two statements that insert a plain record and update it with the
outcome. fsync is on.`,
	concurrency: []int{1, 8, 32},
	open: func(e *environment) ([]contender, error) {
		pool, err := openPostgres(e)
		if err != nil {
			return nil, err
		}
		leases, err := pgstore.New(pool)
		if err != nil {
			return nil, err
		}
		e.Cleanup(leases.Close)
		return []contender{
			{"two statements", func(ctx context.Context, n uint64) error {
				id := idOf(n)
				if _, err := pool.Exec(ctx, "INSERT INTO record VALUES ($1, $2, NULL)", id[:], ownerOf(n)); err != nil {
					return err
				}
				_, err := pool.Exec(ctx, "UPDATE record SET outcome = $2 WHERE id = $1", id[:], bytesOf(outcomeOf(n)))
				return err
			}},
			{"pgstore with leases", with(leases, retention)},
		}, nil
	},
}

var transactionGroup = group{
	title: "PostgreSQL with transactions",
	text: `A transaction inserts a row. It also inserts a plain record, or no record, or is run by
pgstore, which stores its own record. fsync is on.`,
	concurrency: []int{1, 8, 32},
	open: func(e *environment) ([]contender, error) {
		pool, err := openPostgres(e)
		if err != nil {
			return nil, err
		}
		transactions, err := pgstore.New(pool, pgstore.WithTransactions())
		if err != nil {
			return nil, err
		}
		e.Cleanup(transactions.Close)
		const insert = "INSERT INTO ledger VALUES ($1, 'rent', 90000)"
		plain := func(record bool) func(ctx context.Context, n uint64) error {
			return func(ctx context.Context, n uint64) error {
				tx, err := pool.Begin(ctx)
				if err != nil {
					return err
				}
				defer func() { _ = tx.Rollback(ctx) }()
				if record {
					id := idOf(n)
					if _, err := tx.Exec(ctx, "INSERT INTO record VALUES ($1, $2, $3)", id[:], ownerOf(n), bytesOf(outcomeOf(n))); err != nil {
						return err
					}
				}
				if _, err := tx.Exec(ctx, insert, int64(n)); err != nil {
					return err
				}
				return tx.Commit(ctx)
			}
		}
		return []contender{
			{"with a plain record", plain(true)},
			{"without a record", plain(false)},
			{"with pgstore's", func(ctx context.Context, n uint64) error {
				var failed error
				begin, err := transactions.Transact(ctx, claimOf(n),
					func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
						tx, _ := pgstore.Tx(ctx)
						_, failed = tx.Exec(ctx, insert, int64(n))
						return idempotency.Verdict{Keep: true, Commit: failed == nil, Outcome: bytesOf(outcomeOf(n)), Retention: retention}
					})
				if err == nil && begin.State != idempotency.Run {
					err = fmt.Errorf("begin of a new key returned %v", begin.State)
				}
				if err != nil {
					return err
				}
				return failed
			}},
		}, nil
	},
}
