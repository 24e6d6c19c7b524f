package crashtest_test

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/boltstore"
	crashtestv1 "github.com/hopbound/hopbound/idempotency/crashtest/proto/hopbound/crashtest/v1"
	"github.com/hopbound/hopbound/idempotency/pgstore"
	"github.com/hopbound/hopbound/idempotency/redisstore"
	"github.com/hopbound/hopbound/idempotency/sqlitestore"
	"github.com/hopbound/hopbound/idempotency/storetest/services"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	_ "modernc.org/sqlite"
)

// stores opens a store of each kind, and a second one that shares its records,
// as in another process. The second is nil for a kind that one process must
// have alone.
var stores = map[string]func(t *testing.T) [2]idempotency.Store{
	"memory": func(*testing.T) [2]idempotency.Store { return [2]idempotency.Store{idempotency.NewMemory()} },
	"bolt": func(t *testing.T) [2]idempotency.Store {
		t.Helper()
		s, err := boltstore.Open(filepath.Join(t.TempDir(), "db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return [2]idempotency.Store{s}
	},
	"redis": func(t *testing.T) (two [2]idempotency.Store) {
		t.Helper()
		server := services.Redis(t)
		for i := range two {
			c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{server.Addr}, DisableCache: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.Close)
			if two[i], err = redisstore.New(c); err != nil {
				t.Fatal(err)
			}
		}
		return two
	},
	"postgres": func(t *testing.T) [2]idempotency.Store { t.Helper(); return openPostgres(t) },
	"postgres with transactions": func(t *testing.T) [2]idempotency.Store {
		t.Helper()
		return openPostgres(t, pgstore.WithTransactions())
	},
	"sqlite": func(t *testing.T) [2]idempotency.Store { t.Helper(); return openSQLite(t) },
	"sqlite with transactions": func(t *testing.T) [2]idempotency.Store {
		t.Helper()
		return openSQLite(t, sqlitestore.WithTransactions())
	},
}

func openSQLite(t *testing.T, opts ...sqlitestore.Option) (two [2]idempotency.Store) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	for i := range two {
		db, err := sql.Open("sqlite", path+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(100)")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		db.SetMaxOpenConns(4) // few, for many callers
		if err := sqlitestore.Migrate(t.Context(), db); err != nil {
			t.Fatal(err)
		}
		s, err := sqlitestore.New(db, opts...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		two[i] = s
	}
	return two
}

func openPostgres(t *testing.T, opts ...pgstore.Option) (two [2]idempotency.Store) {
	t.Helper()
	server := services.Postgres(t)
	for i := range two {
		config, err := pgxpool.ParseConfig(server.URL())
		if err != nil {
			t.Fatal(err)
		}
		config.MaxConns = 4 // few, for many callers
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		if err := pgstore.Migrate(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		s, err := pgstore.New(pool, opts...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		two[i] = s
	}
	return two
}

// payer pays with a function.
type payer struct {
	crashtestv1.UnimplementedBankServiceServer
	pay func(ctx context.Context) (string, error)
}

func (p payer) Pay(ctx context.Context, _ *crashtestv1.PayRequest) (*crashtestv1.PayResponse, error) {
	text, err := p.pay(ctx)
	return &crashtestv1.PayResponse{Payment: text}, err
}

// serve serves payments until the test ends, and returns a client of them, with
// Hopbound if it is to be that of a handler.
func serve(t *testing.T, store idempotency.Store, hop bool, pay func(ctx context.Context) (string, error), before ...grpc.UnaryServerInterceptor) crashtestv1.BankServiceClient {
	t.Helper()
	// A loaded machine may take seconds for a step of the store, and for a renewal.
	server, err := interceptors.NewServer(interceptors.WithIdempotency(store,
		idempotency.StoreTimeout(time.Minute), idempotency.LeaseTime(time.Minute)))
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(append(before, recoverer)...)}, server.ServerOptions()...)...)
	crashtestv1.RegisterBankServiceServer(srv, payer{pay: pay})
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it takes no time
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(l)
	}()
	opts := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry()}
	if hop {
		client, err := interceptors.NewClient()
		if err != nil {
			t.Fatal(err)
		}
		opts = append(opts, client.DialOptions()...)
	}
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		srv.Stop()
		<-served
	})
	return crashtestv1.NewBankServiceClient(conn)
}

// recoverer turns a panic into a failure, which to the caller looks like a crash.
func recoverer(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (_ any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panicked: %v", p)
		}
	}()
	return next(ctx, req)
}

func keyed(ctx context.Context, key string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, idempotency.Header, key)
}

func TestAThousandCallersWithOneKeyAreServedByOneRun(t *testing.T) {
	t.Parallel()
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var runs atomic.Int64
			pay := func(context.Context) (string, error) {
				time.Sleep(50 * time.Millisecond) // so that some come while it runs
				return fmt.Sprint("run ", runs.Add(1)), nil
			}
			var clients []crashtestv1.BankServiceClient
			for _, s := range open(t) {
				if s != nil {
					clients = append(clients, serve(t, s, false, pay))
				}
			}
			ctx, cancel := context.WithTimeout(keyed(t.Context(), "k"), time.Minute)
			defer cancel()
			var wg sync.WaitGroup
			for i := range 1000 {
				wg.Go(func() {
					reply, err := clients[i%len(clients)].Pay(ctx, &crashtestv1.PayRequest{})
					if err != nil || reply.GetPayment() != "run 1" {
						t.Errorf("got %v, %v", reply, err)
					}
				})
			}
			wg.Wait()
			if n := runs.Load(); n != 1 {
				t.Errorf("%d runs", n)
			}
		})
	}
}

// Many callers of a write that fails share its runs: there are two at each server.
func TestManyCallersOfAWriteThatFailsShareItsRuns(t *testing.T) {
	t.Parallel()
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const callers = 200
			var runs, failed, arrived atomic.Int64
			all := make(chan struct{})
			count := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
				if arrived.Add(1) == callers {
					close(all)
				}
				return next(ctx, req)
			}
			pay := func(context.Context) (string, error) {
				runs.Add(1)
				<-all
				time.Sleep(50 * time.Millisecond) // so that the last come to wait
				return "", status.Error(codes.Unavailable, "the bank is down")
			}
			var clients []crashtestv1.BankServiceClient
			for _, s := range open(t) {
				if s != nil {
					clients = append(clients, serve(t, s, false, pay, count))
				}
			}
			ctx, cancel := context.WithTimeout(keyed(t.Context(), "k"), time.Minute)
			defer cancel()
			var wg sync.WaitGroup
			for i := range callers {
				wg.Go(func() {
					if _, err := clients[i%len(clients)].Pay(ctx, &crashtestv1.PayRequest{}); status.Code(err) == codes.Unavailable {
						failed.Add(1)
					} else {
						t.Errorf("got %v", err)
					}
				})
			}
			wg.Wait()
			// A call that arrives after a run has ended is no duplicate of this run.
			if n := runs.Load(); failed.Load() != callers || n > callers/10 {
				t.Errorf("%d runs, and %d callers got the failure; want at most %d, and all", n, failed.Load(), callers/10)
			}
		})
	}
}

// In a chain of three hops with different stores, a parent that crashes and
// runs again does not repeat its downstream writes. It makes these writes at
// the same time, each in a named step.
func TestDownstreamWritesOfAParentThatRunsAgainRunOnce(t *testing.T) {
	t.Parallel()
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var roots, middles, leaves atomic.Int64
			leafStore := open(t)[0]
			leaf := serve(t, leafStore, true, func(context.Context) (string, error) {
				return fmt.Sprint("leaf ", leaves.Add(1)), nil
			})
			middle := serve(t, open(t)[0], true, func(ctx context.Context) (string, error) {
				n := middles.Add(1)
				reply, err := leaf.Pay(ctx, &crashtestv1.PayRequest{})
				if n == 2 {
					panic("crash")
				}
				return reply.GetPayment(), err
			})
			const steps = 4
			root := serve(t, open(t)[0], false, func(ctx context.Context) (string, error) {
				texts, errs := make([]string, steps), make([]error, steps)
				var wg sync.WaitGroup
				for i := range steps {
					wg.Go(func() {
						reply, err := middle.Pay(idempotency.WithStep(ctx, fmt.Sprint("step ", i)), &crashtestv1.PayRequest{})
						texts[i], errs[i] = reply.GetPayment(), err
					})
				}
				wg.Wait()
				if roots.Add(1) == 1 {
					panic("crash")
				}
				return fmt.Sprint(texts), joined(errs)
			})
			var last error
			for range 5 {
				if _, last = root.Pay(keyed(t.Context(), "k"), &crashtestv1.PayRequest{}); last == nil {
					break
				}
			}
			if last != nil {
				t.Fatal(last)
			}
			if n := leaves.Load(); n != steps {
				t.Errorf("the leaf ran %d times, want once for each of %d steps", n, steps)
			}
			if n := middles.Load(); n != steps+1 {
				t.Errorf("the middle ran %d times, want %d and the one that crashed", n, steps)
			}
		})
	}
}

func joined(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
