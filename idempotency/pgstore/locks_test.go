package pgstore_test

import (
	"context"
	"encoding/binary"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/pgstore"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A record that was released without an effect can be claimed for any request.
func TestTransactionClaimsAReleasedRecord(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	leases := newStore(t, d.pool)
	claim := claimOf("k")
	claim.Fingerprint = idempotency.Fingerprint{Schema: "v1", Sum: [32]byte{1}}
	begun, err := leases.Begin(t.Context(), claim)
	if err != nil {
		t.Fatal(err)
	}
	if err := leases.Release(t.Context(), idempotency.Lease{ID: claim.ID, Owner: claim.Owner, Fence: begun.Fence}, false, 0); err != nil {
		t.Fatal(err)
	}
	claim.Owner, claim.Fingerprint.Sum = "another", [32]byte{2}
	b, err := d.store.Transact(t.Context(), claim, func(context.Context, idempotency.BeginResult) idempotency.Verdict { return commit })
	if err != nil || b.State != idempotency.Run || b.TakenOver {
		t.Errorf("got %+v, %v", b, err)
	}
	d.want("k", idempotency.Replay, "paid")
}

// Stores in two schemas of one database are independent: a service may call
// another one with the same key, and each of them has a record.
func TestStoresInTwoSchemasDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	if _, err := d.pool.Exec(t.Context(), "CREATE SCHEMA other"); err != nil {
		t.Fatal(err)
	}
	other := newStore(t, d.pool, pgstore.WithTransactions(), pgstore.WithSchema("other"))
	claim := claimOf("k")
	claim.Wait = 100 * time.Millisecond
	_, err := d.store.Transact(t.Context(), claim, func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
		b, err := other.Transact(ctx, claim, func(context.Context, idempotency.BeginResult) idempotency.Verdict { return record })
		if err != nil || b.State != idempotency.Run {
			t.Errorf("in the other schema: got %v, %v", b.State, err)
		}
		return commit
	})
	if err != nil {
		t.Error(err)
	}
	d.want("k", idempotency.Replay, "paid")
}

// A claim of an expired record whose row another transaction has locked waits no longer than allowed.
func TestTransactionWaitsForALockedRowWithinItsLimit(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.expired("k")
	holder, err := d.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := holder.Exec(t.Context(), "SELECT FROM hopbound_idempotency FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	claim := claimOf("k")
	claim.Wait = 50 * time.Millisecond
	b, err := d.store.Transact(t.Context(), claim, func(context.Context, idempotency.BeginResult) idempotency.Verdict { return commit })
	if err != nil || b.State != idempotency.Join {
		t.Errorf("got %v, %v", b.State, err)
	}
	if err := holder.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.want("k", idempotency.Run, "")
}

// If the record has changed while a claim waited for its row, the claim reads it again.
func TestClaimReadsTheRecordAgainAfterAWait(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	leases := newStore(t, d.pool)
	for name, change := range map[string]struct {
		sql   string
		state idempotency.State
		waits time.Duration
	}{
		"extended":           {"until = clock_timestamp() + interval '1 hour'", idempotency.Join, 500 * time.Millisecond},
		"completed":          {"until = clock_timestamp() + interval '1 hour', done = true, outcome = 'theirs'", idempotency.Replay, time.Minute},
		"completed and over": {"until = clock_timestamp(), done = true, outcome = 'theirs'", idempotency.Run, time.Minute},
	} {
		claim := claimOf(name)
		claim.Lease = time.Microsecond
		if b, err := leases.Begin(t.Context(), claim); err != nil || b.State != idempotency.Run {
			t.Fatalf("%v, %v", b.State, err)
		}
		holder, err := d.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := holder.Exec(t.Context(), "UPDATE hopbound_idempotency SET "+change.sql+" WHERE id = $1", claim.ID[:]); err != nil {
			t.Fatal(err)
		}
		claim.Owner, claim.Lease, claim.Wait = "another", time.Minute, change.waits
		var asked sync.WaitGroup
		asked.Go(func() {
			b, err := d.store.Transact(t.Context(), claim, func(context.Context, idempotency.BeginResult) idempotency.Verdict { return commit })
			if err != nil || b.State != change.state || b.TakenOver {
				t.Errorf("%s: got %v, taken over %v, %v", name, b.State, b.TakenOver, err)
			}
		})
		d.awaitWaiter()
		if err := holder.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		asked.Wait()
	}
}

// A session may have a statement_timeout of its own.
func TestWaitEndsWithTheSessionsStatementTimeout(t *testing.T) {
	t.Parallel()
	server, pool := newDatabase(t)
	d := newDeskAt(t, pool, newPool(t, server.URL()+"&statement_timeout=300"))
	holder := newStore(t, pool, pgstore.WithTransactions())
	claim := claimOf("k")
	_, err := holder.Transact(t.Context(), claim, func(context.Context, idempotency.BeginResult) idempotency.Verdict {
		claim.Owner, claim.Wait = "another", time.Minute
		b, err := d.store.Transact(t.Context(), claim, func(context.Context, idempotency.BeginResult) idempotency.Verdict { return commit })
		if err != nil || b.State != idempotency.Join {
			t.Errorf("got %v, %v", b.State, err)
		}
		return commit
	})
	if err != nil {
		t.Error(err)
	}
}

// The handler has the settings of its session, also after a wait, and with any
// DateStyle.
func TestHandlerHasTheSettingsOfItsSession(t *testing.T) {
	t.Parallel()
	server, pool := newDatabase(t)
	config, err := pgxpool.ParseConfig(server.URL() + "&default_query_exec_mode=exec")
	if err != nil {
		t.Fatal(err)
	}
	config.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, "SET lock_timeout = '7s'; SET datestyle = 'German'; SET timezone = 'Asia/Kathmandu'")
		return err
	}
	through, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(through.Close)
	d := newDeskAt(t, pool, through)
	d.expired("taken over")
	for _, key := range []string{"new", "taken over", "after a wait"} {
		if key == "after a wait" {
			holder, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			id := claimOf(key).ID
			const lock = "SELECT pg_advisory_xact_lock($1 # ('hopbound_idempotency'::regclass::oid::bigint << 32))"
			if _, err := holder.Exec(t.Context(), lock, int64(binary.BigEndian.Uint64(id[:]))); err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(50*time.Millisecond, func() { _ = holder.Rollback(context.Background()) })
		}
		b, err := d.store.Transact(t.Context(), claimOf(key), func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
			tx, _ := pgstore.Tx(ctx)
			var timeout string
			if err := tx.QueryRow(ctx, "SHOW lock_timeout").Scan(&timeout); err != nil || timeout != "7s" {
				t.Errorf("%s: lock_timeout is %s, %v", key, timeout, err)
			}
			if _, err := tx.Exec(ctx, "SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO'"); err != nil {
				t.Error(err)
			}
			return commit
		})
		if err != nil || b.State != idempotency.Run || b.Waited != strings.Contains(key, "wait") {
			t.Errorf("%s: got %+v, %v", key, b, err)
		}
	}
}
