package storetest_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/storetest"
)

// broken is a store that completes without a look at the fence.
type broken struct {
	idempotency.Store
	mu     sync.Mutex
	leases map[idempotency.ID]idempotency.Lease // the last of each
}

func (b *broken) Begin(ctx context.Context, c idempotency.Claim) (idempotency.BeginResult, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	begun, err := b.Store.Begin(ctx, c)
	if begun.State == idempotency.Run {
		b.leases[c.ID] = idempotency.Lease{ID: c.ID, Owner: c.Owner, Fence: begun.Fence}
	}
	return begun, err
}

func (b *broken) Complete(ctx context.Context, l idempotency.Lease, outcome []byte, retention time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Store.Complete(ctx, b.leases[l.ID], outcome, retention) // whoever asks
}

func TestStoreWhoseConnectionIsCutIsLinearizable(t *testing.T) {
	t.Parallel()
	for range 5 {
		synctest.Test(t, func(t *testing.T) {
			storetest.CheckLinearizable(t, storetest.Unreliable(idempotency.NewMemory()), storetest.History{})
		})
	}
}

// A store that completes without checking the fence is found out, and what it
// did is drawn.
func TestStoreThatIgnoresTheFenceIsFoundOut(t *testing.T) {
	t.Parallel()
	for range 20 {
		drawing := filepath.Join(t.TempDir(), "history.html")
		var result porcupine.CheckResult
		synctest.Test(t, func(t *testing.T) {
			var err error
			store := &broken{Store: idempotency.NewMemory(), leases: map[idempotency.ID]idempotency.Lease{}}
			if result, err = storetest.Linearizable(t.Context(), store, storetest.History{Drawing: drawing}); err != nil {
				t.Fatal(err)
			}
		})
		if result != porcupine.Illegal {
			continue
		}
		text, err := os.ReadFile(drawing)
		if err != nil || !strings.Contains(string(text), "complete") {
			t.Errorf("the drawing has %d bytes and no step: %v", len(text), err)
		}
		return
	}
	t.Error("twenty histories of a broken store were explained")
}

// failing is a store that never answers.
type failing struct{ idempotency.Store }

func (failing) Begin(context.Context, idempotency.Claim) (idempotency.BeginResult, error) {
	return idempotency.BeginResult{}, errors.New("no answer")
}

func TestStoreThatNeverAnswersIsFoundOut(t *testing.T) {
	t.Parallel()
	if _, err := storetest.Linearizable(t.Context(), failing{}, storetest.History{}); err == nil {
		t.Error("no error")
	}
}
