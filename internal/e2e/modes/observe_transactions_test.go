package modes_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// transactor is a store whose transactions are noted.
type transactor struct {
	harness.TakeoverStore
	committed []bool
	fail      error
}

type inTransaction struct{}

func (s *transactor) Observe(ctx context.Context, run func(context.Context) bool) error {
	commit := run(context.WithValue(ctx, inTransaction{}, true))
	s.committed = append(s.committed, commit)
	if commit {
		return s.fail
	}
	return nil
}

func TestObservedWriteFindsItsTransaction(t *testing.T) {
	t.Parallel()
	var found []bool
	b := &harness.Bank{OnPay: func(ctx context.Context, n int64, _ *testv1.PayRequest) error {
		is, _ := ctx.Value(inTransaction{}).(bool)
		found = append(found, is)
		if n == 2 {
			return status.Error(codes.NotFound, "no such account")
		}
		return nil
	}}
	store := &transactor{TakeoverStore: harness.TakeoverStore{Memory: idempotency.NewMemory()}}
	n := b.OpenWith(t, interceptors.WithIdempotency(store), observing())
	c := n.Customer()
	_, first := c.PayWithKey(t.Context(), "k", harness.Rent())
	_, second := c.PayWithKey(t.Context(), "k", harness.Rent())
	_, third := c.Pay(t.Context(), harness.Rent()) // a key is required, and the handler needs its transaction all the same
	_, fourth := c.Write(t.Context(), &testv1.WriteRequest{})
	if first != nil || status.Convert(second).Message() != "no such account" || third != nil || fourth != nil {
		t.Error(first, second, third, fourth)
	}
	if fmt.Sprint(found, store.committed) != "[true true true false] [true false true]" {
		t.Errorf("found %v, committed %v", found, store.committed)
	}
}

func TestObservedWriteWhoseTransactionIsNotCommittedFails(t *testing.T) {
	t.Parallel()
	for want, fail := range map[string]error{
		interceptors.ReasonStoreUnavailable: errors.New("refused"),
		interceptors.ReasonOutcomeUnknown:   fmt.Errorf("lost: %w", idempotency.ErrOutcomeUnknown),
	} {
		store := &transactor{TakeoverStore: harness.TakeoverStore{Memory: idempotency.NewMemory()}, fail: fail}
		c := (&harness.Bank{}).OpenWith(t, interceptors.WithIdempotency(store), observing()).Customer()
		_, err := c.PayWithKey(t.Context(), "k", harness.Rent())
		harness.WantError(t, err, codes.Unavailable, want)
	}
}

// A store whose transactions the server cannot use is no store without transactions.
func TestStoreWithTransactionsOfAnotherVersionIsAnError(t *testing.T) {
	t.Parallel()
	if _, err := interceptors.NewServer(interceptors.WithIdempotency(oldTransactor{idempotency.NewMemory()})); err == nil {
		t.Error("no error")
	}
}

type oldTransactor struct{ *idempotency.Memory }

func (oldTransactor) Transactional() bool { return true }
