package pgstore

import (
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// A fatal error may follow a commit, so it does not prove that nothing was
// committed.
func TestFatalErrorIsNoRefusal(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		&pgconn.PgError{SeverityUnlocalized: "ERROR"}:                      true,
		fmt.Errorf("x: %w", &pgconn.PgError{SeverityUnlocalized: "ERROR"}): true,
		&pgconn.PgError{SeverityUnlocalized: "FATAL"}:                      false,
		&pgconn.PgError{SeverityUnlocalized: "PANIC"}:                      false,
		io.ErrUnexpectedEOF: false,
	} {
		if got := isRefusal(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}
