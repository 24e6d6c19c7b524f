package boltstore_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/boltstore"
	"github.com/hopbound/hopbound/idempotency/storetest"
	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, path string) *boltstore.Store {
	t.Helper()
	s, err := boltstore.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestStore(t *testing.T) {
	t.Parallel()
	store := open(t, filepath.Join(t.TempDir(), "db"))
	storetest.Run(t, storetest.Backend{
		Open:    func(*testing.T) idempotency.Store { return store },
		Records: func(*testing.T) int { return store.Count() },
		Single:  true,
	})
}

func claim(key string) idempotency.Claim {
	return idempotency.Claim{ID: idempotency.NewID("", "", idempotency.Key(key)), Owner: "a", Lease: time.Minute}
}

func TestRecordsSurviveARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	done, err := s.Begin(t.Context(), claim("done"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Complete(t.Context(), idempotency.Lease{ID: claim("done").ID, Owner: "a", Fence: done.Fence}, []byte("outcome"), time.Hour); err != nil {
		t.Fatal(err)
	}
	pending, err := s.Begin(t.Context(), claim("pending"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := boltstore.Open(path); !errors.Is(err, boltstore.ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Begin(t.Context(), claim("late")); err == nil {
		t.Error("a closed store answers")
	}
	s = open(t, path)
	if b, err := s.Begin(t.Context(), claim("done")); err != nil || b.State != idempotency.Replay || string(b.Outcome) != "outcome" {
		t.Errorf("got %v %q, %v", b.State, b.Outcome, err)
	}
	other := claim("pending")
	other.Owner = "b"
	if b, err := s.Begin(t.Context(), other); err != nil || b.State != idempotency.Join {
		t.Errorf("got %v, %v", b.State, err)
	}
	if b, err := s.Begin(t.Context(), claim("new")); err != nil || b.Fence <= pending.Fence {
		t.Errorf("fence %d after %d, %v", b.Fence, pending.Fence, err)
	}
}

// If the clock is set back while the store is closed, no expired record returns and no lease gets
// longer.
func TestTimeDoesNotGoBack(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	first := claim("k")
	first.Retention = 24 * time.Hour
	if _, err := s.Begin(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ahead := time.Now().Add(3 * time.Hour)
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error { // as a store does whose clock is ahead
		return tx.Bucket([]byte("meta")).Put([]byte("time"), binary.BigEndian.AppendUint64(nil, uint64(ahead.UnixNano())))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	other := claim("k")
	other.Owner = "b"
	if b, err := s.Begin(t.Context(), other); err != nil || b.State != idempotency.Run || !b.TakenOver {
		t.Errorf("got %v, %v: the lease has run out", b, err)
	}
}

func TestExpiredRecordsAreDropped(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	for i := range 200 {
		c := claim(string(rune('a' + i)))
		b, err := s.Begin(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Complete(t.Context(), idempotency.Lease{ID: c.ID, Owner: c.Owner, Fence: b.Fence}, nil, time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 10 { // each step drops some
		time.Sleep(2 * time.Millisecond)
		if err := s.Extend(t.Context(), idempotency.Lease{Fence: uint64(i)}, 1); !errors.Is(err, idempotency.ErrLeaseLost) {
			t.Error(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	_ = db.View(func(tx *bolt.Tx) error {
		for _, name := range []string{"records", "due"} {
			if n := tx.Bucket([]byte(name)).Stats().KeyN; n > 5 {
				t.Errorf("%d are left in %s", n, name)
			}
		}
		return nil
	})
}

func TestStepWithACancelledContextIsNotTaken(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "db"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Begin(ctx, claim("k")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	other := claim("k")
	other.Owner = "b"
	if b, err := s.Begin(t.Context(), other); err != nil || b.State != idempotency.Run {
		t.Errorf("got %v, %v", b, err)
	}
}

// Steps that arrive while the store is closed, or later, are taken or fail. None of them hangs.
func TestStepsOfAClosedStoreReturn(t *testing.T) {
	t.Parallel()
	for round := range 20 {
		s := open(t, filepath.Join(t.TempDir(), "db"))
		var wg sync.WaitGroup
		started := make(chan struct{})
		first := sync.OnceFunc(func() { close(started) })
		for i := range 8 {
			wg.Go(func() {
				for n := range 20 {
					c := claim(fmt.Sprint(round, i, n))
					first()
					if _, err := s.Begin(context.Background(), c); err != nil {
						_ = s.Release(context.Background(), idempotency.Lease{ID: c.ID, Owner: "a"}, true, 0)
					}
				}
			})
		}
		<-started // so that the store is closed while steps arrive
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
}

// Listing records delays no writes, so that an operator can delete records while listing them.
func TestRecordsMayBeDeletedWhileTheyAreListed(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "db"))
	write := func(ctx context.Context, key string, size int) error {
		c := claim(key)
		b, err := s.Begin(ctx, c)
		if err != nil {
			return err
		}
		return s.Complete(ctx, idempotency.Lease{ID: c.ID, Owner: c.Owner, Fence: b.Fence}, make([]byte, size), time.Hour)
	}
	for i := range 150 {
		if err := write(t.Context(), strconv.Itoa(i), 100); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	listed := 0
	for r, err := range s.Records(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if listed%30 == 0 { // a server writes so much that the file grows
			if err := write(ctx, "large "+strconv.Itoa(listed), 1<<20); err != nil {
				t.Fatal(err)
			}
		}
		listed++
		if err := s.Forget(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	if listed < 150 {
		t.Errorf("%d records were listed", listed)
	}
}
