package shop

import (
	"context"

	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
)

// ledger keeps the books: two entries for each payment, whose sum is zero.
type ledger struct {
	paymentsv1.UnimplementedLedgerServiceServer
	db *database
}

const ledgerSchema = `CREATE TABLE IF NOT EXISTS entries (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, reference text NOT NULL, account text NOT NULL, cents bigint NOT NULL)`

func openLedger(ctx context.Context, c *Config, _ int, _ trace.TracerProvider) (*service, error) {
	d, err := c.open(ctx, Ledger)
	if err != nil {
		return nil, err
	}
	return d.service(func(r grpc.ServiceRegistrar) { paymentsv1.RegisterLedgerServiceServer(r, &ledger{db: d}) }), nil
}

// Book moves money from an account to the shop's. It has no code against duplicates: the entries and the outcome are
// committed together.
func (l *ledger) Book(ctx context.Context, req *paymentsv1.BookRequest) (*paymentsv1.BookResponse, error) {
	return &paymentsv1.BookResponse{}, unavailable(l.db.inTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO entries (reference, account, cents) VALUES ($1, $2, -$3::bigint), ($1, 'shop', $3)`,
			req.GetReference(), req.GetAccount(), req.GetCents())
		return err
	}))
}
