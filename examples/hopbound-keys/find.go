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
	want, err := o.wanted()
	if err != nil {
		return err
	}
	store, done, err := o.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	found, err := want.find(ctx, store)
	if err != nil {
		return err
	}
	p, err := o.printer()
	for _, r := range found {
		if err == nil {
			err = p.print(r)
		}
	}
	return err
}

// list prints the records of a state.
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
		case err == nil && o.lists(r):
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

// lists reports whether the flags of list select a record.
func (o *options) lists(r *idempotency.Record) bool {
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

// wanted names records: by an ID, or by the hash of their key.
type wanted struct {
	id   idempotency.ID
	hash string // empty if the ID is known
	none string // the error if no record is found
}

// wanted reads the flags that name a record.
func (o *options) wanted() (*wanted, error) {
	byKey, byHash, byID := o.given["key"], o.given["hash"], o.given["id"]
	if byKey && (byHash || byID) || byHash && byID || !byKey && !byHash && !byID {
		return nil, usagef("give one of: -method and -key, -hash, or -id")
	}
	if !byKey && (o.given["method"] || o.given["tenant"]) {
		return nil, usagef("-method and -tenant go with -key")
	}
	switch {
	case byHash:
		raw, err := hex.DecodeString(o.hash)
		if err != nil || len(raw) != 8 {
			return nil, usagef("-hash must have 16 hexadecimal digits, as hopbound.idempotency.key_hash has")
		}
		hash := hex.EncodeToString(raw)
		return &wanted{hash: hash, none: "no record has the key hash " + hash + ": no call with the key has reached the store, or its record has expired or was removed"}, nil
	case byID:
		raw, err := base64.RawURLEncoding.DecodeString(o.id)
		if err != nil || len(raw) != len(idempotency.ID{}) {
			return nil, usagef("-id must have 43 characters, as find and list print it")
		}
		return &wanted{id: idempotency.ID(raw), none: "no record has this ID: it has expired or was removed"}, nil
	}
	key, err := idempotency.ParseKey(o.key)
	if err != nil {
		return nil, usagef("-key: %v", err)
	}
	if parts := strings.Split(o.method, "/"); len(parts) != 3 || parts[0] != "" || parts[1] == "" || parts[2] == "" {
		return nil, usagef("-method must be a full method, such as /shop.v1.Orders/Place")
	}
	return &wanted{
		id: idempotency.NewID(o.tenant, o.method, key),
		none: fmt.Sprintf("no record of this tenant, method and key: no call has reached the store, its record has expired or was removed, or the tenant is another; find -hash %s looks for the key with all tenants and methods",
			key.Hash()),
	}, nil
}

// find returns the records, with their outcomes. It returns an error if there is none.
func (w *wanted) find(ctx context.Context, store idempotency.Inspector) ([]*idempotency.Record, error) {
	ids := map[idempotency.ID]bool{w.id: true}
	if w.hash != "" {
		clear(ids)
		for r, err := range store.Records(ctx) {
			if err != nil && r == nil {
				return nil, explained(err)
			}
			if err == nil && r.KeyHash == w.hash {
				ids[r.ID] = true // a record may come twice
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
		return nil, errors.New(w.none)
	}
	slices.SortFunc(found, func(a, b *idempotency.Record) int { return strings.Compare(a.ID.String(), b.ID.String()) })
	return found, nil
}

// explained says what to do about an error of a store.
func explained(err error) error {
	const undefinedTable = "42P01"
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.Code == undefinedTable:
		return fmt.Errorf("%w; the tables are in another database or schema (-schema), or were not made (hopbound-keys sql)", err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w; -timeout gives the command more time", err)
	default:
		return err
	}
}
