package main

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/hopbound/hopbound/idempotency/storetest/services"
	"github.com/riverqueue/river"
	"go.opentelemetry.io/otel/propagation"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestJobThatIsTriedTwicePaysOnce(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := run(t.Context(), services.Postgres(t).URL(), &out); err != nil {
		t.Fatal(err)
	}
	const want = "try 1 of the job: charge 1 of rent\ntry 2 of the job: charge 1 of rent\npayments that the bank has made: 1\n"
	if out.String() != want {
		t.Errorf("it prints\n%s\nwant\n%s", out.String(), want)
	}
}

// A worker that is stopped must not cancel its jobs: another worker makes the payments.
func TestJobIsCancelledOnlyIfItsTimeIsOver(t *testing.T) {
	t.Parallel()
	stopped, stop := context.WithCancel(t.Context())
	stop()
	for name, c := range map[string]struct {
		ctx     context.Context
		headers propagation.MapCarrier
		cancels bool
	}{
		"the time is over":      {t.Context(), propagation.MapCarrier{"hop-deadline": "2020-01-01T00:00:00Z"}, true},
		"the worker is stopped": {stopped, propagation.MapCarrier{}, false},
	} {
		w := &worker{}
		err := w.Work(c.ctx, &river.Job[job]{Args: job{Headers: c.headers}})
		cancelled := (*river.JobCancelError)(nil)
		if err == nil || errors.As(err, &cancelled) != c.cancels {
			t.Errorf("%s: error %v, want the job cancelled: %v", name, err, c.cancels)
		}
	}
}
