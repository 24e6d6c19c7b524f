package storetest

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

	"github.com/hopbound/hopbound/idempotency"
)

// broken is a store that completes without checking the fence.
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
	return b.Store.Complete(ctx, b.leases[l.ID], outcome, retention) // for any owner
}

func TestStoreWithLostAnswersIsLinearizable(t *testing.T) {
	t.Parallel()
	for range 5 {
		synctest.Test(t, func(t *testing.T) {
			CheckLinearizable(t, unreliable{idempotency.NewMemory()}, History{})
		})
	}
}

// The check finds a store that completes without checking the fence, and draws its history.
func TestCheckFindsAStoreThatIgnoresTheFence(t *testing.T) {
	t.Parallel()
	for range 20 {
		drawing := filepath.Join(t.TempDir(), "history.html")
		var result error
		synctest.Test(t, func(t *testing.T) {
			store := &broken{Store: idempotency.NewMemory(), leases: map[idempotency.ID]idempotency.Lease{}}
			result = linearizable(t.Context(), store, History{Drawing: drawing})
		})
		if !errors.Is(result, errNotLinearizable) {
			continue
		}
		text, err := os.ReadFile(drawing)
		if err != nil || !strings.Contains(string(text), "complete") {
			t.Errorf("the drawing has %d bytes and no step: %v", len(text), err)
		}
		return
	}
	t.Error("twenty histories of a broken store were linearizable")
}

// failing is a store that never answers.
type failing struct{ idempotency.Store }

func (failing) Begin(context.Context, idempotency.Claim) (idempotency.BeginResult, error) {
	return idempotency.BeginResult{}, errors.New("no answer")
}

func TestCheckFindsAStoreThatNeverAnswers(t *testing.T) {
	t.Parallel()
	if err := linearizable(t.Context(), failing{}, History{}); !errors.Is(err, errNoAnswer) {
		t.Errorf("got %v", err)
	}
}
