package interceptors_test

import (
	"context"
	"testing"

	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestFailedCallIsRepeatedUntilItSucceeds(t *testing.T) {
	t.Parallel()
	leaf := &counter{fail: failing(2)}
	do := idempotent(serve(t, leaf.handle).dial(newClient(t, quick()).DialOptions()...))
	if err := do(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := leaf.calls.Load(); n != 3 {
		t.Errorf("%d calls, want 3", n)
	}
}

func TestChainOfFailuresIsRepeatedOnlyNextToTheFailure(t *testing.T) {
	t.Parallel()
	leaf := &counter{fail: always(errUnavailable)}
	node := serve(t, leaf.handle, newServer(t).ServerOptions()...)
	for range 4 {
		node = hop(t, node)
	}
	client := newClient(t, quick())
	do := idempotent(node.dial(client.DialOptions()...))
	err := do(context.Background())
	if status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "the leaf is down" {
		t.Errorf("got %v, want the leaf's own error", err)
	}
	if n := leaf.calls.Load(); n != 3 {
		t.Errorf("%d calls of the leaf, want 3", n)
	}
	_ = interceptors.Enforce
}
