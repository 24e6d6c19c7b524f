package deadline_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/deadline"
)

func TestWaitingEndsWithTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if !deadline.Waiting(ctx) || !deadline.Waiting(context.Background()) {
			t.Error("nobody waits at the start")
		}
		time.Sleep(time.Second)
		if deadline.Waiting(ctx) {
			t.Error("somebody waits after the deadline")
		}
		cancel()
		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		if deadline.Waiting(ctx) {
			t.Error("somebody waits after the cancellation")
		}
	})
}
