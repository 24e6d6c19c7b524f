package idempotency

import (
	"context"
	"errors"
	"time"
)

// A Transactor is a [Store] that can run a write within a transaction of the
// database that it keeps its records in. The claim, what the handler writes with
// that transaction and the outcome take effect together or not at all, so that
// no lease is needed, and nothing is left behind by a server that dies.
type Transactor interface {
	Store

	// Transactional reports whether writes are to be run by Transact. If not, they
	// are as in any other Store.
	Transactional() bool

	// Transact claims a write as Begin does, but waits while another owner runs it, until
	// ctx or Claim.Wait ends: then the state is Join. If the state is Run, Transact calls run
	// with the result of the claim and a context that holds the transaction. It returns after
	// it has carried out the verdict.
	//
	// An error wraps [ErrOutcomeUnknown] if it is unknown whether the transaction was
	// committed. Any other means that it was not. If it wraps [ErrConflict], the same run may
	// succeed if it is repeated.
	Transact(ctx context.Context, claim Claim, run func(ctx context.Context, claimed BeginResult) Verdict) (BeginResult, error)

	// Observe calls run without a claim, for servers in mode Observe: it reads and writes
	// no record, and does not wait. The context that run gets holds a
	// transaction as in Transact, except that it begins when the handler first asks for
	// it. If run returns true, Observe commits it, else it rolls it back.
	//
	// An error means that the commit failed. If it wraps [ErrOutcomeUnknown], it is unknown
	// whether the transaction was committed; otherwise it was not.
	Observe(ctx context.Context, run func(ctx context.Context) (commit bool)) error
}

// Verdict says how to end the transaction of a write that has run. The zero value
// rolls all of it back.
type Verdict struct {
	// Keep keeps the outcome for the retention.
	Keep      bool
	Outcome   []byte
	Retention time.Duration

	// Commit commits what the handler has written. Without it, an outcome that is
	// kept is committed alone.
	Commit bool

	// Err is the error of the handler, by which the store recognises a conflict with another
	// transaction.
	Err error
}

// ErrConflict is returned if a transaction was rolled back because of a serialization failure
// or a deadlock.
var ErrConflict = errors.New("idempotency: the transaction conflicts with another one")

// ErrOutcomeUnknown is returned if a step may or may not have taken effect.
var ErrOutcomeUnknown = errors.New("idempotency: it is not known whether the outcome was stored")
