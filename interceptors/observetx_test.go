package interceptors_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// transactor is a store whose transactions are noted.
type transactor struct {
	takeover
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
	b := &bank{pay: func(ctx context.Context, n int64, _ *testv1.PayRequest) error {
		is, _ := ctx.Value(inTransaction{}).(bool)
		found = append(found, is)
		if n == 2 {
			return status.Error(codes.NotFound, "no such account")
		}
		return nil
	}}
	store := &transactor{takeover: takeover{idempotency.NewMemory()}}
	n := b.openWith(t, interceptors.WithIdempotency(store), observing())
	c := n.customer()
	_, first := c.pay(t.Context(), "k", rent())
	_, second := c.pay(t.Context(), "k", rent())
	_, third := c.Pay(t.Context(), rent()) // a key is required, and the handler needs its transaction all the same
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
		store := &transactor{takeover: takeover{idempotency.NewMemory()}, fail: fail}
		c := (&bank{}).openWith(t, interceptors.WithIdempotency(store), observing()).customer()
		_, err := c.pay(t.Context(), "k", rent())
		wantError(t, err, codes.Unavailable, want)
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
