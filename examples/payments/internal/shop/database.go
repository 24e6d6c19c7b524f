package shop

import (
	"context"
	"errors"
	"log/slog"

	"github.com/hopbound/hopbound/idempotency/pgstore"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// URL returns the connection string of a role's database.
func (c *Config) URL(role string) string {
	return "postgres://postgres@" + c.Postgres + "/" + c.Prefix + role + "?sslmode=disable"
}

func (c *Config) admin(ctx context.Context) (*pgx.Conn, error) {
	return pgx.Connect(ctx, "postgres://postgres@"+c.Postgres+"/postgres?sslmode=disable")
}

// database is a service's database, with the outcomes of its calls.
type database struct {
	pool  *pgxpool.Pool
	store *pgstore.Store
}

// Migrate creates the databases and tables of all services.
func Migrate(ctx context.Context, c *Config) error {
	server, err := c.admin(ctx)
	if err != nil {
		return err
	}
	defer server.Close(ctx)
	for role, schema := range map[string]string{Orders: ordersSchema, Payments: paymentsSchema, Ledger: ledgerSchema} {
		if _, err := server.Exec(ctx, "CREATE DATABASE "+c.Prefix+role); err != nil {
			return err
		}
		pool, err := pgxpool.New(ctx, c.URL(role))
		if err != nil {
			return err
		}
		_, err = pool.Exec(ctx, schema)
		err = errors.Join(err, pgstore.Migrate(ctx, pool))
		if role == Orders {
			err = errors.Join(err, migrateQueue(ctx, pool))
		}
		pool.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// Drop drops the databases of all services.
func Drop(ctx context.Context, c *Config) error {
	server, err := c.admin(ctx)
	if err != nil {
		return err
	}
	defer server.Close(ctx)
	var errs []error
	for _, role := range []string{Orders, Payments, Ledger} {
		_, err := server.Exec(ctx, "DROP DATABASE IF EXISTS "+c.Prefix+role+" WITH (FORCE)")
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// open opens a service's database.
func (c *Config) open(ctx context.Context, role string) (*database, error) {
	settings, err := pgxpool.ParseConfig(c.URL(role))
	if err != nil {
		return nil, err
	}
	settings.MaxConns = 20
	pool, err := pgxpool.NewWithConfig(ctx, settings)
	if err != nil {
		return nil, err
	}
	store, err := pgstore.New(pool, pgstore.WithTransactions())
	if err != nil {
		pool.Close()
		return nil, err
	}
	return &database{pool, store}, nil
}

func (d *database) service(register func(r grpc.ServiceRegistrar)) *service {
	return &service{register: register, store: d.store, check: d.pool.Ping, close: d.close}
}

func (d *database) close() {
	d.store.Close()
	d.pool.Close()
}

// inTx runs f in the transaction of the request, or in one of its own if the server stores no outcomes.
func (d *database) inTx(ctx context.Context, f func(tx pgx.Tx) error) error {
	if tx, ok := pgstore.Tx(ctx); ok {
		return f(tx)
	}
	return pgx.BeginFunc(ctx, d.pool, f)
}

// unavailable returns the error of a call that the database has failed. The database's message is
// logged, and is not sent to callers.
func unavailable(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	slog.Warn("the database has failed", "err", err)
	return status.Error(codes.Unavailable, "the database has failed")
}
