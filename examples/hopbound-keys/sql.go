package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/hopbound/hopbound/idempotency/pgstore"
)

// writeSQL prints the migrations of pgstore, each in a transaction, and the grants for a role.
func writeSQL(_ context.Context, o *options) error {
	if o.down && o.given["role"] {
		return usagef("-role cannot be used with -down")
	}
	if o.given["role"] && o.role == "" {
		return usagef("-role must not be empty")
	}
	var opts []pgstore.Option
	if o.given["schema"] {
		opts = append(opts, pgstore.WithSchema(o.schema))
	}
	steps, err := pgstore.Migrations(opts...)
	if err != nil {
		return asUsage(err)
	}
	if o.down {
		slices.Reverse(steps)
	}
	for _, m := range steps {
		text := m.Up
		if o.down {
			text = m.Down
		}
		fmt.Fprintf(o.stdout, "-- %s\nBEGIN;\n%sCOMMIT;\n", m.Name, text)
	}
	if o.given["role"] {
		grants, err := pgstore.Grants(o.role, opts...)
		if err != nil {
			return asUsage(err)
		}
		fmt.Fprintf(o.stdout, "-- Grants for the role\n%s", grants)
	}
	return nil
}
