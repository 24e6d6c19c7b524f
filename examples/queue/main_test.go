package main

import (
	"strings"
	"testing"

	"github.com/hopbound/hopbound/idempotency/storetest/services"
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
