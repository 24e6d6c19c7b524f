package shop

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"github.com/riverqueue/river"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// down is a service of payments that does not answer.
type down struct {
	paymentsv1.PaymentsServiceClient
}

func (down) FindPayment(context.Context, *paymentsv1.FindPaymentRequest, ...grpc.CallOption) (*paymentsv1.FindPaymentResponse, error) {
	return nil, status.Error(codes.Unavailable, "down")
}

// A payment that cannot be made is not an attempt, of which there is only a number: it is tried again without an end.
func TestQueuedPaymentIsNeverGivenUp(t *testing.T) {
	t.Parallel()
	w := &payLater{payments: down{}, later: 6 * time.Second}
	var again *river.JobSnoozeError
	if err := w.Work(t.Context(), &river.Job[payLaterArgs]{Args: payLaterArgs{Order: "o"}}); !errors.As(err, &again) || again.Duration != w.later {
		t.Errorf("%v", err)
	}
}

// A process that is killed may leave a last line that is cut.
func TestLastLineThatIsCutIsNotRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "bank.jsonl")
	if all, err := ReadBooks(path); err != nil || len(all) != 0 {
		t.Errorf("%v %v", all, err)
	}
	if err := os.WriteFile(path, []byte(`{"reference":"a","made":true}`+"\n"+`{"reference":"b","ma`), 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := ReadBooks(path); err != nil || len(all) != 1 || all[0].Reference != "a" {
		t.Errorf("%v %v", all, err)
	}
	f, err := openLines(path)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteString(`{"reference":"c"}` + "\n")
	_ = f.Close()
	if all, err := ReadBooks(path); err != nil || len(all) != 2 || all[1].Reference != "c" {
		t.Errorf("%v %v", all, err)
	}
}
