package idempotency

import (
	"context"
	"errors"
	"time"
)

// A Transactor is a [Store] that can run a write in a transaction of the database that holds its
// records. The claim, what the handler writes with that transaction and the outcome take effect
// together or not at all. A run therefore needs no lease, and a server that dies leaves nothing
// behind.
type Transactor interface {
	Store

	// Transactional reports whether a server should call Transact. If not, it uses leases, as with
	// any other Store.
	Transactional() bool

	// Transact claims a write as Begin does, but waits while another owner runs it. If Claim.Wait
	// ends first, the state is Join; if ctx ends first, Transact may also return the error of ctx.
	// If the state is Run, Transact has called run with the result of the claim and a context that
	// holds the transaction, and has carried out the verdict of run.
	//
	// An error wraps [ErrOutcomeUnknown] if it is unknown whether the transaction was committed. Any
	// other error means that it was not committed. After an error that wraps [ErrConflict], another
	// attempt may succeed.
	Transact(ctx context.Context, claim Claim, run func(ctx context.Context, claimed BeginResult) Verdict) (BeginResult, error)

	// Observe calls run without a claim, for servers in mode Observe: it reads and writes no record,
	// and does not wait for other runs. The context of run holds a transaction as in Transact, but
	// the transaction begins only when the handler first asks for it. If run returns true, Observe
	// commits the transaction; otherwise, it rolls the transaction back.
	//
	// An error means that the commit failed. If it wraps [ErrOutcomeUnknown], it is unknown whether
	// the transaction was committed; otherwise it was not.
	Observe(ctx context.Context, run func(ctx context.Context) (commit bool)) error
}

// Verdict says how to end the transaction of a write that has run. The zero value rolls it back.
type Verdict struct {
	// Keep stores Outcome for Retention.
	Keep      bool
	Outcome   []byte
	Retention time.Duration

	// Commit commits what the handler has written. If it is false and Keep is true, only the
	// outcome is committed. It has no effect without Keep.
	Commit bool

	// Err is the error of the handler. The store uses it to recognise a conflict with another
	// transaction.
	Err error
}

// ErrConflict is returned if a transaction was rolled back because of a serialization failure
// or a deadlock.
var ErrConflict = errors.New("idempotency: the transaction conflicts with another one")

// ErrOutcomeUnknown is returned if it is unknown whether a transaction was committed.
var ErrOutcomeUnknown = errors.New("idempotency: it is unknown whether the outcome was stored")
