package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/jackc/pgx/v5/pgconn"
)

// find prints the records that the flags name.
func find(ctx context.Context, o *options) error {
	return o.lookup(ctx, func(_ idempotency.Inspector, found []*idempotency.Record) error {
		p, err := o.printer()
		for _, r := range found {
			if err == nil {
				err = p.print(r)
			}
		}
		return err
	})
}

// lookup opens the store, finds the records that the flags name, and calls use with them.
func (o *options) lookup(ctx context.Context, use func(store idempotency.Inspector, found []*idempotency.Record) error) error {
	q, err := o.query()
	if err != nil {
		return err
	}
	store, done, err := o.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	found, err := q.find(ctx, store)
	if err != nil {
		return err
	}
	return use(store, found)
}

// list prints the records that its flags select.
func list(ctx context.Context, o *options) error {
	states := []string{"all", string(idempotency.Pending), string(idempotency.Released), string(idempotency.Done)}
	if !slices.Contains(states, o.state) {
		return usagef("-state must be pending, released, done or all, not %q", o.state)
	}
	if o.older < 0 {
		return usagef("-older must not be negative")
	}
	store, done, err := o.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	p, err := o.printer()
	if err != nil {
		return err
	}
	var unreadable []error
	for r, err := range store.Records(ctx) {
		switch {
		case err != nil && r != nil:
			unreadable = append(unreadable, fmt.Errorf("record %s: %w", r.ID, err))
			continue
		case err == nil && o.selects(r):
			err = p.print(r)
		}
		if err != nil {
			return explained(err)
		}
	}
	if p.printed == 0 && !o.json {
		fmt.Fprintln(o.stdout, "no records")
	}
	return errors.Join(unreadable...)
}

// selects reports whether the flags of list select a record.
func (o *options) selects(r *idempotency.Record) bool {
	switch {
	case o.state != "all" && o.state != string(r.State),
		o.given["method"] && o.method != r.Method,
		r.Age < o.older:
		return false
	case o.state == string(idempotency.Pending) && !o.given["older"]:
		return r.Left <= 0
	default:
		return true
	}
}

// query identifies records by an ID or by the hash of their key.
type query struct {
	id       idempotency.ID
	hash     string // empty if there is an ID
	notFound string // the error if there is no record
}

// query returns the query of the flags.
func (o *options) query() (*query, error) {
	byKey, byHash, byID := o.given["key"], o.given["hash"], o.given["id"]
	if byKey && (byHash || byID) || byHash && byID || !byKey && !byHash && !byID {
		return nil, usagef("give -hash, or -id, or -method with -key")
	}
	if !byKey && (o.given["method"] || o.given["tenant"]) {
		return nil, usagef("-method and -tenant must be used with -key")
	}
	switch {
	case byHash:
		raw, err := hex.DecodeString(o.hash)
		if err != nil || len(raw) != 8 {
			return nil, usagef("-hash must have 16 hexadecimal digits, like hopbound.idempotency.key_hash")
		}
		hash := hex.EncodeToString(raw)
		return &query{hash: hash, notFound: "no record has the key hash " + hash + ": no call with the key has reached the store, or its record has expired or was deleted"}, nil
	case byID:
		raw, err := base64.RawURLEncoding.DecodeString(o.id)
		if err != nil || len(raw) != len(idempotency.ID{}) {
			return nil, usagef("-id must have 43 characters; find and list print IDs")
		}
		return &query{id: idempotency.ID(raw), notFound: "no record has this ID: it has expired or was deleted"}, nil
	}
	key, err := idempotency.ParseKey(o.key)
	if err != nil {
		return nil, usagef("-key: %v", err)
	}
	if parts := strings.Split(o.method, "/"); len(parts) != 3 || parts[0] != "" || parts[1] == "" || parts[2] == "" {
		return nil, usagef("-method must be a full method, such as /shop.v1.Orders/Place")
	}
	return &query{
		id: idempotency.NewID(o.tenant, o.method, key),
		notFound: "no record of this tenant, method and key: no such call has reached the store, or its record has expired or was deleted." +
			" To search for the key in all tenants and methods, use find -hash " + key.Hash(),
	}, nil
}

// find returns the records with their outcomes. It returns an error if there is none.
func (q *query) find(ctx context.Context, store idempotency.Inspector) ([]*idempotency.Record, error) {
	ids := map[idempotency.ID]bool{q.id: true}
	if q.hash != "" {
		clear(ids)
		for r, err := range store.Records(ctx) {
			if err != nil && r == nil {
				return nil, explained(err)
			}
			if err == nil && r.KeyHash == q.hash {
				ids[r.ID] = true // Records may return a record twice
			}
		}
	}
	var found []*idempotency.Record
	for id := range ids {
		r, err := store.Find(ctx, id)
		if err != nil {
			return nil, explained(err)
		}
		if r != nil {
			found = append(found, r)
		}
	}
	if len(found) == 0 {
		return nil, errors.New(q.notFound)
	}
	slices.SortFunc(found, func(a, b *idempotency.Record) int { return strings.Compare(a.ID.String(), b.ID.String()) })
	return found, nil
}

// explained adds to an error of a store what to do about it.
func explained(err error) error {
	const undefinedTable = "42P01"
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.Code == undefinedTable:
		return fmt.Errorf("%w; the tables are in another database or schema (-schema), or do not exist (hopbound-keys sql)", err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w; -timeout gives the command more time", err)
	default:
		return err
	}
}
