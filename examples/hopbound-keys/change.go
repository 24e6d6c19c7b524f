package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/user"
	"strings"
	"time"

	"github.com/hopbound/hopbound/examples/internal/tree"
	"github.com/hopbound/hopbound/idempotency"
)

// release releases a pending record.
func release(ctx context.Context, o *options) error {
	return o.change(ctx, func(store idempotency.Inspector, r *idempotency.Record) error {
		if r.State != idempotency.Pending {
			return fmt.Errorf("the record is %s; only a pending record can be released. Nothing was changed", r.State)
		}
		return o.logged("release", r, store.Free(ctx, r))
	})
}

// remove deletes a record.
func remove(ctx context.Context, o *options) error {
	return o.change(ctx, func(store idempotency.Inspector, r *idempotency.Record) error {
		if r.State == idempotency.Pending && r.Left > 0 && !o.force {
			return fmt.Errorf("the record is pending and its lease expires in %v, so its handler may be running. After a delete, the next call with the key would run the handler again, and the handler would not be told of the first run. Wait for the handler, release the record, or use -force. Nothing was changed",
				r.Left.Round(time.Millisecond))
		}
		return o.logged("delete", r, store.Forget(ctx, r))
	})
}

// change finds the record that the flags name, prints it and calls do with it. There must be only one.
func (o *options) change(ctx context.Context, do func(idempotency.Inspector, *idempotency.Record) error) error {
	switch {
	case strings.TrimSpace(o.reason) == "":
		return usagef("-reason is missing: give the reason, which is logged")
	case o.key != "" && strings.Contains(o.reason, o.key):
		return usagef("-reason must not contain the key, because it is logged")
	}
	return o.lookup(ctx, func(store idempotency.Inspector, found []*idempotency.Record) error {
		if len(found) > 1 {
			return several(found)
		}
		p, err := o.printer()
		if err == nil {
			err = p.print(found[0])
		}
		if err != nil {
			return err
		}
		return do(store, found[0])
	})
}

// several returns the error for more than one record with a key hash.
func several(found []*idempotency.Record) error {
	var b strings.Builder
	for _, r := range found {
		fmt.Fprintf(&b, "\n  -id %s   %s, %s", r.ID, tree.Printable(r.Method), r.State)
	}
	return fmt.Errorf("%d records have the key hash %s; use -id with the ID of one of them. Nothing was changed.%s", len(found), found[0].KeyHash, &b)
}

// logged logs the result of an action on a record, and explains the store's error, if there is one.
func (o *options) logged(action string, r *idempotency.Record, err error) error {
	var handler slog.Handler = slog.NewTextHandler(o.stderr, nil)
	if o.json {
		handler = slog.NewJSONHandler(o.stderr, nil)
	}
	level, result := slog.LevelInfo, "done"
	switch {
	case errors.Is(err, idempotency.ErrLeaseLost):
		level, result = slog.LevelWarn, "refused"
		err = fmt.Errorf("the record has changed since it was printed: it was claimed, completed, released or deleted. Nothing was changed. Use find to see its current state: %w", err)
	case err != nil:
		level, result = slog.LevelError, "unknown"
		err = fmt.Errorf("the store failed, and it is unknown whether the record was changed. Use find to see its current state: %w", explained(err))
	}
	slog.New(handler).Log(context.Background(), level, "an operator changes a record",
		"action", action, "result", result, "id", r.ID.String(), "method", r.Method, "key_hash", r.KeyHash,
		"state", string(r.State), "fence", r.Fence, "owner", r.Owner, "reason", o.reason, "user", osUser())
	return err
}

// osUser returns the name of the user who runs the command.
func osUser() string {
	u, err := user.Current()
	if err != nil {
		return "unknown: " + err.Error()
	}
	return u.Username
}
