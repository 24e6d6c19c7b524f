// Command worker is the server that the tests of package crashtest kill. It serves
// payments with a store, notes each payment in a ledger, and kills or stops itself
// at the point that a call asks for.
package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/boltstore"
	crashtestv1 "github.com/hopbound/hopbound/idempotency/crashtest/proto/hopbound/crashtest/v1"
	"github.com/hopbound/hopbound/idempotency/pgstore"
	"github.com/hopbound/hopbound/idempotency/redisstore"
	"github.com/hopbound/hopbound/idempotency/sqlitestore"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/rueidis"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	_ "modernc.org/sqlite"
)

func main() {
	var c config
	flag.StringVar(&c.store, "store", "", "bolt, redis, pg, pgtx, sqlite or sqlitetx")
	flag.StringVar(&c.at, "at", "", "where the store is")
	flag.StringVar(&c.ledger, "ledger", "", "the file that payments are noted in, unless the store has transactions")
	flag.DurationVar(&c.lease, "lease", 0, "of claims")
	flag.Parse()
	log.SetFlags(0)
	if err := c.run(); err != nil {
		log.Fatal(err)
	}
}

type config struct {
	store, at, ledger string
	lease             time.Duration
}

// run serves until it is killed. It prints its address and the time of its clock.
func (c *config) run() error {
	store, err := c.open()
	if err != nil {
		return err
	}
	server, err := interceptors.NewServer(interceptors.WithIdempotency(store,
		idempotency.LeaseTime(c.lease), idempotency.StoreTimeout(time.Second), idempotency.SharedKeys()))
	if err != nil {
		return err
	}
	srv := grpc.NewServer(append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(afterOutcome)}, server.ServerOptions()...)...)
	crashtestv1.RegisterBankServiceServer(srv, &bank{ledger: c.note})
	if err := server.Check(srv); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it takes no time
	if err != nil {
		return err
	}
	fmt.Println(l.Addr(), time.Now().Unix()) //nolint:forbidigo // what it is asked for
	return srv.Serve(l)
}

func (c *config) open() (idempotency.Store, error) {
	switch c.store {
	case "bolt":
		return boltstore.Open(c.at)
	case "redis":
		client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{c.at}, DisableCache: true})
		if err != nil {
			return nil, err
		}
		return redisstore.New(client)
	case "pg", "pgtx":
		pool, err := pgxpool.New(context.Background(), c.at)
		if err != nil {
			return nil, err
		}
		var opts []pgstore.Option
		if c.store == "pgtx" {
			opts = append(opts, pgstore.WithTransactions())
		}
		return pgstore.New(pool, opts...)
	case "sqlite", "sqlitetx":
		db, err := sql.Open("sqlite", c.at)
		if err != nil {
			return nil, err
		}
		var opts []sqlitestore.Option
		if c.store == "sqlitetx" {
			opts = append(opts, sqlitestore.WithTransactions())
		}
		return sqlitestore.New(db, opts...)
	default:
		return nil, fmt.Errorf("no store %q", c.store)
	}
}

// note notes a payment: in the transaction of its call if there is one, else in a
// file.
func (c *config) note(ctx context.Context, account, run string) error {
	if tx, ok := pgstore.Tx(ctx); ok {
		_, err := tx.Exec(ctx, "INSERT INTO ledger (account, run) VALUES ($1, $2)", account, run)
		return err
	}
	if tx, ok := sqlitestore.Tx(ctx); ok {
		_, err := tx.ExecContext(ctx, "INSERT INTO ledger (account, run) VALUES ($1, $2)", account, run)
		return err
	}
	f, err := os.OpenFile(c.ledger, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	told := "first"
	if idempotency.TakenOver(ctx) {
		told = "told"
	}
	_, err = fmt.Fprintln(f, account, run, told)
	return errors.Join(err, f.Close())
}

// The points at which a call may ask the process to kill or stop itself.
const (
	atClaim   = "claim"   // before its effect
	atEffect  = "effect"  // after it, and before its outcome
	atOutcome = "outcome" // after that, and before the reply
	header    = "x-end"
	stop      = "x-stop" // rather than to end
)

// end kills or stops the process, if the call asks for it here.
func end(ctx context.Context, where string) {
	signal := syscall.SIGKILL
	if len(metadata.ValueFromIncomingContext(ctx, stop)) > 0 {
		signal = syscall.SIGSTOP
	}
	if at := metadata.ValueFromIncomingContext(ctx, header); len(at) == 1 && at[0] == where {
		_ = syscall.Kill(os.Getpid(), signal)
		if signal == syscall.SIGKILL {
			select {}
		}
	}
}

// afterOutcome is the interceptor before Hopbound's.
func afterOutcome(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	reply, err := next(ctx, req)
	end(ctx, atOutcome)
	return reply, err
}

// bank pays.
type bank struct {
	crashtestv1.UnimplementedBankServiceServer
	ledger func(ctx context.Context, account, run string) error
}

// Pay notes a payment, and answers with the name of its run.
func (b *bank) Pay(ctx context.Context, req *crashtestv1.PayRequest) (*crashtestv1.PayResponse, error) {
	end(ctx, atClaim)
	run := rand.Text()
	if err := b.ledger(ctx, req.GetAccount(), run); err != nil {
		return nil, err
	}
	end(ctx, atEffect)
	return &crashtestv1.PayResponse{Payment: run}, nil
}
